"""`docs/tables.md` lists all columns, and its examples agree with the JSON files."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from worlds import World

from curation_features import gather_features, read_features
from curation_features.library import update_groups
from curation_features.service import FeaturesService
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.groups import LIBRARY_COLUMNS
from curation_features.storage.tables import EMBEDDING_COLUMNS, FEATURE_COLUMNS, Columns
from curation_features.testing import FakeClipEngine

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "tables.md").read_text()
LABELS = ("landscape", "portrait", "=food", "night", "animal", "car")
COLOURS = {"landscape": (40, 160, 40), "portrait": (180, 60, 40), "=food": (40, 60, 180)}
Document = dict[str, Any]


class ColourEngine(FakeClipEngine):
    """Embeds an image as the label of its colour, with a small component for its contrast."""

    def encode_images(self, batch: np.ndarray) -> np.ndarray:
        contrasts = [round(float(image.std(axis=(1, 2)).mean()) * 255 / 2) for image in batch]
        means = [image.mean(axis=(1, 2)) * 255 for image in batch]
        nearest = [min(COLOURS, key=lambda name: float(np.abs(COLOURS[name] - mean).sum())) for mean in means]
        vectors = self.encode_texts([f"a photo of {name}" for name in nearest])
        vectors = vectors + 0.4 * self.encode_texts([str(contrast) for contrast in contrasts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Guide:
    """The examples, run over a project of two batches."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents: dict[str, Document] = {
            path.stem: json.loads(path.read_bytes()) for path in sorted((root / "data" / "features").glob("*.json"))
        }
        self.artifacts = [
            {**artifact, "batch_id": name} for name, found in self.documents.items() for artifact in found["artifacts"]
        ]
        self.vectors = {
            (name, row["photo_id"]): row["embedding"]
            for name in self.documents
            for row in pq.read_table(root / "data" / "features" / "embeddings" / f"{name}.parquet").to_pylist()
        }

    def python(self, heading: str) -> dict[str, Any]:
        """The variables of the Python block under a heading."""
        names: dict[str, Any] = {}
        exec(compile(block(heading, "python"), heading, "exec"), names)
        return names

    def sql(self, heading: str) -> list[tuple[Any, ...]]:
        """The rows of the SQL block under a heading."""
        return duckdb.connect().sql(block(heading, "sql")).fetchall()

    def measured(self, stage: str) -> list[Document]:
        """The artifacts with a value of that stage."""
        return [a for a in self.artifacts if not {e["stage"] for e in a["features"]["errors"]} & {stage, "photo"}]


def block(heading: str, language: str) -> str:
    section = DOCUMENT[DOCUMENT.index(f"# {heading}\n") :].split("\n#")[0]
    [found] = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


