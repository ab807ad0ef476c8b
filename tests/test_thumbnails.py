"""Thumbnails: upright, small, of pixels only, and never an error."""

from __future__ import annotations

import hashlib
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.photos import PhotoFile, decode
from curation_features.schema import PhotoInfo, PhotoRecord
from curation_features.settings import Settings
from curation_features.thumbnails import MAX_BYTES, SIDE, Thumbnails, thumbnail

CAT = Image.fromarray(bundled.chelsea())  # 451 x 300, no symmetry
MAX_PIXELS = 20_000_000


def file_of(data: bytes) -> PhotoFile:
    return PhotoFile(data, hashlib.sha256(data).hexdigest())


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes, **limits: int) -> Image.Image:
    small = thumbnail(file_of(data), **{"max_pixels": MAX_PIXELS, **limits})
    assert small is not None
    assert len(small) <= MAX_BYTES
    image = Image.open(BytesIO(small), formats=["JPEG"])
    assert image.mode == "RGB"
    return image


def difference(image: Image.Image, expected: Image.Image) -> float:
    """Mean absolute difference of two images in gray levels, after the second has the size of the first."""
    wanted = np.asarray(expected.convert("RGB").resize(image.size), dtype=float)
    return float(np.abs(np.asarray(image, dtype=float) - wanted).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright(kind, orientation) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(CAT, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    image = shown(data)
    assert image.size == ((72, 48) if expected.width > expected.height else (48, 72))
    assert difference(image, expected) < 6
    assert difference(image.rotate(180), expected) > 20


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_colours_are_those_of_the_photo(mode) -> None:
    image = CAT.convert(mode)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    assert difference(shown(encoded(image, kind)), image.convert("RGB").resize((144, 96), Image.Resampling.BOX)) < 8


def test_transparency_is_white() -> None:
    assert np.asarray(shown(encoded(Image.new("RGBA", (90, 60), (0, 0, 0, 0)), "PNG"))).min() > 250


def test_gray_of_16_bits_is_scaled() -> None:
    gray = Image.fromarray(np.full((60, 90), 128 * 257, dtype=np.uint16))
    assert np.abs(np.asarray(shown(encoded(gray, "PNG"))).astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (1, 1)), ((30, 20), (30, 20)), ((2000, 100), (72, 4)), ((5000, 3), (72, 1)), ((300, 300), (72, 72))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_it_has_72_px_at_most_and_is_never_enlarged(size, expected, kind) -> None:
    assert SIDE == 72
    assert shown(encoded(CAT.resize(size), kind)).size == expected


def test_noise_is_small_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    assert shown(encoded(Image.fromarray(noise), "PNG")).size == (72, 72)
    assert shown(encoded(Image.fromarray(noise), "PNG"), side=200).size == (200, 200)


def test_nothing_but_pixels_is_kept() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Jane Owner"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = "SN-12345"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 12.0, 30.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(CAT, "JPEG", exif=exif, icc_profile=profile, comment=b"Jane Owner", xmp=b"<x>Jane Owner</x>")
    image = shown(data)
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert not image.getexif()
    small = thumbnail(file_of(data), max_pixels=MAX_PIXELS) or b""
    assert not any(word in small for word in (b"Jane", b"SN-1", b"Exif", b"ICC_PROFILE", b"http"))


def test_there_is_one_wherever_the_photo_can_be_decoded_and_none_elsewhere(shared_data) -> None:
    files = [path for path in (shared_data / "corrupt").iterdir() if path.suffix and path.is_file()]
    outcomes = set()
    for path in files:
        file = file_of(path.read_bytes())
        try:
            decode(file, max_pixels=MAX_PIXELS)
            readable = True
        except PhotoError:
            readable = False
        assert (thumbnail(file, max_pixels=MAX_PIXELS) is not None) == readable, path.name
        outcomes.add(readable)
    assert outcomes == {True, False}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_there_is_none_of_a_damaged_or_oversized_photo(kind) -> None:
    whole = encoded(CAT, kind)
    assert thumbnail(file_of(whole), max_pixels=451 * 300) is not None
    assert thumbnail(file_of(whole), max_pixels=451 * 300 - 1) is None
    for data in (b"", b"no image", whole[: len(whole) // 2]):
        assert thumbnail(file_of(data), max_pixels=MAX_PIXELS) is None


def test_a_large_jpeg_is_not_decoded_in_full() -> None:
    file = file_of(encoded(CAT.resize((4000, 3000)), "JPEG"))

    def seconds(action) -> float:
        start = time.perf_counter()
        action(file, max_pixels=MAX_PIXELS)
        return time.perf_counter() - start

    assert min(seconds(thumbnail) for _ in range(3)) < 0.5 * min(seconds(decode) for _ in range(3))


# Records


@pytest.fixture
def record(settings: Settings) -> PhotoRecord:
    data = encoded(CAT, "JPEG")
    (settings.root / "cat.jpg").write_bytes(data)
    return PhotoRecord("cat", "cat.jpg", PhotoInfo(file_of(data).sha256, "JPEG", 451, 300))


def test_a_record_gives_the_thumbnail_of_its_photo(settings, record) -> None:
    found = Thumbnails(settings)(record)
    assert found == thumbnail(file_of((settings.root / "cat.jpg").read_bytes()), max_pixels=settings.max_pixels)
    assert found is not None
    assert Image.open(BytesIO(Thumbnails(settings, side=20)(record) or b"")).size == (20, 13)


def test_a_photo_that_changed_has_none(settings, record) -> None:
    (settings.root / "cat.jpg").write_bytes(encoded(CAT.rotate(90), "JPEG"))
    assert Thumbnails(settings)(record) is None


def test_a_photo_that_was_not_decoded_has_none(settings, record) -> None:
    record.info = None
    assert Thumbnails(settings)(record) is None


def test_a_photo_that_is_gone_or_too_large_has_none(settings, record) -> None:
    assert Thumbnails(settings.replace(max_pixels=1000))(record) is None
    assert Thumbnails(settings.replace(max_file_bytes=1000))(record) is None
    (settings.root / "cat.jpg").unlink()
    assert Thumbnails(settings)(record) is None


@pytest.mark.parametrize("uri", ["../outside.jpg", "link.jpg", "{absolute}"])
def test_nothing_outside_the_roots_is_read(settings, record, tmp_path: Path, uri) -> None:
    inside = settings.replace(root=tmp_path / "project")
    inside.root.mkdir()
    outside = tmp_path / "outside.jpg"
    outside.write_bytes((settings.root / "cat.jpg").read_bytes())
    (inside.root / "link.jpg").symlink_to(outside)
    record.image_uri = uri.format(absolute=outside)
    assert Thumbnails(inside)(record) is None
    assert Thumbnails(inside.replace(photo_roots=(str(tmp_path),)))(record) is not None
