"""Ingest of a folder of photos as a batch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from profiles import DISPLAY_P3, rgb_profile
from specification import EXAMPLE

from curation_features.errors import InputError, ManifestError, StoreError
from curation_features.ingest.folder import Change, IngestResult, batch_id_of, find_photos, ingest, new_batch_id
from curation_features.manifest import batch_from, read_manifest
from curation_features.photos.copies import Copies
from curation_features.photos.decode import decode
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoFile, PhotoReader
from curation_features.report.text import display_paths
from curation_features.schema import SIGNALS
from curation_features.service import FeaturesService
from curation_features.settings import Settings

ARTIFACT = json.loads(EXAMPLE)["artifacts"][0]
FIELDS, EXIF_FIELDS = [*ARTIFACT], [*ARTIFACT["exif"]]


def write_photo(path: Path, size: tuple[int, int] = (40, 30), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([columns * 255 // size[0], rows * 255 // size[1], (rows + columns) % 256], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SHA-256 of each file whose images are made, in order."""
    files: list[str] = []
    make_copies = Decoder.make_copies

    def counted(decoder: Decoder, file: PhotoFile) -> Copies:
        files.append(file.sha256)
        return make_copies(decoder, file)

    monkeypatch.setattr(Decoder, "make_copies", counted)
    return files


def test_photos_are_found_and_skipped_files_logged(settings: Settings, caplog, monkeypatch) -> None:
    for name in ("b.JPG", "a.png", "x/c.Tiff", ".hidden/d.jpg", "data/rankingInput/e.jpg", "edited.psd", "notes.txt"):
        (settings.root / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.root / name).touch()
    photos = [settings.root / name for name in ("a.png", "b.JPG", "x/c.Tiff")]
    assert find_photos(settings.root, settings) == photos
    for record, name in zip(caplog.records, ("edited.psd", "data", ".hidden"), strict=True):
        assert f"{settings.root}/{name}" in record.getMessage()
    monkeypatch.chdir(settings.root)
    assert find_photos(settings.root) == photos  # the current project's data are skipped


def test_batch_ids_are_times() -> None:
    assert new_batch_id(datetime(2025, 10, 17, 10, 58, 4)) == "batch_20251017_105804"


@pytest.mark.parametrize(
    ("folder", "batch_id"),
    [
        ("my photos", "my-photos"),
        ("Trip_2024.10", "Trip_2024.10"),
        ("\u00c9t\u00e9 in M\u00fcnchen", "Ete-in-Munchen"),
        ("..a...b..", "a.b"),
        ("-_a/b_-", "b"),
        ("x" * 127 + ".y", "x" * 127),
        ("\u65c5\u884c", None),
        ("- -", None),
    ],
)
def test_a_folder_gives_its_batch_a_legal_id(tmp_path: Path, folder: str, batch_id: str | None) -> None:
    (tmp_path / folder).mkdir(parents=True)
    found = batch_id_of([tmp_path / folder])
    assert (
        found == batch_id_of([tmp_path / folder / "a.jpg"]) == batch_from({"batch_id": found, "artifacts": []}).batch_id
    )
    assert found == batch_id_of([tmp_path / folder / "*" / "[ab].jpg"])
    assert found == batch_id if batch_id else re.fullmatch(r"photos-[0-9a-f]{8}", found)


