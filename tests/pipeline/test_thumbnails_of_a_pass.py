"""Thumbnails that a pass makes of the pixels it decodes, for the contact sheet that follows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import KilledError
from pictures import encoded, file_of
from PIL import ExifTags, Image
from profiles import DISPLAY_P3, rgb_profile
from skimage import data as bundled

from curation_features.build import build_assets
from curation_features.manifest import Batch
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.thumbnail import PREVIEW, make_thumbnail
from curation_features.schema import ASSETS
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore

CAT = Image.fromarray(bundled.chelsea())  # 451 x 300
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6

FILES = {
    "plain.jpg": encoded(CAT.resize((1024, 681)), "JPEG", quality=90),
    "turned.jpg": encoded(CAT, "JPEG", exif=TURNED),
    "p3.jpg": encoded(CAT, "JPEG", icc_profile=rgb_profile(DISPLAY_P3)),
    "cmyk.jpg": encoded(CAT.convert("CMYK"), "JPEG"),
    "gray.png": encoded(CAT.convert("L"), "PNG"),
    "small.webp": encoded(CAT.resize((40, 30)), "WEBP"),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the digests of photos that are decoded for a thumbnail alone."""
    digests: list[str] = []
    make = Decoder.make_thumbnail
    monkeypatch.setattr(
        Decoder, "make_thumbnail", lambda self, file, kind: digests.append(file.sha256) or make(self, file, kind)
    )
    return digests


def batch_of(world: Any, files: dict[str, bytes] = FILES) -> Batch:
    (world.root / "photos").mkdir(exist_ok=True)
    for name, data in files.items():
        (world.root / "photos" / name).write_bytes(data)
    return world.batch([{"photo_id": name, "original_uri": f"photos/{name}"} for name in files])


def finish(world: Any, batch: Batch, settings: Settings | None = None) -> list[bytes]:
    """Build all assets of a batch, and return the pictures on its page, in order."""
    stages = world.stages(settings)
    store = ArtifactStore(stages.settings.data_path)
    store.put_manifest(batch)
    *_, result = build_assets(batch, ASSETS, stages, store)
    page = result.finished.sheet.read_text()
    found = re.findall(r'<script type="application/json" id="t(\d+)">(.*?)</script>', page)
    assert [int(number) for number, _ in found] == list(range(len(found)))
    return [base64.b64decode(json.loads(text)[1]) for _, text in found]


def kept(settings: Settings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (settings.data_path / "cache" / "thumbnails").iterdir()}


@pytest.mark.long
@pytest.mark.parametrize("isolated", [True, False])
def test_a_sheet_after_a_pass_decodes_nothing(world, made, isolated) -> None:
    settings = world.settings.replace(isolate_decoders=isolated)
    pictures = finish(world, batch_of(world), settings)
    expected = [make_thumbnail(file_of(data), PREVIEW, DecodeLimits(settings.max_pixels)) for data in FILES.values()]
    assert pictures == expected  # the same bytes as from the files
    digests = [hashlib.sha256(data).hexdigest() for data in FILES.values()]
    assert kept(settings) == {f"{digest}-256.jpeg": data for digest, data in zip(digests, pictures, strict=True)}
    assert sorted(world.decoded) == sorted(digests)
    assert made == []


@pytest.mark.long
def test_colours_and_direction_are_those_of_the_photo(world) -> None:
    pictures = finish(world, batch_of(world))
    shown = dict(zip(FILES, (Image.open(BytesIO(data)) for data in pictures), strict=True))
    assert shown["turned.jpg"].size == (170, 256)
    wanted = {
        "plain.jpg": CAT,
        "turned.jpg": CAT.transpose(Image.Transpose.ROTATE_270),
        "cmyk.jpg": CAT.convert("CMYK").convert("RGB"),
        "gray.png": CAT.convert("L").convert("RGB"),
        "small.webp": CAT.resize((40, 30)),
    }
    for name, expected in wanted.items():
        pixels = np.asarray(expected.resize(shown[name].size, Image.Resampling.BOX), dtype=float)
        assert np.abs(np.asarray(shown[name], dtype=float) - pixels).mean() < 8, name
    saturation = {name: np.ptp(np.asarray(shown[name], dtype=float), axis=2).mean() for name in ("p3.jpg", "plain.jpg")}
    assert saturation["p3.jpg"] > 1.05 * saturation["plain.jpg"]  # the same numbers are more saturated in P3


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_cached_photos_get_theirs_at_the_sheet(world, made, state) -> None:
    batch = batch_of(world, {"plain.jpg": FILES["plain.jpg"]})
    before = finish(world, batch)
    (path,) = (world.settings.data_path / "cache" / "thumbnails").iterdir()
    path.unlink() if state == "missing" else path.write_bytes(before[0][:-9])
    (world.settings.data_path / "features" / "batch_1.html").unlink()
    assert finish(world, batch) == before == [path.read_bytes()]
    assert len(made) == len(world.decoded) == 1


def test_a_folder_that_cannot_be_written_costs_no_photo(world, made, caplog) -> None:
    (world.settings.data_path / "cache").mkdir(parents=True)
    (world.settings.data_path / "cache" / "thumbnails").write_bytes(b"")  # a full disk, or a read-only folder
    batch = batch_of(world, {"plain.jpg": FILES["plain.jpg"], "gray.png": FILES["gray.png"]})
    assert len(finish(world, batch)) == len(made) == 2
    assert not [line for line in caplog.records if line.levelname != "DEBUG" and "thumbnail" in line.message.lower()]


def test_none_are_made_if_no_sheet_follows(world) -> None:
    batch = batch_of(world, {"plain.jpg": FILES["plain.jpg"]})
    FeaturesService(stages=world.stages()).run(batch)
    stages = world.stages(world.settings.replace(contact_sheet=False, data_dir="other"))
    store = ArtifactStore(stages.settings.data_path)
    store.put_manifest(batch)
    list(build_assets(batch, ASSETS, stages, store))
    assert not any(Path(world.root).rglob("*.jpeg"))
    assert len(world.decoded) == 2


@pytest.mark.long
@pytest.mark.parametrize("removed", ["photo", "batch"])
def test_a_removal_finds_those_of_a_killed_run(library, monkeypatch: pytest.MonkeyPatch, removed) -> None:
    manifest = library.ingest("third", 8, 9)
    folder = library.data / "cache" / "thumbnails"
    before = set(folder.iterdir())

    def killed(store: Any, batch: Any, records: Any, *rest: Any) -> None:
        list(records)  # every photo is measured, and no table written
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(ArtifactStore, "write_stages", killed)
        with pytest.raises(KilledError):
            library.command("process", str(manifest))
    assert len(set(folder.iterdir()) - before) == 2
    given = ["--photo", library.photo_id(8)] if removed == "photo" else ["third"]
    assert library.command("batches", "rm", *given, "--yes") == 0, library.output
    assert len(set(folder.iterdir()) - before) == (1 if removed == "photo" else 0)
