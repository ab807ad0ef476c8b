"""Small files that would take long to decode are refused or stopped. Real photos never are."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from pictures import CAT, decoded, encoded, file_of, png, reason_of, refusal, tiff, with_empty_scans
from PIL import ExifTags, Image

from curation_features.photos.exif.fields import read_exif
from curation_features.photos.formats import PILLOW_FORMATS
from curation_features.photos.limits import MAX_EXIF_BYTES, MAX_SCANS, DecodeLimits
from curation_features.photos.thumbnail import ICON, make_thumbnail
from curation_features.service import FeaturesService

# --- scans of a JPEG ------------------------------------------------------------------------------------------------


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    slow = with_empty_scans(20_000, side=3000)  # minutes of work in a file of 0.2 MB
    assert len(slow) < 300_000
    assert reason_of(slow) == "too_large"
    assert make_thumbnail(file_of(slow), ICON, DecodeLimits(10_000_000)) is None


def test_the_scans_of_encoders_are_few() -> None:
    own = encoded(CAT, progressive=True).count(b"\xff\xda")
    assert own == 10
    assert decoded(with_empty_scans(MAX_SCANS - own)).rgb.shape == (64, 64, 3)
    for prefix in (b"", b"\xff\xd8\xff\xd9"):  # scans behind an empty image are counted, too
        assert reason_of(prefix + with_empty_scans(MAX_SCANS)) == "too_large"


def test_only_scans_of_the_photo_itself_count() -> None:
    """A video after a photo or a profile may contain the marker's bytes."""
    several = b"\xff\xda\x00\x08" * 10 * MAX_SCANS
    photo = encoded(CAT, icc_profile=several, comment=several[:60_000], progressive=True)
    assert decoded(photo + several).rgb.shape == (96, 64, 3)


# --- time -----------------------------------------------------------------------------------------------------------


HEADER = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
PIXELS = b"IDAT" + zlib.compress(bytes(72))
ENDLESS = {
    "JPEG of fill bytes": lambda n: b"\xff\xd8" + b"\xff" * n,
    "JPEG of segments": lambda n: b"\xff\xd8" + b"\xff\xe5\0\2" * n,
    "PNG of chunks": lambda n: png(HEADER) + png(b"abcD")[8:] * n + png(PIXELS, b"IEND")[8:],
    "PNG of pixels": lambda n: png(HEADER) + png(b"IDAT")[8:] * n + png(PIXELS, b"IEND")[8:],
    "GIF of extensions": lambda n: b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + b"!\1\0" * n,
    "BMP of empty runs": lambda n: rle_bmp(b"\0\2\0\0" * n),
}


def rle_bmp(body: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(body), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + header + bytes(1024) + body


@pytest.mark.long
@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_parse_is_stopped(kind: str) -> None:
    assert reason_of(ENDLESS[kind](2_000_000), max_seconds=0.2) == "too_slow"


@pytest.mark.long
def test_the_limit_is_a_setting_and_the_photo_fails_alone(world: Any) -> None:
    artifacts = [world.photo("a.png", 1), world.photo("b.jpg", 2), world.photo("c.png", 3)]
    (world.root / "photos" / "b.jpg").write_bytes(ENDLESS["JPEG of segments"](2_000_000))
    stages = world.stages(world.settings.replace(max_decode_seconds=1.0))
    result = FeaturesService(stages=stages).process(world.batch(artifacts).document)
    reasons = [[error["reason"] for error in each["features"]["errors"]] for each in result["artifacts"]]
    assert reasons == [[], ["too_slow"], []]


# --- directories and tiles ------------------------------------------------------------------------------------------

GRAY = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (262, 4, 1, 1), (277, 4, 1, 1)]


@pytest.mark.parametrize("options", [{"order": "<"}, {"order": ">"}, {"big": True}], ids=["<", ">", "BigTIFF"])
@pytest.mark.parametrize("tag", [273, 0x10F])
def test_a_tiff_with_a_million_numbers_in_a_tag_is_refused(tag: int, options: dict[str, Any]) -> None:
    data = tiff([*GRAY, (tag, 4, 1_000_001, 256)], bytes(4_000_004), **options)
    assert reason_of(data) == "too_large"
    assert read_exif(data)["camera"] == "Unknown"


def test_a_bigtiff_with_a_billion_tags_is_refused() -> None:
    assert reason_of(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 10**9) + bytes(100)) == "too_large"


@pytest.mark.parametrize(("scans", "reason"), [(20, None), (3000, "unreadable")])
def test_the_scans_of_a_jpeg_in_a_tiff_are_limited_too(scans: int, reason: str | None) -> None:
    """libtiff has the same limit."""
    jpeg = with_empty_scans(scans, side=1000)
    strip = [(259, 4, 1, 7), (273, 4, 1, 256), (278, 4, 1, 1000), (279, 4, 1, len(jpeg))]
    data = tiff([(256, 4, 1, 1000), (257, 4, 1, 1000), *GRAY[2:], *strip], jpeg)
    if reason is None:
        assert decoded(data).rgb.shape == (1000, 1000, 3)
    else:
        assert reason_of(data) == reason


def test_a_tile_beyond_the_limit_is_refused() -> None:
    """The file of 2 MB unpacks to 1.6 GB."""
    tiles = [(259, 4, 1, 8), (322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 256), (325, 4, 1, 1000)]
    error = refusal(lambda: decoded(tiff([*GRAY, *tiles], bytes(2000))))
    assert (error.reason, "tile" in str(error)) == ("too_large", True)


# --- metadata -------------------------------------------------------------------------------------------------------


def test_exif_beyond_the_limit_is_ignored() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Make"
    usual = exif.tobytes()
    for padding, shape in ((0, (64, 96, 3)), (MAX_EXIF_BYTES, (96, 64, 3))):  # Pillow would load every tag
        data = encoded(CAT, "PNG", exif=usual + bytes(padding))
        assert read_exif(data)["camera"] == "Make"  # each tag is read alone
        assert decoded(data).rgb.shape == shape


@pytest.mark.parametrize("chunk", [b"zTXta\0\0", b"iCCPa\0\0"])
def test_a_text_or_profile_that_unpacks_to_too_much_is_refused(chunk: bytes) -> None:
    data = png(HEADER, chunk + zlib.compress(bytes(50_000_000)), PIXELS, b"IEND")
    assert len(data) < 60_000
    assert reason_of(data) == "too_large"


# --- formats ---


@pytest.mark.parametrize("kind", ["TGA", "PPM", "PCX", "SGI", "ICO", "JPEG2000", "DDS", "SPIDER", "MSP", "EPS", "PDF"])
def test_only_listed_formats_are_tried(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow supports other formats, too; every call of `Image.open` passes the list."""
    asked: list[object] = []
    opens = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, mode="r", formats=None: asked.append(formats) or opens(file, mode, formats)
    )
    data = encoded(CAT.convert({"MSP": "1", "SPIDER": "F"}.get(kind, "RGB")), kind)
    assert reason_of(data) in ("unreadable", "unsupported_format")
    assert read_exif(data)["camera"] == "Unknown"
    assert make_thumbnail(file_of(data), ICON, DecodeLimits(10_000)) is None
    assert len(asked) == 2
    assert set(asked) == {PILLOW_FORMATS}


# --- whole photos ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_no_real_photo_is_near_a_limit(shared_data: Path) -> None:
    for path in sorted((shared_data / "photos").iterdir()):
        if path.suffix != ".txt":
            data = path.read_bytes()
            assert decoded(data, max_seconds=30).rgb.size
            assert data.count(b"\xff\xda") < MAX_SCANS
