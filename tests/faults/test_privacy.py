"""Positions, serial numbers and owners' names stay in the artifact: all other outputs are searched byte by byte.

One project for all tests: photos with private data in every field of their formats, and a manifest with more, go
through `ingest`, `process`, `materialize`, the sensor and failures of each, with all logs at DEBUG.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from projects import Project, listening, project_at

from curation_features import read_pixels
from curation_features.manifest import read_manifest
from curation_features.orchestration import launch
from curation_features.settings import packaged_file
from curation_features.storage.artifacts import ArtifactStore

SECRET = "Kanarie9"  # part of every private text
LATITUDE, LONGITUDE = (47.0, 18.0, 50.97432), (8.0, 32.0, 41.31987)
NUMBERS = ("50.97432", "41.31987", "47.314159", "8.544811", "12.34567891")  # as tags hold them, and in degrees
BATCH = "private"


def secret(name: str) -> str:
    return f"{SECRET}-{name}"


def exif() -> Image.Exif:
    found = Image.Exif()
    base, gps = ExifTags.Base, ExifTags.GPS
    found[base.Make], found[base.Model] = "Fujifilm", "X100"
    for tag in (base.Artist, base.Copyright, base.ImageDescription):
        found[tag] = secret(tag.name)
    for tag in (base.XPAuthor, base.XPComment):
        found[tag] = secret(tag.name).encode("utf-16-le")
    camera = found.get_ifd(ExifTags.IFD.Exif)
    for tag in (base.CameraOwnerName, base.BodySerialNumber, base.LensSerialNumber, base.ImageUniqueID):
        camera[tag] = secret(tag.name)
    camera[base.MakerNote] = b"FUJIFILM" + secret("MakerNote").encode()
    camera[base.UserComment] = b"ASCII\0\0\0" + secret("UserComment").encode()
    place = found.get_ifd(ExifTags.IFD.GPSInfo)
    place[gps.GPSLatitudeRef], place[gps.GPSLatitude] = "N", LATITUDE
    place[gps.GPSLongitudeRef], place[gps.GPSLongitude] = "E", LONGITUDE
    place[gps.GPSAreaInformation] = b"ASCII\0\0\0" + secret("GPSAreaInformation").encode()
    return found


def photo(kind: str, seed: int) -> bytes:
    """A photo with private data in every field of its format."""
    image = Image.fromarray(np.random.default_rng(seed).integers(90, 160, (64, 96, 3), dtype=np.uint8))
    xmp = f"<x:xmpmeta><dc:creator>{secret('creator')}</dc:creator></x:xmpmeta>".encode()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + secret("profile").encode()
    options: dict[str, Any] = {"exif": exif(), "icc_profile": profile}
    if kind == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_text("Author", secret("Author"))
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif kind != "TIFF":
        options["xmp"] = xmp
    if kind == "JPEG":
        options["comment"] = secret("comment").encode()
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with pytest.MonkeyPatch.context() as patch, project_at(tmp_path_factory.mktemp("private")) as found:
        patch.setenv("CURATION_FEATURES_ISOLATE_DECODERS", "false")  # Pillow logs the tags in this process
        write_photos(found)  # before logs are captured: Pillow logs the tags that it writes
        configure_dagster(found)
        images = [Image.open(BytesIO(path.read_bytes())) for path in sorted((found.root / "photos").glob("[0-9]*"))]
        with listening(found):
            for image in images:
                read_pixels(image, found.settings)
            use(found)
        yield found


def write_photos(project: Project) -> None:
    for seed, kind in enumerate(("JPEG", "PNG", "TIFF", "WEBP")):
        path = project.root / "photos" / f"{seed}.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(kind, seed))
    (project.root / "photos" / "torn.jpg").write_bytes(photo("JPEG", 9)[:-300])


def configure_dagster(project: Project) -> None:
    """Let Dagster store the logs of Pillow and this package at DEBUG."""
    home = project.root / "data" / "dagster"
    home.mkdir(parents=True)
    usual = packaged_file("dagster.yaml").read_text()
    changed = usual.replace("python_log_level: INFO", "python_log_level: DEBUG").replace(
        "- curation_features", "- curation_features\n    - PIL"
    )
    assert changed.count("DEBUG") == changed.count("- PIL") == 1
    (home / "dagster.yaml").write_text(changed)


def use(project: Project) -> None:
    """All commands on a batch, and failures of them."""
    path = project.manifest_path(BATCH)
    assert project.command("ingest", str(project.root / "photos"), "--batch-id", BATCH) == 0
    path.write_text(json.dumps(with_more(project.manifest(BATCH))))
    assert project.command("-v", "process", str(path)) == 0
    assert project.command("-v", "materialize", str(path)) == 0
    look_for_manifests(project)
    damage_what_was_made(project)


def with_more(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with private fields at every level; its originals are analysed, with all their tags."""
    manifest |= {"photographer": secret("photographer"), "studio": {"address": [secret("address"), 12.34567891]}}
    for artifact in manifest["artifacts"]:
        artifact.pop("std_uri", None)
        artifact.pop("ranking_uri", None)
        artifact["exif"] |= {"serial": secret("serial"), "owner": {"name": secret("name")}, "path": [12.34567891]}
        artifact["XPAuthor"] = secret("XPAuthor")
        artifact.setdefault("processing_metadata", {})["operator"] = secret("operator")
    return manifest


