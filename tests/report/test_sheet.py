"""The content of the contact sheet, and when it is written, kept or deleted."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image, ImageFilter
from skimage import data as bundled

from curation_features.errors import MissingWeightsError, StoreError
from curation_features.photos.exif.fields import read_exif
from curation_features.report import sheet as sheets
from curation_features.report import signals
from curation_features.report.sheet import contents, facts, photo_count, refresh, sheet_path, write_sheet
from curation_features.report.text import file_name, one_line
from curation_features.schema import METRIC_NAMES, METRICS, SIGNAL, PhotoRecord
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore, FeatureArtifact
from curation_features.storage.tables import GROUP_COLUMNS
from curation_features.weights import LazyModel

CAT = Image.fromarray(bundled.chelsea())


def finish(world, artifacts, batch_id: str = "batch_1", **models: LazyModel[Any]) -> FeatureArtifact:
    """Process a batch, and write its features like a run."""
    stages = world.stages(world.settings.replace(on_missing_weights="degrade"), **models)
    merged = FeaturesService(stages=stages).run(world.batch(artifacts, batch_id))
    labels = stages.classifier.vocabulary.labels
    return ArtifactStore(world.settings.data_path).write_features(
        merged.document, merged.rows(), merged.version, labels
    )


def shown(features: FeatureArtifact, settings: Settings, folder: Path | None = None) -> dict[str, Any]:
    """The content of the page with all photos, as JSON."""
    sheet = contents(features.table_path, features.digest, settings, folder or features.table_path.parent)
    with closing(sheet["photos"]) as photos:
        whole = {**sheet, "photos": list(photos)}
    return json.loads(json.dumps(whole, allow_nan=False))


def absent(reason: str) -> LazyModel[Any]:
    def locate():
        raise MissingWeightsError(reason)

    return LazyModel(locate, lambda _: None)


# Content


@pytest.mark.long
def test_the_page_has_the_numbers_of_the_features(world) -> None:
    features = finish(world, [world.photo(f"{n}.png", n) for n in range(5)])
    sheet = shown(features, world.settings)
    document = json.loads(features.json_path.read_bytes())
    rows = pq.read_table(features.table_path).to_pylist()
    assert sheet["batch_id"] == "batch_1"
    assert sheet["digest"] == hashlib.sha256(features.json_path.read_bytes()).hexdigest()
    assert sheet["version"] == document["artifacts"][0]["features"]["version"]
    assert len(sheet["labels"]) == 50
    assert [metric["name"] for metric in sheet["metrics"]] == list(METRIC_NAMES)
    assert [metric["best"] for metric in sheet["metrics"]] == [1, 1, 0, 1, 1]
    assert sheet["metrics"][0]["raw"][0].keys() == {"name", "unit", "description", "range", "best"}
    assert [photo["position"] for photo in sheet["photos"]] == list(range(5))
    for photo, artifact, row in zip(sheet["photos"], document["artifacts"], rows, strict=True):
        found = artifact["features"]
        assert photo["id"] == artifact["photo_id"]
        assert photo["scores"] == [found["tech"][name] for name in METRIC_NAMES]
        labels = [[label["label"], label["confidence"], label["cosine_score"]] for label in found["clip_labels"]]
        assert photo["labels"] == labels
        assert photo["margin"] == pytest.approx(labels[0][1] - labels[1][1], abs=2e-6)
        assert photo["raw"] == {raw.name: row[raw.name] for metric in METRICS for raw in metric.raw}
        assert (photo["status"], photo["errors"]) == ("ok", [])
        assert (photo["width"], photo["height"], photo["format"]) == (96, 64, "PNG")


def shot(world, name: str, image: Image.Image) -> dict[str, Any]:
    """The artifact of a saved photo."""
    path = world.root / "photos" / name
    path.parent.mkdir(exist_ok=True)
    image.save(path)
    return {"photo_id": name, "original_uri": f"photos/{name}"}


def test_the_page_has_signals_flags_and_their_reasons(world) -> None:
    copy = shot(world, "cat.png", CAT) | {"std_uri": "photos/copy.png"}
    shot(world, "copy.png", CAT)
    dark_and_blurred = CAT.point(lambda level: level // 6).filter(ImageFilter.GaussianBlur(4))
    features = finish(world, [copy, shot(world, "dim.png", dark_and_blurred), world.photo("tiny.png", size=(64, 48))])
    sheet = shown(features, world.settings)
    good, dim, tiny = sheet["photos"]
    assert sheet["signals"] == list(signals.SHOWN)
    rows = pq.read_table(features.table_path).to_pylist()
    document = json.loads(features.json_path.read_bytes())
    for photo, row, artifact in zip((good, dim), rows, document["artifacts"], strict=False):
        for name, value in zip(sheet["signals"], photo["signals"], strict=True):
            assert value == (None if row[name] is None else pytest.approx(row[name], abs=0.0051))
        for kind in ("flag", "hint"):
            found = [flag for flag in artifact["features"]["flags"] if flag["kind"] == kind]
            assert photo[f"{kind}s"] == [[flag["name"], flag["reason"]] for flag in found]
    assert [name for name, _ in dim["flags"]] == ["blurred", "dark"]
    assert good["flags"] == []
    assert good["focus"] == pytest.approx([rows[0][name] for name in signals.PLACE], abs=0.0006)
    assert good["href"] == "../../photos/copy.png"
    assert (good["original"], dim["original"]) == ("../../photos/cat.png", None)
    assert [tiny[name] for name in ("signals", "flags", "hints", "focus")] == [[], [], [], None]


def test_the_page_has_the_group_of_each_photo(world) -> None:
    one, other = shot(world, "cat.png", CAT), shot(world, "tall.png", CAT.rotate(7).crop((9, 9, 60, 90)))
    twin = {**one, "original_uri": str(world.root / "photos" / "copy of cat.png")}
    shutil.copy(world.root / "photos" / "cat.png", twin["original_uri"])
    features = finish(world, [one, twin, other])
    best, copy, alone = (photo["group"] for photo in shown(features, world.settings)["photos"])
    stored = [item["features"]["group"] for item in json.loads(features.json_path.read_bytes())["artifacts"]]
    assert [best, {**copy, "copy_of_path": "x"}, alone] == [stored[0], {**stored[1], "copy_of_path": "x"}, None]
    assert (best["kind"], best["size"], best["copy_of_path"]) == ("copy", 2, None)
    assert (copy["copy_of"], copy["copy_of_path"]) == (one["photo_id"], "cat.png")  # no folder of the machine


def test_a_table_of_an_earlier_release_makes_a_page(world) -> None:
    features = finish(world, [shot(world, "cat.png", CAT.filter(ImageFilter.GaussianBlur(4)))])
    table = pq.read_table(features.table_path)
    later = [name for name in table.column_names if name in {*SIGNAL, *GROUP_COLUMNS, "flags", "hints", "flag_reasons"}]
    assert len(later) > 20
    pq.write_table(table.drop_columns([*later, "version_signals", "version_groups"]), features.table_path)
    [photo] = shown(features, world.settings)["photos"]
    assert [photo[name] for name in ("signals", "flags", "hints", "focus", "original")] == [[], [], [], None, None]
    assert photo["group"] is None
    assert None not in photo["scores"]
    assert refresh(features, world.settings)


def test_missing_values_are_none(world) -> None:
    (world.root / "photos").mkdir()
    Image.new("RGB", (64, 64), "gray").save(world.root / "photos" / "flat.png")
    artifacts = [{"photo_id": "flat", "original_uri": "photos/flat.png"}, {"photo_id": "no", "original_uri": "no.jpg"}]
    features = finish(world, artifacts, clip=absent("CLIP is not here"))
    flat, failed = shown(features, world.settings)["photos"]
    document = json.loads(features.json_path.read_bytes())
    for photo, artifact in zip((flat, failed), document["artifacts"], strict=True):
        assert photo["status"] == artifact["features"]["status"]
        assert [error[:2] for error in photo["errors"]] == [
            [error["stage"], error["reason"]] for error in artifact["features"]["errors"]
        ]
        assert photo["labels"] == []
        assert photo["margin"] is None
    assert flat["status"] == "degraded"
    undefined = {error[0] for error in flat["errors"]} & set(METRIC_NAMES)
    assert undefined
    for name, score in zip(METRIC_NAMES, flat["scores"], strict=True):
        assert (score is None) == (name in undefined)
    assert flat["thumbnail"]
    assert failed["status"] == "failed"
    assert failed["scores"] == [None] * 5
    assert failed["raw"] == {}
    assert [failed[name] for name in ("width", "height", "format", "href", "thumbnail")] == [None] * 5
    assert failed["errors"][0][:2] == ["photo", "missing"]


def test_a_batch_without_photos_has_a_page(world) -> None:
    features = finish(world, [])
    assert shown(features, world.settings)["photos"] == []
    assert refresh(features, world.settings)
    assert photo_count(features.table_path) == 0


# Names


def name_of(artifact: Mapping[str, Any], image_uri: str = "a.jpg", photo_id: str = "id") -> str:
    return file_name(artifact, PhotoRecord(photo_id, image_uri))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("./photos/cat.jpg", "cat.jpg"),
        ("s3://bucket/a/cat%20one.jpg?signature=SECRET", "cat one.jpg"),
        ("a\x1b[2J\u202e\nb.jpg", "a [2J b.jpg"),
        (f"{'x' * 150}.jpg", f"{'x' * 119}…"),
        ("photos/", "photos"),
        ("\u2028", "id"),
        ("s3://bucket/%0a?x", "id"),
    ],
)
def test_a_photo_is_named_like_its_file(uri, name) -> None:
    assert name_of({"original_uri": uri}) == name


def test_a_photo_has_its_path_within_the_batch(world) -> None:
    for name in ("100CANON/1  a\n.png", "101CANON/1.png"):
        (world.root / "photos" / name).parent.mkdir(parents=True)
        CAT.save(world.root / "photos" / name)
    uris = {"original_uri": "photos/100CANON/1  a\n.png"}, {"std_uri": "./photos/101CANON/1.png"}
    uris += ({"original_uri": "s3://bucket/one.png?token=SECRET"},)
    features = finish(world, [{"photo_id": str(n), **uri} for n, uri in enumerate(uris)])
    photos = shown(features, world.settings)["photos"]
    assert [photo["path"] for photo in photos] == ["100CANON/1  a\n.png", "101CANON/1.png", "one.png"]
    assert str(world.root) not in json.dumps(photos)


def test_a_photo_always_has_a_name() -> None:
    assert name_of({}, "folder/b.jpg") == "b.jpg"
    assert name_of({"original_uri": 7}, "b.jpg") == "7"
    assert name_of({"original_uri": "\x00"}, photo_id="\x00\u2028") == "(no name)"


def test_messages_are_one_line_without_secrets(world) -> None:
    assert one_line("a\nb\x1b\u2028c") == "a b c"
    assert "SECRET" not in one_line("https://x.example/y?token=SECRET: gone")
    features = finish(world, [{"photo_id": "x", "original_uri": "https://x.example/y.jpg?token=SECRET"}])
    [[_, reason, message]] = shown(features, world.settings)["photos"][0]["errors"]
    assert (reason, "SECRET" in message) == ("forbidden_path", False)
    assert message.startswith("'https://x.example/y.jpg?...")


# Facts


def test_the_facts_of_a_camera_have_units(world) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Fujifilm", "X100"
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    camera[ExifTags.Base.LensModel], camera[ExifTags.Base.ISOSpeedRatings] = "23mm f/2", 400
    camera[ExifTags.Base.FNumber], camera[ExifTags.Base.ExposureTime] = 2.8, 1 / 60
    camera[ExifTags.Base.FocalLength], camera[ExifTags.Base.DateTimeOriginal] = 23.0, "2024:12:25 11:25:57"
    buffer = BytesIO()
    CAT.save(buffer, "JPEG", exif=exif)
    artifact = {"exif": read_exif(buffer.getvalue()), "processing_metadata": {"original_size": [4000, 3000]}}
    assert facts(artifact) == [
        ["Taken", "2024-12-25 11:25:57"],
        ["Camera", "Fujifilm X100"],
        ["Lens", "23mm f/2"],
        ["Exposure", "1/60 s, f/2.8, ISO 400, 23mm"],
        ["Original", "4,000 \u00d7 3,000 px"],
    ]


def test_a_photo_has_when_it_was_taken_and_its_iso(world) -> None:
    known = {"datetime": "2024:12:25 11:25:57", "iso": 400}
    odd = {"datetime": "0000:00:00 00:00:00", "iso": "x"}
    artifacts = [world.photo(f"{n}.png", n) | {"exif": exif} for n, exif in enumerate((known, odd))]
    photos = shown(finish(world, artifacts), world.settings)["photos"]
    assert [(photo["taken"], photo["iso"]) for photo in photos] == [("2024-12-25 11:25:57", 400), (None, None)]


def test_plain_numbers_get_their_units() -> None:
    exif = {"shutter_speed": 0.5, "aperture": 4, "iso": "100", "focal_length": 35.0}
    assert facts({"exif": exif}) == [["Exposure", "0.5 s, f/4, ISO 100, 35mm"]]


FIELDS = ("datetime", "camera", "lens", "shutter_speed", "aperture", "iso", "focal_length")
ODD_EXIF = [None, 7, "text", [], {}, [["camera", "x"]], True, {"camera": {"make": "x"}, "iso": [100], "lens": None}]
ODD_VALUES = [float("nan"), float("inf"), -1, 0, 10**400, True, "", " \n", "unknown", {"a": 1}]
ODD_SIZES = [None, 5, [1], [1, 2, 3], ["a", "b"], [1.5, 2], [0, 4], [-3, 4], {"w": 1}, [True, 1]]


@pytest.mark.parametrize(
    "artifact",
    [
        *({"exif": exif} for exif in ODD_EXIF),
        *({"exif": dict.fromkeys(FIELDS, value)} for value in ODD_VALUES),
        *({"processing_metadata": size} for size in ODD_SIZES),
        *({"processing_metadata": {"original_size": size}} for size in ODD_SIZES),
        {},
    ],
)
def test_a_fact_without_a_plausible_value_is_skipped(artifact) -> None:
    assert facts(artifact) == []


def test_facts_are_one_short_line_each() -> None:
    [[_, text]] = facts({"exif": {"camera": "a\x1b[2J\u202e\n" + "b" * 500}})
    assert len(text) == 60
    assert text.isprintable()


def test_no_other_exif_field_is_shown(world) -> None:
    private = {
        "gps": {"latitude": 47.314159, "longitude": 8.544811, "altitude": 431.7},
        **dict.fromkeys(("owner", "artist", "copyright", "serial", "comment", "Lens ", "CAMERA"), "Kanarie9"),
    }
    artifact = world.photo("0.png") | {"exif": {"camera": "X100", **private}, "owner": "Kanarie9"}
    artifact["processing_metadata"] = {"operator": "Kanarie9", "original_size": [96, 64]}
    features = finish(world, [artifact])
    page = refresh(features, world.settings).read_text()
    assert "X100" in page
    for word in ("Kanarie9", "47.314159", "8.544811", "431.7"):
        assert word not in page


# Links


def link(world, artifact: Mapping[str, Any], folder: Path | None = None) -> Any:
    return shown(finish(world, [{"photo_id": "x", **artifact}]), world.settings, folder)["photos"][0]["href"]


def test_a_link_leads_to_the_analysed_photo(world) -> None:
    world.photo("odd name#?%41&'<b>.png")
    world.photo("std.png")
    found = link(world, {"original_uri": "./photos/odd name#?%41&'<b>.png"})
    assert found == "../../photos/odd%20name%23%3F%2541%26%27%3Cb%3E.png"
    assert (world.settings.data_path / "features" / unquote(found)).samefile(
        world.root / "photos" / "odd name#?%41&'<b>.png"
    )
    both = {"original_uri": "photos/odd name#?%41&'<b>.png", "std_uri": (world.root / "photos/std.png").as_uri()}
    assert link(world, both) == "../../photos/std.png"
    (world.root / "photos" / "std.png").unlink()
    assert link(world, both) == found


def test_a_link_is_relative_to_a_page_in_the_project(world) -> None:
    world.photo("0.png")
    assert link(world, {"original_uri": "photos/0.png"}, folder=world.root) == "photos/0.png"
    assert link(world, {"original_uri": "photos/0.png"}, folder=world.root.parent) is None


def test_there_is_no_link_to_other_folders_or_file_types(world) -> None:
    inside, outside = world.root / "photos" / "0.png", world.root.parent / "outside.png"
    world.photo("0.png")
    for path in (outside, world.root / "photos" / "page.html", world.root / "photos" / "drawing.svg"):
        path.write_bytes(inside.read_bytes())
    uris = [
        str(outside), f"file://{outside}", "photos/../../outside.png", "s3://bucket/0.png", f"s3://{inside}", "photos",
        "https://evil.example/0.png", "file://elsewhere/photos/0.png", "photos/absent.png", "photos/page.html",
        "photos/drawing.svg", "javascript:alert(1)//.png", "photos/\x00.png", "photos/" + "x" * 300 + ".png",
    ]  # fmt: skip
    features = finish(world, [{"photo_id": str(n), "original_uri": uri} for n, uri in enumerate(uris)])
    links = {photo["id"]: photo["href"] for photo in shown(features, world.settings)["photos"]}
    assert links == dict.fromkeys(map(str, range(len(uris))))


# Thumbnails


def test_a_photo_has_a_small_picture(world) -> None:
    world.photo("0.png")
    CAT.save(world.root / "photos" / "0.png")
    features = finish(world, [{"photo_id": "x", "original_uri": "photos/0.png"}])
    mime, text, width, height = shown(features, world.settings)["photos"][0]["thumbnail"]
    image = Image.open(BytesIO(base64.b64decode(text)))
    assert mime == "image/jpeg" == f"image/{image.format.lower()}"
    assert image.size == (width, height) == (256, 170)
    expected = np.asarray(CAT.resize(image.size), dtype=float)
    assert np.abs(np.asarray(image.convert("RGB"), dtype=float) - expected).mean() < 8


def test_a_photo_that_changed_has_no_picture(world) -> None:
    features = finish(world, [world.photo(f"{n}.png", n) for n in range(3)])
    CAT.save(world.root / "photos" / "0.png")
    (world.root / "photos" / "1.png").unlink()
    photos = shown(features, world.settings)["photos"]
    assert [photo["thumbnail"] is None for photo in photos] == [True, True, False]
    assert [len(photo["labels"]) for photo in photos] == [5, 5, 5]


def test_photos_are_made_a_little_ahead(world, monkeypatch) -> None:
    made: list[int] = []
    make = sheets._photo
    monkeypatch.setattr(sheets, "_photo", lambda row, **rest: made.append(row["position"]) or make(row, **rest))
    features = finish(world, [world.photo("0.png") | {"photo_id": str(n)} for n in range(40)])
    settings = world.settings.replace(workers=2)
    with closing(contents(features.table_path, "", settings, world.root)["photos"]) as photos:
        for taken in range(1, 20):
            next(photos)
            assert len(made) <= taken + 4
    assert len(made) < 40


# The file


@pytest.fixture
def features(world) -> FeatureArtifact:
    return finish(world, [world.photo(f"{n}.png", n) for n in range(3)])


def files(features: FeatureArtifact) -> set[str]:
    return {path.name for path in features.json_path.parent.iterdir()}


def test_the_page_is_next_to_the_features(world, features) -> None:
    page = refresh(features, world.settings)
    assert page == sheet_path(features.table_path) == world.settings.data_path / "features" / "batch_1.html"
    assert files(features) == {"batch_1.json", "batch_1.parquet", "batch_1.html"}
    assert page.read_bytes().startswith(b"<!doctype html>")


def test_the_same_features_make_the_same_page(world, features) -> None:
    first = refresh(features, world.settings).read_bytes()
    for path in [sheet_path(features.table_path), *(world.settings.data_path / "cache" / "thumbnails").iterdir()]:
        path.unlink()
    assert refresh(features, world.settings.replace(workers=1)).read_bytes() == first
    write_sheet(sheet_path(features.table_path), features.table_path, features.digest, world.settings)
    assert sheet_path(features.table_path).read_bytes() == first


def test_progress_is_reported_by_photo(world, features) -> None:
    counts: list[int] = []
    write_sheet(world.root / "x.html", features.table_path, features.digest, world.settings, counts.append)
    assert counts == [1, 1, 1]


def test_a_page_of_other_features_or_code_is_replaced(world, features, monkeypatch) -> None:
    written, write = [], sheets.write_sheet
    monkeypatch.setattr(sheets, "write_sheet", lambda page, *rest: written.append(page) or write(page, *rest))
    page = refresh(features, world.settings)
    assert refresh(features, world.settings) == page
    assert refresh(finish(world, [world.photo(f"{n}.png", n) for n in range(3)]), world.settings) == page
    assert written == [page]
    first, other = page.read_bytes(), finish(world, [world.photo("0.png", 9)])
    refresh(other, world.settings)
    assert page.read_bytes() != first
    assert len(written) == 2
    monkeypatch.setattr(sheets, "_page_version", lambda: "another")
    refresh(other, world.settings)
    refresh(other, world.settings)
    assert len(written) == 3


def test_the_version_of_the_code_follows_its_files(tmp_path, monkeypatch) -> None:
    for name in ("sheet.py", "page.css"):
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(sheets, "__file__", str(tmp_path / "sheet.py"))
    version = sheets._page_version.__wrapped__
    before = version()
    (tmp_path / "page.pyc").write_text("b")
    assert version() == before
    (tmp_path / "page.css").write_text("b")
    assert version() != before


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: whole[: len(whole) // 2]]
)
def test_a_damaged_page_is_replaced(world, features, damage) -> None:
    page = refresh(features, world.settings)
    whole = page.read_bytes()
    page.write_bytes(damage(whole))
    assert refresh(features, world.settings).read_bytes() == whole


def test_without_the_setting_only_an_up_to_date_page_is_kept(world, features) -> None:
    off = world.settings.replace(contact_sheet=False)
    assert refresh(features, off) is None
    assert files(features) == {"batch_1.json", "batch_1.parquet"}
    page = refresh(features, world.settings)
    assert refresh(features, off) == page
    assert page.exists()
    assert refresh(finish(world, [world.photo("0.png", 9)]), off) is None
    assert files(features) == {"batch_1.json", "batch_1.parquet"}


def test_a_page_that_cannot_be_made_is_a_warning(world, features, monkeypatch, caplog) -> None:
    def broken(sheet):
        yield b"<!doctype html>"
        next(iter(sheet["photos"]))
        raise RuntimeError("no page today")

    refresh(features, world.settings)
    other = finish(world, [world.photo("0.png", 9)])
    monkeypatch.setattr(sheets, "render", broken)
    with caplog.at_level(logging.WARNING):
        assert refresh(other, world.settings) is None
    assert files(features) == {"batch_1.json", "batch_1.parquet"}
    [record] = caplog.records
    assert "batch_1" in record.getMessage()
    assert "no page today" in record.getMessage()


def test_an_interrupted_page_keeps_the_old_one(world, features, monkeypatch) -> None:
    page = world.root / "mine.html"
    page.write_text("old")

    def full(sheet):
        yield b"<!doctype html>"
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(sheets, "render", full)
    with pytest.raises(StoreError, match=r"mine\.html: cannot be written \(No space left on device\)"):
        write_sheet(page, features.table_path, features.digest, world.settings)
    assert page.read_text() == "old"
    assert [path.name for path in world.root.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"no table"),
        lambda path: pq.write_table(pa.table({"x": [1]}), path),
        lambda path: pq.write_table(pq.read_table(path).drop_columns(["status"]), path),
        lambda path: path.write_bytes(path.read_bytes()[:2000] + bytes(2000) + path.read_bytes()[4000:]),
    ],
    ids=["gone", "text", "another", "a column less", "damaged"],
)
def test_an_unreadable_table_is_named(world, features, damage) -> None:
    damage(features.table_path)
    with pytest.raises(StoreError, match=r"batch_1\.parquet: cannot be read"):
        write_sheet(world.root / "x.html", features.table_path, features.digest, world.settings)
    assert not (world.root / "x.html").exists()