def photo(world: World, name: str, colour: str, contrast: int, radius: float, **exif: Any) -> Document:
    """A photo in a colour: a chessboard, blurred by a Gaussian; without contrast flat."""
    board = np.kron(np.indices((8, 12)).sum(0) % 2 * 2.0 - 1, np.ones((8, 8))) * contrast
    blurred = cv2.GaussianBlur(board, (0, 0), radius)[..., None]
    artifact = world.photo(name)
    path = world.root / "photos" / name
    Image.fromarray(np.clip(np.full((64, 96, 3), COLOURS[colour]) + blurred, 0, 255).astype(np.uint8)).save(path)
    return {**artifact, "photo_id": f"id of {name}", "exif": {"iso": 64, **exif}}


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Guide:
    world = World(tmp_path_factory.mktemp("project"), clip=ColourEngine(dimension=32, logit_scale=3.0))
    (world.root / "config").mkdir()
    (world.root / "config" / "labels.json").write_text(json.dumps({"labels": LABELS}))
    (world.root / "config" / "templates.json").write_text(json.dumps({"templates": ["a photo of {}"]}))
    days = ("2024:05:01 08:00:00", "2024:05:01 21:00:00", "2024:05:02 00:00:00", "0000:00:00 00:00:00")
    first = [
        photo(world, f"{n}.png", "landscape", 15 + 4 * n, 1.6 - 0.2 * n, datetime=days[n], camera="@X")
        for n in range(4)
    ]
    again = photo(world, "0 again.png", "landscape", 15, 1.5, datetime="2024:05:01 08:00:01")
    flat = photo(world, "-flat.png", "=food", 0, 1, datetime=days[0])
    gone = {"photo_id": "gone", "original_uri": "photos/none.png", "exif": None}
    second = [photo(world, f"p{n}.png", "portrait", 20, 1.1 - 0.2 * n, datetime=days[2]) for n in range(2)]
    late = photo(world, "late.png", "landscape", 35, 0.6, datetime="2024:05:02 23:59:59")
    copies = [{**one, "photo_id": f"{one['photo_id']} again"} for one in (late, first[1])]
    store = ArtifactStore(world.root / "data")
    stages = world.stages()
    for name, artifacts in {"trip": [*first, flat, gone, again, first[0]], "walk": [*second, late, *copies]}.items():
        with store.embeddings(name, "1-x", "fake") as vectors:
            merged = FeaturesService(stages=stages).run(world.batch(artifacts, name), vectors.add)
            store.write_features(merged.document, merged.rows(), merged.version, LABELS, vectors)
    update_groups(world.settings)
    return Guide(world.root)