def look_for_manifests(project: Project) -> None:
    """A tick of the sensor over a valid manifest and invalid ones."""
    manifest = project.manifest(BATCH)
    bad = {
        "number": json.dumps({**manifest, "artifacts": [{**manifest["artifacts"][0], "photo_id": 7}]}),
        "nan": json.dumps({**manifest, "altitude": 0}).replace('"altitude": 0', '"altitude": NaN'),
        "twice": json.dumps(manifest).replace('"photographer"', f'"batch_id": "{SECRET}", "photographer"'),
        "cut": json.dumps(manifest)[:-2] + "]]",
    }
    tick = project.tick({**bad, "good": json.dumps(manifest | {"batch_id": "other"})})
    project.logs.append(repr(tick))
    assert len(tick.run_requests) == 1
    assert len(list((project.root / "data" / "quarantine").glob("*.reason.json"))) == len(bad)


def damage_what_was_made(project: Project) -> None:
    """A run whose artifact differs from the manifest when it is checked."""

    class Forgetful(ArtifactStore):
        def write_features(self, document: Any, *rest: Any) -> Any:
            damaged = json.loads(json.dumps(document))
            damaged["artifacts"][0]["exif"]["owner"]["name"] = secret("another")
            return super().write_features(damaged, *rest)

    definitions = project.definitions(Forgetful(project.settings.data_path))
    with project.instance() as instance:
        result = launch.materialize(read_manifest(project.manifest_path(BATCH)), definitions, instance)
    assert "metadata_unchanged" in str(result.failures)
    project.logs.append(str(result.failures))
    assert project.command("process", str(project.manifest_path(BATCH))) == 0


# Allowed files


@pytest.mark.long
def test_the_artifact_has_every_field(project) -> None:
    folder = project.root / "data" / "features"
    document = json.loads((folder / f"{BATCH}.json").read_bytes())
    table = pq.read_table(folder / f"{BATCH}.parquet").to_pylist()
    kept = [json.loads(row["artifact"]) for row in table]
    for artifact in document["artifacts"]:
        assert artifact.pop("features")["status"] in ("ok", "failed")
    assert document == project.manifest(BATCH)
    assert kept == document["artifacts"]
    assert document["artifacts"][0]["exif"]["gps"] == {"latitude": 47.3141595, "longitude": 8.5448111}


def is_allowed(path: Path) -> bool:
    """Whether a file is the artifact, a manifest or a copy of one, or a photo."""
    manifests = ("data/batches/", "data/manifests/", "data/incoming/", "data/quarantine/")
    name = path.as_posix()
    if name.endswith(".reason.json"):
        return False
    return name.startswith((*manifests, "photos/")) or re.fullmatch(r"data/features/[^/]*\.json", name) is not None


# All other files


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and its unpacked content."""
    data = path.read_bytes()
    if path.parent.name != "features" or path.suffix != ".parquet":
        yield data
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield str(table.schema.metadata).encode()
        for name in table.column_names:
            if (path.parent.name, name) != ("features", "artifact"):
                yield str(table.column(name).to_pylist()).encode()
    if data.startswith(b"SQLite format 3"):
        yield from unpacked(path)
    if path.suffix == ".html":
        yield from pictures(data.decode())


def unpacked(path: Path) -> Iterator[bytes]:
    """The decompressed values of a database, and the pictures in its texts."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, bytes):
                        yield zlib.decompress(value)
                    if isinstance(value, str):
                        yield from pictures(value)


