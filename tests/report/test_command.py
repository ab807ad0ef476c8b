"""The contact sheet on the command line: written by runs, and by `report`."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import Project, project_at

from curation_features.cli.reports import FIELDS


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project with the manifest of a batch of three photos."""
    with project_at(tmp_path) as found:
        (tmp_path / "photos").mkdir()
        for seed in range(3):
            pixels = np.random.default_rng(seed).integers(90, 160, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{seed} [bold].png")
        assert found.command("ingest", str(tmp_path / "photos"), "--batch-id", "trip") == 0
        yield found


def features(project: Project) -> Path:
    return project.settings.data_path / "features"


def said(project: Project) -> str:
    """The output since the last call."""
    text = project.terminal.getvalue()
    project.terminal.seek(0)
    project.terminal.truncate()
    return text


@pytest.mark.long
def test_process_materialize_and_report_make_the_same_page(project) -> None:
    page, manifest = features(project) / "trip.html", str(project.manifest_path("trip"))
    pages = []
    for command in (["process", manifest], ["materialize", manifest], ["report", "trip"]):
        assert project.command(*command) == 0
        assert str(page) in said(project).splitlines()
        pages.append(page.read_bytes())
        page.unlink()
    assert pages[0] == pages[1] == pages[2]
    assert b"0 [bold].png" in pages[0]


def test_the_page_is_written_before_the_announcement(project, monkeypatch) -> None:
    from curation_features.events.outbox import Outbox

    there = []
    monkeypatch.setattr(Outbox, "publish", lambda *_: there.append((features(project) / "trip.html").exists()))
    assert project.command("process", str(project.manifest_path("trip"))) == 0
    assert there == [True]


def test_a_setting_turns_pages_off(project, monkeypatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_CONTACT_SHEET", "false")
    assert project.command("process", str(project.manifest_path("trip"))) == 0
    assert ".html" not in said(project)
    assert not (features(project) / "trip.html").exists()
    assert project.command("report", "trip") == 0
    assert (features(project) / "trip.html").exists()


def test_a_failing_page_does_not_fail_the_run(project) -> None:
    (features(project) / "trip.html").mkdir(parents=True)
    assert project.command("process", str(project.manifest_path("trip"))) == 0
    document = json.loads((features(project) / "trip.json").read_bytes())
    assert [artifact["features"]["status"] for artifact in document["artifacts"]] == ["ok"] * 3
    assert len(list((project.settings.data_path / "events" / "features.completed").iterdir())) == 1


def test_a_run_to_another_file_makes_no_page(project) -> None:
    output = project.root / "out.json"
    assert project.command("process", str(project.manifest_path("trip")), "--output", str(output)) == 0
    assert list(project.root.rglob("*.html")) == []


def test_report_replaces_the_page(project) -> None:
    project.command("process", str(project.manifest_path("trip")))
    page = features(project) / "trip.html"
    whole = page.read_bytes()
    page.write_bytes(b"older" + whole[5:])
    assert project.command("report", "trip") == 0
    assert page.read_bytes() == whole


def test_json_has_the_fields_of_the_help(project) -> None:
    project.command("process", str(project.manifest_path("trip")))
    said(project)
    assert project.command("report", "trip", "--json") == 0
    fields = json.loads(said(project))
    assert fields == {"batch_id": "trip", "artifacts": 3, "files": {"page": str(features(project) / "trip.html")}}
    assert fields.keys() == FIELDS.keys()


def test_report_writes_to_another_file(project) -> None:
    project.command("process", str(project.manifest_path("trip")))
    (features(project) / "trip.html").unlink()
    output = project.root / "pages" / "mine.html"
    assert project.command("report", "trip", "--output", str(output)) == 2
    assert str(output.parent) in said(project)
    output.parent.mkdir()
    assert project.command("report", "trip", "--output", str(output)) == 0
    assert said(project) == f"{output}\n"
    assert b'"../data/rankingInput/' in output.read_bytes()
    assert not (features(project) / "trip.html").exists()


@pytest.mark.parametrize("found", [True, False])
def test_report_opens_the_page(project, monkeypatch, found) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: opened.append(uri) or found)
    project.command("process", str(project.manifest_path("trip")))
    said(project)
    assert project.command("report", "trip") == 0
    assert opened == []
    assert project.command("report", "trip", "--open") == 0
    assert opened == [(features(project) / "trip.html").as_uri()]
    assert ("no browser" in said(project)) != found


@pytest.mark.parametrize(
    ("batch", "remedy"),
    [
        ("tirp", "did you mean 'trip'?"),
        ("elsewhere", "curation-features process MANIFEST"),
        ("data/batches/trip.json", "did you mean 'trip'?"),
        ("../features/trip", "did you mean 'trip'?"),
        ("\x1b[2J\n", "curation-features process MANIFEST"),
        ("", "curation-features process MANIFEST"),
    ],
)
def test_an_unfinished_batch_is_code_2_with_a_remedy(project, batch, remedy) -> None:
    project.command("process", str(project.manifest_path("trip")))
    said(project)
    assert project.command("report", batch) == 2
    [line] = said(project).splitlines()
    assert "no finished features" in line
    assert remedy in line
    assert "\x1b" not in line


def test_damaged_features_are_code_1(project) -> None:
    project.command("process", str(project.manifest_path("trip")))
    (features(project) / "trip.parquet").write_bytes(b"no table")
    said(project)
    assert project.command("report", "trip") == 1
    assert "trip.parquet: cannot be read" in said(project)