@pytest.fixture(autouse=True)
def _in_the_project(guide: Guide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(guide.root)


def blur(artifact: Document) -> float | None:
    radius: float | None = artifact["features"]["signals"]["blur_px"]
    return radius


# --- Columns ---


GROUPS = ("Groups over all batches", LIBRARY_COLUMNS)


@pytest.mark.parametrize(
    ("heading", "columns"), [("Columns", FEATURE_COLUMNS), ("Image vectors", EMBEDDING_COLUMNS), GROUPS]
)
def test_every_column_is_documented(heading: str, columns: Columns) -> None:
    section = DOCUMENT[DOCUMENT.index(f"## {heading}\n") :].split("\n#")[0]
    rows = re.findall(r"^(\| `.*) \| .+? \|$", section, re.MULTILINE)
    assert rows == [
        f"| `{name}` | `{column.type}` | {facts.get('unit', '')} | {facts.get('range', '')} | "
        f"{facts.get('direction', '').removesuffix(' is best')}"
        for name, column in columns.items()
        for facts in [column.facts]
    ]


def test_the_columns_that_are_never_null(guide: Guide) -> None:
    never = re.search(r"^(.*)\n(.*) are never null", DOCUMENT, re.MULTILINE)
    assert never is not None
    table = pq.read_table(guide.root / "data" / "features" / "trip.parquet")
    failed = table.to_pylist()[5]
    assert failed["status"] == "failed"
    named = set(re.findall(r"`(\w+)`", never[0]))
    named -= {"errors"} - {name for name in failed if failed[name] is not None}
    assert named >= {name for name, value in failed.items() if value is not None} - {"original_uri"}
    assert all(table.column(name).null_count == 0 for name in named)


def test_the_metadata_of_fields_and_files(guide: Guide) -> None:
    found = guide.python("Columns")
    assert (found["direction"], found["vocabulary"]) == ("0 is best", list(LABELS))


def test_the_first_examples(guide: Guide) -> None:
    best = sorted((a for a in guide.artifacts if blur(a)), key=blur)[:3]
    frame = guide.python("Tables")["best"]
    for rows in ([tuple(row) for row in frame.itertuples(index=False)], guide.sql("Tables")):
        assert [row[:2] for row in rows] == [(a["batch_id"], a["original_uri"]) for a in best]
        assert [row[2] for row in rows] == [blur(a) for a in best]


def test_one_dataset(guide: Guide) -> None:
    found = guide.python("One dataset")
    assert found["gathered"].rows == len(guide.artifacts)
    soft = {(a["original_uri"], blur(a)) for a in guide.artifacts if (blur(a) or 0) > 0.4}
    assert 0 < len(soft) < len(guide.artifacts)
    assert set(found["soft"].itertuples(index=False, name=None)) == soft
    stored = {key: vector for key, vector in guide.vectors.items() if vector is not None}
    keys = zip(found["vectors"]["batch_id"], found["vectors"]["photo_id"], strict=True)
    assert {key: list(vector) for key, vector in zip(keys, found["vectors"]["embedding"], strict=True)} == stored
    uri = {(a["batch_id"], a["photo_id"]): a["original_uri"] for a in guide.artifacts}
    one = stored["trip", "id of 0.png"]
    others = {uri[key]: float(np.dot(one, vector)) for key, vector in stored.items() if uri[key] != "./photos/0.png"}
    rows = guide.sql("One dataset")
    assert len({name for name, _ in rows}) == 3
    assert [cosine for _, cosine in rows] == pytest.approx([others[name] for name, _ in rows], abs=1e-4)
    assert [cosine for _, cosine in rows] == pytest.approx(sorted(others.values(), reverse=True)[:3], abs=1e-4)


def test_a_dataset_with_hugging_face(guide: Guide, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(guide.root / "cache"))
    gather_features("library", embeddings=True, layout="huggingface", without=("artifact",))
    found = guide.python("With Hugging Face")
    assert len(found["photos"]) == len(guide.artifacts)
    assert found["vectors"][0]["embedding"].dtype == np.float32


def test_sharp_photos_tie_by_the_score() -> None:
    """The reason to order by `blur_px`."""
    assert not re.findall(r'(idxmax|nlargest|sort_values)\([^)]*"sharpness"|"sharpness"\]\.idx|BY sharpness', DOCUMENT)
    assert round(math.tanh(20_000 / 2000), 6) == round(math.tanh(25_000 / 2000), 6)


# --- Questions ---


def test_the_sharpest_landscape_of_each_day(guide: Guide) -> None:
    expected: dict[str, tuple[float, str]] = {}
    for artifact in filter(blur, guide.measured("clip_labels")):
        moment = (artifact["exif"] or {}).get("datetime", "0000")
        if artifact["features"]["clip_labels"][0]["label"] == "landscape" and not moment.startswith("0000"):
            day = moment[:10].replace(":", "-")
            radius = (blur(artifact) or math.inf, artifact["original_uri"])
            expected[day] = min(expected.get(day, radius), radius)
    assert len(expected) == 2
    frame = guide.python("The sharpest landscape of each day")["sharpest"]
    days = [f"{moment:%Y-%m-%d}" for moment in frame["taken"]]
    found = guide.sql("The sharpest landscape of each day")
    assert dict(zip(days, frame["original_uri"], strict=True)) == {day: uri for day, (_, uri) in expected.items()}
    assert {str(day): uri for day, uri, _ in found} == {day: uri for day, (_, uri) in expected.items()}
    radii = {day: radius for day, (radius, _) in expected.items()}
    assert dict(zip(days, frame["blur_px"], strict=True)) == radii
    assert {str(day): radius for day, _, radius in found} == radii
    assert [str(row[0]) for row in found] == sorted(expected)


def test_the_photos_that_went_wrong(guide: Guide) -> None:
    wrong = [artifact for artifact in guide.artifacts if artifact["features"]["errors"]]
    wrong.sort(key=lambda a: (a["features"]["status"] != "failed", -len(a["features"]["errors"])))
    expected = [
        (a["original_uri"], "; ".join(f"{e['stage']}: {e['reason']}" for e in a["features"]["errors"])) for a in wrong
    ]
    assert [uri for uri, _ in expected] == ["photos/none.png", "./photos/-flat.png"]
    heading = "The photos that went wrong, worst first, and why"
    frame = guide.python(heading)["wrong"]
    assert list(zip(frame["original_uri"], frame["why"], strict=True)) == expected
    assert [(uri, why) for _, uri, _, why in guide.sql(heading)] == expected


def test_copies_and_bursts(guide: Guide) -> None:
    heading = "Copies and bursts: which to keep, which to reject"
    names = guide.python(heading)
    grouped = [(a["batch_id"], a["original_uri"], a["features"]["group"]) for a in guide.artifacts]
    expected: dict[str, set[tuple[str, str]]] = {"keep": set(), "reject": set()}
    for batch_id, uri, group in grouped:
        if group is not None:
            is_kept = group["kind"] == "set" or (group["rank"] == 1 and group["copy_of"] is None)
            expected["keep" if is_kept else "reject"].add((batch_id, uri))
    for name, rows in expected.items():
        assert rows, name
        assert set(zip(names[name]["batch_id"], names[name]["original_uri"], strict=True)) == rows
    found = pq.read_table(guide.root / "data/groups/groups.parquet").to_pylist()
    worse = [row for row in found if row["group_kind"] != "set" and (row["group_rank"] > 1 or row["group_copy_of"])]
    rows = guide.sql(heading)
    columns = ("group_kind", "path", "group_reason", "group_copy_of_path")
    assert {*rows} == {tuple(row[name] for name in columns) for row in worse}
    assert {(row["batch_id"], row["path"]) for row in found} <= {(batch_id, uri) for batch_id, uri, _ in grouped}
    frame = read_features(columns=["original_uri"], distinct=True)
    copies = {row["photo_id"] for row in found if row["group_copy_of"]}
    assert len(copies) >= 2  # of two batches, and of one
    assert len(frame) == len({a["photo_id"] for a in guide.artifacts}) - len(copies)


def test_label_counts(guide: Guide) -> None:
    expected = Counter((a["batch_id"], a["features"]["clip_labels"][0]["label"]) for a in guide.measured("clip_labels"))
    assert {batch_id for batch_id, _ in expected} == {"trip", "walk"}
    heading = "How many photos of each batch have each label"
    counts = guide.python(heading)["counts"]
    assert {key: number for key, number in counts.stack().items() if number} == expected
    assert {(batch_id, label): number for batch_id, label, number in guide.sql(heading)} == expected


def test_shares_of_confident_photos(guide: Guide) -> None:
    values = [a["features"]["clip_labels"][0]["confidence"] for a in guide.measured("clip_labels")]
    expected = {limit: sum(value >= limit for value in values) / len(values) for limit in (0.3, 0.5, 0.7, 0.9)}
    heading = "Which share of the photos is confident enough"
    assert guide.python(heading)["shares"] == pytest.approx(expected)
    assert {float(limit): share for limit, share in guide.sql(heading)} == pytest.approx(expected)
    assert len(set(expected.values())) > 1


def test_a_spreadsheet_gets_no_formula(guide: Guide) -> None:
    frame = guide.python("A list for a spreadsheet")["photos"]
    with (guide.root / "photos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["camera"] for row in rows} == {"'@X", ""}
    assert {row["label"] for row in rows} == {"'=food", "landscape", "portrait", ""}
    assert len(rows) == len(frame) == len(guide.artifacts)
    assert [row["original_uri"] for row in rows] == [artifact["original_uri"] for artifact in guide.artifacts]
    assert pd.read_csv(guide.root / "photos.csv")["sharpness"].notna().sum() == len(guide.measured("sharpness"))


def test_every_example_is_run() -> None:
    tested = Path(__file__).read_text()
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", DOCUMENT, flags=re.DOTALL), re.MULTILINE)
    for heading in headings:
        section = DOCUMENT[DOCUMENT.index(f"# {heading}\n") :].split("\n#")[0]
        assert "```" not in section or f'"{heading}"' in tested, heading