def pictures(text: str) -> Iterator[bytes]:
    """The base64 pictures in a text, with any separator after the type."""
    yield from map(base64.b64decode, re.findall(r"image/(?:jpeg|webp)[^\w/+]+(?:base64,)?([A-Za-z0-9+/=]{100,})", text))


def private_in(data: bytes) -> list[str]:
    """The private texts and numbers in some bytes."""
    codings = [(word, word.encode(coding)) for word in (SECRET, *NUMBERS) for coding in ("utf-8", "utf-16-le")]
    return [word for word, coded in codings if coded in data]


def test_no_other_file_has_private_data(project) -> None:
    searched = 0
    for path in sorted(project.root.rglob("*")):
        name = path.relative_to(project.root)
        if path.is_file() and not is_allowed(name):
            searched += 1
            for part in contents(path):
                assert private_in(part) == [], name
    found = {path.relative_to(project.root).parts[1:3] for path in project.root.rglob("*") if path.is_file()}
    assert {"dagster", "stages", "events", "cache", "rankingInput", "features"} <= {
        parts[0] for parts in found if parts
    }
    assert searched > 25


def test_dagster_has_pictures_and_debug_logs(project) -> None:
    """Otherwise the search of its databases would prove little."""
    parts = [part for path in (project.root / "data" / "dagster").rglob("*.db") for part in unpacked(path)]
    found = [part for part in parts if part.startswith(b"\xff\xd8")]
    assert len(found) >= 4
    for picture in found:
        assert not Image.open(BytesIO(picture)).getexif()
    logs = b"".join(path.read_bytes() for path in (project.root / "data" / "dagster").rglob("*.db"))
    assert b"STREAM b'IHDR'" in logs  # Pillow's own, at DEBUG
    assert b"Features of batch private are finished" in logs


def test_the_contact_sheet_shows_photos_and_cameras(project) -> None:
    """Otherwise the search of it would prove little; it shows originals, which have all tags."""
    page = (project.root / "data" / "features" / f"{BATCH}.html").read_text()
    assert page.count("Fujifilm X100") == 4
    found = list(pictures(page))
    assert len(found) == 4
    for picture in found:
        image = Image.open(BytesIO(picture))
        assert image.size == (96, 64)
        assert not image.getexif()
        assert not {"exif", "xmp", "icc_profile", "comment"} & image.info.keys()


def test_logs_and_terminal_have_no_private_data(project) -> None:
    said = project.terminal.getvalue()
    assert "0.jpeg" in said  # paths of photos are allowed
    assert private_in(said.encode()) == []
    text = "\n".join(project.logs)
    assert "DEBUG:PIL.PngImagePlugin:STREAM" in text
    assert "Quarantined" in text or "quarantined" in text
    assert private_in(text.encode()) == []


def test_the_search_finds_private_data(project, tmp_path) -> None:
    for seed, kind in enumerate(("JPEG", "PNG", "TIFF", "WEBP")):
        assert SECRET in private_in(photo(kind, seed))
    assert {"47.314159", "8.544811"} <= set(private_in(project.manifest_path(BATCH).read_bytes()))
    table = project.root / "data" / "features" / f"{BATCH}.parquet"
    pq.write_table(pq.read_table(table).select(["artifact"]), tmp_path / "moved.parquet")
    assert any(SECRET in private_in(part) for part in contents(tmp_path / "moved.parquet"))
    with closing(sqlite3.connect(tmp_path / "packed.db")) as database:
        database.execute("CREATE TABLE t (body BLOB)")
        database.execute("INSERT INTO t VALUES (?)", (zlib.compress(secret("packed").encode() * 50),))
        database.commit()
    assert any(private_in(part) for part in contents(tmp_path / "packed.db"))
    packed = base64.b64encode(photo("JPEG", 0)).decode()
    (tmp_path / "page.html").write_text(f'["image/webp","{packed}"]')
    assert any(private_in(part) for part in contents(tmp_path / "page.html"))