@pytest.mark.long
def test_a_photo_becomes_an_artifact(settings: Settings) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "Camera"
    photo = write_photo(settings.root / "data/input/holiday 1.jpeg", (3000, 1500), exif=exif)
    result = ingest([photo], settings, batch_id="batch_1")

    photo_id = hashlib.sha256(photo.read_bytes()).hexdigest()
    (artifact,) = result.manifest["artifacts"]
    assert list(artifact) == FIELDS
    assert list(artifact["exif"]) == EXIF_FIELDS
    assert artifact["exif"]["camera"] == "Camera"
    focus = artifact["processing_metadata"].pop("focus")
    assert list(focus) == ["version", *(signal.name for signal in SIGNALS if signal.part == "focus")]
    assert 0.3 < focus["focus_px"] <= focus["focus_median_px"]
    assert {name: artifact[name] for name in FIELDS if name != "exif"} == {
        "photo_id": photo_id,
        "original_uri": "./data/input/holiday 1.jpeg",
        "ranking_uri": f"./data/rankingInput/{photo_id}.jpg",
        "std_uri": f"./data/rankingInput/{photo_id}_1024.jpg",
        "format": ".jpg",
        "processing_metadata": {
            "original_size": [1500, 3000],
            "standardized_size": [512, 1024],
            "processing_method": "quality_preserved",
            "color_space": "sRGB",
        },
    }
    assert result.rejected == ()
    for uri, size in ((artifact["ranking_uri"], (1024, 2048)), (artifact["std_uri"], (512, 1024))):
        with Image.open(settings.root / uri) as image:
            assert (image.format, image.size, dict(image.getexif())) == ("JPEG", size, {})


def test_the_manifest_is_what_the_pipeline_reads(settings: Settings) -> None:
    photos = [write_photo(settings.root / name) for name in ("b.png", "a.webp", "c.tif")]
    done: list[int] = []
    result = ingest(photos, settings, batch_id="batch_1", progress=done.append)
    assert result.path == settings.root / "data/batches/batch_1.json"
    text = result.path.read_text("utf-8")
    assert text == json.dumps(result.manifest, indent=2) + "\n"
    batch = read_manifest(result.path)
    assert [artifact["original_uri"] for artifact in result.manifest["artifacts"]] == ["./b.png", "./a.webp", "./c.tif"]
    assert [artifact["format"] for artifact in result.manifest["artifacts"]] == [".png", ".webp", ".tif"]
    for artifact in batch.artifacts:
        decode(PhotoReader(settings).read(artifact.image_uri), DecodeLimits(settings.max_pixels))
    assert done == [1, 1, 1]


@pytest.mark.parametrize(("side", "once"), [(64, True), (1024, True), (1025, False)])
def test_a_small_photo_keeps_its_pixels_and_takes_space_once(settings: Settings, side: int, once: bool) -> None:
    """Its ranking image and its standardised image are one file."""
    photo = write_photo(settings.root / "a.png", (side, 1))
    for _ in range(2):
        (artifact,) = ingest([photo], settings, batch_id="batch_1").manifest["artifacts"]
        ranking, standard = (settings.root / artifact[name] for name in ("ranking_uri", "std_uri"))
        assert (ranking.name, standard.name) == (f"{artifact['photo_id']}.jpg", f"{artifact['photo_id']}_1024.jpg")
        assert ranking.samefile(standard) == once
        assert artifact["processing_metadata"]["standardized_size"] == [min(side, 1024), 1]
        with Image.open(ranking) as large, Image.open(standard) as small, Image.open(photo) as original:
            assert (large.size[0], small.size[0]) == (side, min(side, 1024))
            assert np.abs(np.asarray(large).astype(int) - np.asarray(original)).max() <= 8


