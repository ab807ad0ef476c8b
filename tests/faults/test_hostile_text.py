"""Labels, names, ids and EXIF with HTML, Markdown, formulas, terminal escapes or line breaks.

They go through the command line, the sensor and Dagster. The artifact keeps them unchanged; every display shows them
as plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
from contact_sheets import Elements
from markdown_it import MarkdownIt
from PIL import ExifTags, Image
from projects import Project, listening, project_at

BATCH = "hostile"
HTML = "<img src=x onerror=alert(1)><script>alert(2)</script>"
MARKDOWN = "![x](javascript:alert(3)) [y](http://evil.example) `c` | **b** | www.evil.example"
FORMULA = "=cmd|' /C calc'!A0"
TERMINAL = "\x1b[2J\x1b]8;;http://evil.example\x07\u202egpj.txt\u2066\x9b31m\x00\rz"
LINES = "a\nERROR:curation_features:forged\r\nb\u2028c"
RICH = "[bold red on white][link=http://evil.example]x[/link][/][/nonsense]"
TEXTS = [HTML, MARKDOWN, FORMULA, TERMINAL, LINES, RICH]

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # \n separates lines


def file_names() -> list[str]:
    """Valid file names; a photo with control characters in its name is refused and reported."""
    return [text.replace("/", "\u2215").replace("\x00", "")[:120] + ".png" for text in TEXTS]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_at(tmp_path_factory.mktemp("hostile")) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "160")  # wide enough for whole names
        prepare(found.root)
        with listening(found):
            use(found)
        yield found


def prepare(root: Path) -> None:
    """Photos with hostile names and EXIF, and hostile labels."""
    (root / "photos").mkdir()
    (root / "config").mkdir()
    (root / "config" / "labels.json").write_text(json.dumps({"labels": TEXTS}))
    (root / "config" / "templates.json").write_text(json.dumps({"templates": ["{}"]}))
    for seed, name in enumerate(file_names()):
        exif = Image.Exif()
        exif[ExifTags.Base.Model] = TEXTS[seed]
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = TEXTS[seed]
        pixels = np.random.default_rng(seed).integers(90, 160, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / name, exif=exif)


def use(project: Project) -> None:
    assert project.command("-v", "ingest", str(project.root / "photos"), "--batch-id", BATCH) == 0
    path = project.manifest_path(BATCH)
    manifest = project.manifest(BATCH)
    for artifact, text in zip(manifest["artifacts"], TEXTS, strict=True):
        artifact.update(photo_id=f"../{text}", note=text, exif={**artifact["exif"], text: text})
    path.write_text(json.dumps(manifest))
    assert project.command("-v", "process", str(path)) == 0
    assert project.command("-v", "materialize", str(path)) == 0
    harmless = {"batch_id": "harmless", "artifacts": [{"photo_id": "a", "original_uri": "photos"}]}
    path.with_name("harmless.json").write_text(json.dumps(harmless))
    assert project.command("process", str(path.with_name("harmless.json"))) == 0
    readable = [artifact for artifact in manifest["artifacts"] if not CONTROL.search(artifact["original_uri"])]
    clash = [{**artifact, "photo_id": TERMINAL + LINES} for artifact in readable[:2]]
    path.with_name("clash.json").write_text(json.dumps({"batch_id": "clash", "artifacts": clash}))
    assert project.command("process", str(path.with_name("clash.json"))) == 2
    assert project.command("-v", "materialize", str(path.with_name("clash.json"))) == 1
    assert project.command("process", str(project.root / f"{RICH.replace('/', '')}{TERMINAL[:8]}.json")) == 2
    assert project.command("ingest", str(project.root / TERMINAL.replace("/", "").replace("\x00", ""))) == 2
    names = [text.replace("/", "").replace("\x00", "")[:100] for text in TEXTS]
    bad = {
        name: json.dumps({"batch_id": text, "artifacts": [], text: 1}) for name, text in zip(names, TEXTS, strict=True)
    }
    bad["twice"] = '{"batch_id": "b", %s: 1, %s: 2}' % ((json.dumps(TERMINAL + LINES),) * 2)
    tick = project.tick(bad)
    project.logs.append(tick.skip_message)


def documents(project: Project) -> dict[str, Any]:
    return json.loads((project.settings.data_path / "features" / f"{BATCH}.json").read_bytes())


@pytest.mark.long
def test_the_artifact_keeps_it_unchanged(project) -> None:
    document = documents(project)
    rows = pq.read_table(project.settings.data_path / "features" / f"{BATCH}.parquet").to_pylist()
    features = [artifact.pop("features") for artifact in document["artifacts"]]
    assert document == project.manifest(BATCH)
    assert [row["photo_id"] for row in rows] == [f"../{text}" for text in TEXTS]
    assert [json.loads(row["artifact"]) for row in rows] == document["artifacts"]
    uris = [artifact["original_uri"] for artifact in document["artifacts"]]
    read = [record for record, uri in zip(features, uris, strict=True) if not re.search(r"[\x00-\x1f\x7f-\x9f]", uri)]
    assert len(read) == 4
    assert all(record["status"] == "ok" and record["clip_labels"][0]["label"] in TEXTS for record in read)
    refused = [record for record in features if record not in read]
    assert {record["errors"][0]["reason"] for record in refused} == {"forbidden_path"}


@pytest.mark.long
def test_no_file_is_named_by_it(project) -> None:
    given = {"photos", "config"}
    dropped = project.settings.data_path / "quarantine"  # quarantined files keep their names
    made = [path for path in project.root.rglob("*") if path.relative_to(project.root).parts[0] not in given]
    assert len(made) > 40
    for path in made:
        assert CONTROL.search(path.name) is None
        if path.parent != dropped:
            assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name), path
    assert len(list(dropped.glob("*.reason.json"))) == len(TEXTS) + 1


def test_the_terminal_shows_it_as_plain_text(project) -> None:
    said = project.terminal.getvalue()
    assert not CONTROL.search(said)
    assert not [line for line in said.splitlines() if line.startswith("ERROR:curation_features:forged")]
    rows = [line for line in said.splitlines() if re.search(r"\b(ok +[01]\.|failed +[a-z_]+ *$)", line)]
    assert len(rows) == 2 * len(TEXTS) + 1  # and one harmless batch
    for beginning in ("<img src", "[bold red"):  # rich's markup is not interpreted
        assert len([row for row in rows if row.startswith(beginning)]) == 2


def test_the_log_has_a_line_for_each_record(project) -> None:
    assert any("Features extracted for batch" in text for text in project.logs)
    assert any("Batch clash failed" in text for text in project.logs)
    for text in project.logs:
        first, *trace = text.splitlines()
        assert not CONTROL.search(first)
        assert not trace or trace[0].startswith("Traceback"), text
        assert not [line for line in trace if line.startswith("ERROR")]


# The contact sheet


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in [*value, *(value.values() if isinstance(value, dict) else [])]:
            yield from strings(item)


def test_the_contact_sheet_has_it_only_as_data(project) -> None:
    """Its elements and scripts equal those of a page without hostile text."""
    folder = project.settings.data_path / "features"
    text = (folder / f"{BATCH}.html").read_text()
    page, harmless = (Elements(html).found for html in (text, (folder / "harmless.html").read_text()))
    data = [content for _, more, content in page if more.get("type") == "application/json"]
    elements, expected = ([item[:2] for item in found if "type" not in item[1]] for found in (page, harmless))
    assert elements == expected
    found = {string for block in data for string in strings(json.loads(block))}
    assert set(TEXTS) <= found  # labels, as they are
    assert {f"../{text}" for text in TEXTS} <= found  # ids
    assert any(name.startswith("<img src=x onerror=alert(1)>") and name.endswith(".png") for name in found)
    assert HTML in found  # a lens
    for block in data:
        assert not set("<>&\u2028\u2029") & set(block)
    assert (
        re.findall(r"alert\(\d\)", re.sub(r"<script type=\"application/json\".*?</script>", "", text, flags=re.S)) == []
    )


# Dagster


def shown(project: Project) -> list[tuple[str, Any]]:
    """Every text of every materialisation, check and observation, with its kind of text in Dagster."""
    found: list[tuple[str, Any]] = []
    with project.instance() as instance:
        for run in instance.get_runs():
            for entry in instance.all_logs(run.run_id):
                found.append(("text", entry.user_message))
        records = [
            record
            for key in instance.all_asset_keys()
            for record in [
                *instance.fetch_materializations(key, limit=20).records,
                *instance.fetch_observations(key, limit=20).records,
            ]
        ]
        events = [record.asset_materialization or record.event_log_entry.asset_observation for record in records]
        definitions = project.definitions()
        for check in definitions.resolve_asset_graph().asset_check_keys:
            for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=20):
                event = record.event and record.event.dagster_event
                events.append(event.event_specific_data if event else None)
    for event in events:
        if event is not None and hasattr(event, "metadata"):
            found.append(("text", getattr(event, "description", None) or ""))
            found += [text for value in event.metadata.values() for text in texts(value)]
    return found


def texts(value: dg.MetadataValue) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dg.MarkdownMetadataValue):
        yield "markdown", value.md_str
    elif isinstance(value, dg.TableMetadataValue):
        yield from (("cell", cell) for record in value.records for cell in record.data.values())
    elif isinstance(value, dg.JsonMetadataValue):
        yield "json", value.data
    else:
        yield "text", str(value.value)


@pytest.mark.long
def test_dagster_shows_it_as_plain_text(project) -> None:
    found = shown(project)
    markdown = [text for kind, text in found if kind == "markdown"]
    cells = [text for kind, text in found if kind == "cell" and isinstance(text, str)]
    assert any("onerror" in text for text in cells)  # it is there, as text
    assert any("forbidden" in text for text in cells)
    assert len(markdown) >= 1
    for text in markdown:
        html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
        allowed = {"table", "thead", "tbody", "tr", "th", "td", "strong", "em", "p", "img", "ul", "li"}
        assert set(re.findall(r"<(\w+)", html)) <= allowed
        assert set(re.findall(r'(?:src|href)="([^:"]*):', html)) <= {"data"}
        assert not CONTROL.search(text)
        assert not re.search(r"(https?://|www\.)\w", html)
    for text in [*cells, *(text for kind, text in found if kind == "text")]:
        assert not CONTROL.search(text)
    assert all(len(text.splitlines()) <= 1 for text in cells)


def test_the_quarantine_is_listed_in_one_line_each(project) -> None:
    with project.instance() as instance:
        key = dg.AssetCheckKey(dg.AssetKey("preprocess_batches"), "nothing_quarantined")
        [record] = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    evaluation = record.event.dagster_event.event_specific_data
    assert evaluation.description == f"{len(TEXTS) + 1} quarantined"
    assert len(evaluation.metadata["files"].records) == len(TEXTS) + 1
    for path in (project.settings.data_path / "quarantine").glob("*.reason.json"):
        assert not CONTROL.search(json.loads(path.read_bytes())["reason"])