@pytest.mark.long
def test_reduced_photos_look_like_an_area_average(settings: Settings, shared_data: Path) -> None:
    source = Path(shared_data / "photos/japanese-shop.jpg")
    (artifact,) = ingest([source], settings, batch_id="batch_1").manifest["artifacts"]
    with Image.open(settings.root / artifact["std_uri"]) as standard, Image.open(source) as original:
        reference = np.asarray(original.resize(standard.size, Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(standard) - reference).mean() < 3
        assert max(standard.size) == 1024


def test_an_unreadable_file_is_reported_and_stays_in_the_batch(settings: Settings) -> None:
    good = write_photo(settings.root / "good.png")
    text, empty, half = (settings.root / name for name in ("text.jpg", "empty.JPG", "half.png"))
    text.write_text("no photo")
    empty.touch()
    half.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    result = ingest([text, good, empty, half], settings, batch_id="batch_1")
    assert [path for path, _ in result.rejected] == [text, empty, half]
    assert [message.partition(":")[0] for _, message in result.rejected] == ["unreadable", "unreadable", "truncated"]
    first, second, third, fourth = result.manifest["artifacts"]
    assert list(first) == ["photo_id", "original_uri", "exif", "format", "ingest_error"]
    assert third["ingest_error"] == {"reason": "unreadable", "message": "'./empty.JPG' is empty; copy it again"}
    assert list(second) == FIELDS
    errors = [artifact["ingest_error"] for artifact in (first, third, fourth)]
    assert [f"{error['reason']}: {error['message']}" for error in errors] == [reason for _, reason in result.rejected]
    assert (first["original_uri"], first["format"], third["format"]) == ("./text.jpg", ".jpg", ".jpg")
    assert first["photo_id"] == hashlib.sha256(b"no photo").hexdigest()
    assert first["exif"]["camera"] == "Unknown"
    assert len({artifact.photo_id for artifact in read_manifest(result.path).artifacts}) == 4


def test_the_same_bytes_twice_share_an_id_and_images(settings: Settings) -> None:
    one = write_photo(settings.root / "a.png")
    two = settings.root / "b.png"
    two.write_bytes(one.read_bytes())
    first, second = ingest([one, two], settings, batch_id="batch_1").manifest["artifacts"]
    assert first["original_uri"] != second["original_uri"]
    assert {**first, "original_uri": None} == {**second, "original_uri": None}


def test_photos_outside_the_root_are_read_but_not_links_out(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, secret = tmp_path_factory.mktemp("camera"), tmp_path_factory.mktemp("secret")
    photo = write_photo(folder / "a.png")
    (folder / "b.png").symlink_to(write_photo(secret / "b.png", (9, 9)))
    result = ingest(find_photos(folder), settings, batch_id="batch_1")
    assert result.manifest["artifacts"][0]["original_uri"] == str(photo)
    assert result.manifest["artifacts"][0]["std_uri"].startswith("./data/rankingInput/")
    [(path, reason)] = result.rejected
    assert path == folder / "b.png"
    assert reason.startswith("forbidden_path: it is a link")


def test_an_unchanged_photo_is_not_decoded_again(settings: Settings, decoded: list[str]) -> None:
    photos = [write_photo(settings.root / name, size) for name, size in (("a.png", (1200, 30)), ("b.png", (20, 30)))]
    first = ingest(photos, settings, batch_id="batch_1")
    assert len(decoded) == 2
    assert ingest(photos, settings, batch_id="batch_1").manifest == first.manifest
    assert ingest(photos, settings, batch_id="batch_1", replace=True).manifest == first.manifest
    assert ingest(photos, settings, batch_id="other").manifest["artifacts"] == first.manifest["artifacts"]
    assert len(decoded) == 2


@pytest.mark.parametrize("uri", ["ranking_uri", "std_uri"])
@pytest.mark.parametrize("damage", [b"", b"damaged", None], ids=["empty", "damaged", "missing"])
def test_a_damaged_image_is_made_again(settings: Settings, decoded: list[str], uri: str, damage: bytes | None) -> None:
    photos = [write_photo(settings.root / "a.png", (1200, 30)), write_photo(settings.root / "b.png", (1201, 30))]
    first = ingest(photos, settings, batch_id="batch_1")
    image = settings.root / first.manifest["artifacts"][1][uri]
    expected = image.read_bytes()
    image.unlink()
    if damage is not None:
        image.write_bytes(damage)
    assert ingest(photos, settings, batch_id="batch_1").manifest == first.manifest
    assert image.read_bytes() == expected
    assert decoded[2:] == [first.manifest["artifacts"][1]["photo_id"]]  # the other photo is not decoded again


def test_images_of_an_earlier_release_are_kept_if_they_serve(settings: Settings) -> None:
    """An archive is not measured again because of an upgrade: only photos whose colours were wrong are."""
    plain = write_photo(settings.root / "a.png", (1200, 30))
    tagged = write_photo(settings.root / "b.png", icc_profile=rgb_profile(DISPLAY_P3))
    first = ingest([plain, tagged], settings, batch_id="batch_1").manifest
    images = [settings.root / artifact["ranking_uri"] for artifact in first["artifacts"]]
    written = [image.read_bytes() for image in images]
    for image in images:
        content = Image.open(image).copy()
        image.unlink()
        content.save(image, quality=80)  # other bytes of the same size
        os.utime(image, (0, 0))
    older = [image.read_bytes() for image in images]
    shutil.rmtree(settings.data_path / "cache/ingest")
    assert ingest([plain, tagged], settings, batch_id="batch_1").manifest == first
    assert [image.read_bytes() for image in images] == [older[0], written[1]]
    assert all(image.stat().st_mtime > 0 for image in images)  # `gc` deletes old files that no manifest names yet


@pytest.mark.parametrize("record", [b"", b"{}", b'{"version": 1}', b'{"version": 0, "images": [], "fields": {}}'])
def test_a_damaged_record_costs_a_decode(settings: Settings, decoded: list[str], record: bytes) -> None:
    photo = write_photo(settings.root / "a.png", (20, 30))
    first = ingest([photo], settings, batch_id="batch_1")
    (path,) = (settings.data_path / "cache/ingest").iterdir()
    path.write_bytes(record)
    assert ingest([photo], settings, batch_id="batch_1").manifest == first.manifest
    assert len(decoded) == 2


def test_file_names_outside_utf8_survive_the_manifest(settings: Settings) -> None:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    photo = settings.root / "caf\udce9.png"
    photo.write_bytes(buffer.getvalue())
    (artifact,) = ingest([photo], settings, batch_id="batch_1").manifest["artifacts"]
    assert artifact["original_uri"].endswith("/caf%E9.png")
    assert PhotoReader(settings).read(artifact["original_uri"]).data == buffer.getvalue()


def test_an_invalid_id_or_unwritable_folder_is_an_error(settings: Settings) -> None:
    photo = write_photo(settings.root / "a.png")
    with pytest.raises(ManifestError, match="batch_id"):
        ingest([photo], settings, batch_id="../escape")
    assert not settings.data_path.exists()
    settings.data_path.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="rankingInput"):
        ingest([photo], settings, batch_id="batch_1")


# Companions -----------------------------------------------------------------------------------------------------------


def companions(result: IngestResult) -> list[Any]:
    return [artifact.get("companions") for artifact in result.manifest["artifacts"]]


def test_companions_are_in_the_artifact_sorted(settings: Settings) -> None:
    photos = [write_photo(settings.root / "my trip" / name) for name in ("IMG_1.jpg", "IMG_2.jpg", "IMG_3.jpg")]
    photos[2].write_bytes(b"no photo")
    plain = ingest(photos, settings, batch_id="batch_1")
    for name in ("IMG_1.xmp", "img_1.mov", "IMG_1.JPG.xmp", "IMG_1.CR3", "IMG_3.dng", "IMG_4.xmp"):
        (settings.root / "my trip" / name).write_bytes(name.encode())
    result = ingest(photos, settings, batch_id="batch_1")
    first, second, third = result.manifest["artifacts"]
    assert first["companions"] == [
        {"kind": "raw", "uri": "./my trip/IMG_1.CR3"},
        {"kind": "sidecar", "uri": "./my trip/IMG_1.JPG.xmp"},
        {"kind": "sidecar", "uri": "./my trip/IMG_1.xmp"},
        {"kind": "video", "uri": "./my trip/img_1.mov"},
    ]
    assert third["companions"] == [{"kind": "raw", "uri": "./my trip/IMG_3.dng"}]
    without = [{**artifact} for artifact in (first, second, third)]
    for artifact in without:
        artifact.pop("companions", None)
    assert without == plain.manifest["artifacts"]
    assert list(second) == FIELDS
    assert read_manifest(result.path).document == result.manifest
    assert result.change == Change(before=3, added=0, gone=0)


def test_companions_have_uris_that_name_their_files(settings: Settings, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("100% caf\udce9")
    for folder in (outside, settings.root):
        photo = write_photo(folder / "a.png")
        (folder / "a.xmp").write_bytes(b"sidecar")
        [[companion]] = companions(ingest([photo], settings, batch_id="batch_1", replace=True))
        reader = PhotoReader(settings.replace(photo_roots=(str(folder),)))
        assert reader.read(companion["uri"]).data == b"sidecar"


def test_companions_survive_to_features_and_table(settings: Settings) -> None:
    photo = write_photo(settings.root / "a.png", (64, 64))
    (settings.root / "a.xmp").touch()
    batch = ingest([photo], settings, batch_id="batch_1").manifest
    degraded = settings.replace(on_missing_weights="degrade")
    [artifact] = FeaturesService(degraded).process(batch)["artifacts"]
    assert artifact["companions"] == batch["artifacts"][0]["companions"] == [{"kind": "sidecar", "uri": "./a.xmp"}]


def test_a_raw_photo_that_gets_a_jpeg_is_not_gone(settings: Settings) -> None:
    raw = write_photo(settings.root / "a.tif").rename(settings.root / "a.dng")
    write_photo(settings.root / "b.png", (9, 9))
    before = ingest([raw, settings.root / "b.png"], settings, batch_id="batch_1")
    assert before.rejected == () or before.rejected[0][0] == raw  # a format that is read, or not
    photo = write_photo(settings.root / "a.jpg", (50, 50))
    result = ingest([photo, settings.root / "b.png"], settings, batch_id="batch_1")
    assert companions(result) == [[{"kind": "raw", "uri": "./a.dng"}], None]
    assert result.change == Change(before=2, added=1, gone=0)
    photo.unlink()
    with pytest.raises(InputError, match=r"1 of them changed or missing here \('./a.jpg'\)"):
        ingest([raw, settings.root / "b.png"], settings, batch_id="batch_1")


# Inputs ---------------------------------------------------------------------------------------------------------------


def test_a_percent_sign_in_a_name_is_a_percent_sign(settings: Settings, shared_data: Path) -> None:
    names = ["S605%14-145315.jpg", "zoom100%0001.jpg"]
    folder = shared_data / "inputs" / "percent-name"
    inside = settings.root / "mine"
    inside.mkdir()
    for name in names:
        (inside / name).write_bytes((folder / name).read_bytes())
    for photos in (folder, inside):
        result = ingest(find_photos(photos, settings), settings, batch_id="names", replace=True)
        assert result.rejected == ()
        uris = [artifact["original_uri"] for artifact in result.manifest["artifacts"]]
        assert [Path(uri).name for uri in uris] == names
        assert display_paths(result.manifest["artifacts"]) == names
        reader = PhotoReader(settings.replace(photo_roots=(str(photos),)))
        for uri in (*uris, *((photos / name).as_uri() for name in names)):
            assert reader.read(uri).data == (folder / "S605%14-145315.jpg").read_bytes()


def test_a_damaged_photo_outside_has_its_true_reason(settings: Settings, shared_data: Path) -> None:
    photos = find_photos(shared_data / "inputs" / "reason-masked", settings)
    batch = ingest(photos, settings, batch_id="cut").manifest
    assert batch["artifacts"][0]["ingest_error"]["reason"] == "truncated"
    [artifact] = FeaturesService(settings.replace(on_missing_weights="degrade")).process(batch)["artifacts"]
    assert [error["reason"] for error in artifact["features"]["errors"]] == ["truncated"]
