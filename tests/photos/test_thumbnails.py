"""Thumbnails: upright, small, pixels only, and never an error."""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from pictures import encoded, file_of, reason_or_none
from PIL import ExifTags, Image, ImageCms, ImageOps
from skimage import data as bundled
from skimage.metrics import structural_similarity

from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoReader
from curation_features.photos.reduction import reduce_by_halves, reduced_size
from curation_features.photos.thumbnail import ICON, PREVIEW, ThumbnailKind, make_thumbnail
from curation_features.photos.thumbnails import Thumbnails
from curation_features.schema import PhotoInfo, PhotoRecord
from curation_features.settings import Settings

CAT = Image.fromarray(bundled.chelsea())  # 451 x 300, no symmetry
MAX_PIXELS = 20_000_000
SMALL = replace(ICON, side=20)
KINDS = pytest.mark.parametrize("wanted", [ICON, PREVIEW], ids=["icon", "preview"])


def shown(data: bytes, wanted: ThumbnailKind = ICON) -> Image.Image:
    small = make_thumbnail(file_of(data), wanted, DecodeLimits(MAX_PIXELS))
    assert small is not None
    assert len(small) <= wanted.max_bytes
    image = Image.open(BytesIO(small), formats=["JPEG"])
    assert image.mode == "RGB"
    return image


def difference(image: Image.Image, expected: Image.Image) -> float:
    """Return the mean absolute difference of two images in gray levels."""
    wanted = np.asarray(expected.convert("RGB").resize(image.size), dtype=float)
    return float(np.abs(np.asarray(image, dtype=float) - wanted).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(orientation) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(CAT, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    image = shown(data)
    assert image.size == ((72, 48) if expected.width > expected.height else (48, 72))
    assert difference(image, expected) < 6
    assert difference(image.rotate(180), expected) > 20


@KINDS
@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG")])
def test_colours_are_those_of_the_photo(mode, kind, wanted) -> None:
    image = CAT.convert(mode)
    assert difference(shown(encoded(image, kind), wanted), image) < 8


@pytest.mark.parametrize(
    ("wanted", "size", "expected"),
    [
        (ICON, (1, 1), (1, 1)),
        (ICON, (30, 20), (30, 20)),
        (ICON, (2000, 100), (72, 4)),
        (ICON, (5000, 3), (72, 1)),
        (PREVIEW, (200, 30), (200, 30)),
        (PREVIEW, (300, 600), (128, 256)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_limited_and_never_enlarged(wanted, size, expected, kind) -> None:
    assert shown(encoded(CAT.resize(size), kind), wanted).size == expected


def overlaps(length: int, parts: int) -> np.ndarray:
    """Return the share of each pixel in each of `parts` equal parts of a line, (parts, length)."""
    edges, pixels = np.linspace(0, length, parts + 1), np.arange(length)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return shares.clip(0) * parts / length


def area_means(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = overlaps(pixels.shape[0], size[1]), overlaps(pixels.shape[1], size[0])
    return np.einsum("yh,hwc,xw->yxc", rows, pixels.astype(float), columns, optimize=True)


@pytest.mark.parametrize("size", [(1024, 683), (683, 1024), (1025, 700), (1000, 749), (511, 300), (300, 200)])
def test_halves_give_the_mean_of_the_area(size) -> None:
    pixels = np.asarray(Image.fromarray(bundled.coffee()).resize(size, Image.Resampling.BICUBIC))
    wanted = reduced_size(*size, 256)
    small = reduce_by_halves(pixels, wanted)
    assert small.shape[1::-1] == wanted
    assert np.abs(area_means(pixels, wanted) - small).mean() < 3.5  # fine texture


def test_a_preview_looks_about_as_good_as_webp() -> None:
    """WebP of at most 6.5 kB was the format of earlier versions; both encode means of the same areas."""
    similar: dict[str, list[float]] = {"preview": [], "WebP": []}
    for pixels in (bundled.chelsea(), bundled.astronaut(), bundled.coffee()):
        small = area_means(pixels, reduced_size(pixels.shape[1], pixels.shape[0], 256)).round().astype(np.uint8)
        webps = (encoded(small, "WEBP", quality=quality, method=2) for quality in (65, 50, 40, 30, 20, 10, 0))
        preview = make_thumbnail(file_of(encoded(pixels, "PNG")), PREVIEW, DecodeLimits(MAX_PIXELS)) or b""
        made = {"preview": preview, "WebP": next(data for data in webps if len(data) <= 6500)}
        for name, data in made.items():
            gray = np.asarray(Image.open(BytesIO(data)).convert("L"))
            similar[name].append(structural_similarity(np.asarray(Image.fromarray(small).convert("L")), gray))
    assert np.mean(similar["preview"]) > np.mean(similar["WebP"]) - 0.02, similar


def test_the_bytes_are_limited() -> None:
    noise = encoded(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8), "PNG")
    for wanted, side in ((ICON, 72), (replace(ICON, side=140), 140), (PREVIEW, 256)):
        assert shown(noise, wanted).size == (side, side)
    assert make_thumbnail(file_of(noise), replace(ICON, max_bytes=100), DecodeLimits(MAX_PIXELS)) is None


@KINDS
def test_nothing_but_pixels_is_kept(wanted) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Jane Owner"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = "SN-12345"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 12.0, 30.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(CAT, "JPEG", exif=exif, icc_profile=profile, comment=b"Jane Owner", xmp=b"<x>Jane Owner</x>")
    image = shown(data, wanted)
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert not image.getexif()
    small = make_thumbnail(file_of(data), wanted, DecodeLimits(MAX_PIXELS)) or b""
    assert not any(word in small for word in (b"Jane", b"SN-1", b"Exif", b"EXIF", b"ICC", b"XMP", b"http"))


@pytest.mark.long
def test_every_decodable_photo_has_a_thumbnail(shared_data) -> None:
    files = [path for path in (shared_data / "corrupt").iterdir() if path.suffix and path.is_file()]
    files = [path for path in files if path.name != "hopper_bad_exif.jpg"]  # thumbnails do not check for its damage
    readable = {path.name: reason_or_none(path.read_bytes()) is None for path in files}
    small = {path.name: make_thumbnail(file_of(path.read_bytes()), ICON, DecodeLimits(MAX_PIXELS)) for path in files}
    assert {name: data is not None for name, data in small.items()} == readable
    assert {*readable.values()} == {True, False}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_there_is_none_of_a_damaged_or_oversized_photo(kind) -> None:
    whole = encoded(CAT, kind)
    assert make_thumbnail(file_of(whole), ICON, DecodeLimits(451 * 300)) is not None
    assert make_thumbnail(file_of(whole), ICON, DecodeLimits(451 * 300 - 1)) is None
    for data in (b"", b"no image", whole[: len(whole) // 2]):
        assert make_thumbnail(file_of(data), ICON, DecodeLimits(MAX_PIXELS)) is None


@pytest.mark.parametrize(
    ("kind", "size", "reduced"),
    [
        (ICON, (4000, 3000), (500, 375)),  # an eighth, the least that JPEG can give
        (ICON, (300, 400), (150, 200)),
        (PREVIEW, (1024, 683), (1024, 683)),  # the pixels that a pass decodes
    ],
)
def test_a_large_jpeg_of_an_icon_is_not_decoded_in_full(monkeypatch: pytest.MonkeyPatch, kind, size, reduced) -> None:
    shapes: list[tuple[int, ...]] = []
    decode_jpeg = simplejpeg.decode_jpeg

    def watched(*arguments: Any, **options: Any) -> np.ndarray:
        pixels = decode_jpeg(*arguments, **options)
        shapes.append(pixels.shape)
        return pixels

    file = file_of(encoded(CAT.resize(size), "JPEG"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    assert make_thumbnail(file, kind, DecodeLimits(MAX_PIXELS)) is not None
    assert shapes == [(*reduced[::-1], 3)]


# Records


@pytest.fixture
def record(settings: Settings) -> PhotoRecord:
    data = encoded(CAT, "JPEG")
    (settings.root / "cat.jpg").write_bytes(data)
    return PhotoRecord("cat", "cat.jpg", PhotoInfo(file_of(data).sha256, "JPEG", 451, 300))


def test_a_record_gives_the_thumbnail_of_its_photo(settings, record) -> None:
    found = Thumbnails(settings)(record)
    assert found == make_thumbnail(
        file_of((settings.root / "cat.jpg").read_bytes()), ICON, DecodeLimits(settings.max_pixels)
    )
    assert found is not None
    of_file_uri = replace(record, image_uri=(settings.root / "cat.jpg").as_uri())
    assert Image.open(BytesIO(Thumbnails(settings, SMALL)(of_file_uri) or b"")).size == (20, 13)


def test_a_photo_that_is_too_large_changed_or_gone_has_none(settings, record) -> None:
    assert Thumbnails(settings.replace(max_pixels=1000))(record) is None
    assert Thumbnails(settings.replace(max_file_bytes=1000))(record) is None
    assert Thumbnails(settings)(replace(record, info=None)) is None  # it was not decoded
    (settings.root / "cat.jpg").write_bytes(encoded(CAT.rotate(90), "JPEG"))
    assert Thumbnails(settings)(record) is None
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


# Kept


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the URIs of opened photos."""
    uris: list[str] = []
    read = PhotoReader.read
    monkeypatch.setattr(PhotoReader, "read", lambda reader, uri: uris.append(uri) or read(reader, uri))
    return uris


def kept(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.data_path / "cache" / "thumbnails").iterdir())


def test_a_photo_is_opened_once_and_not_missed_when_it_is_gone(settings, record, opened) -> None:
    first = Thumbnails(settings)(record)
    assert first is not None
    assert kept(settings) == [f"{record.info.sha256}-72.jpeg"]
    assert Thumbnails(settings)(record) == first
    (settings.root / "cat.jpg").unlink()
    assert Thumbnails(settings)(record) == first
    assert opened == ["cat.jpg"]


def test_thumbnails_of_two_sizes_are_kept_apart(settings, record, opened) -> None:
    for _ in range(2):
        sizes = [Image.open(BytesIO(Thumbnails(settings, kind)(record))).size for kind in (ICON, SMALL, PREVIEW)]
        assert sizes == [(72, 48), (20, 13), (256, 170)]
    assert len(opened) == 3
    assert len(kept(settings)) == 3


def test_a_replaced_photo_has_a_thumbnail_of_its_own(settings, record) -> None:
    before = Thumbnails(settings)(record)
    turned = CAT.rotate(180)
    data = encoded(turned, "JPEG")
    (settings.root / "cat.jpg").write_bytes(data)
    after = Thumbnails(settings)(PhotoRecord("cat", "cat.jpg", PhotoInfo(file_of(data).sha256, "JPEG", 451, 300)))
    assert difference(Image.open(BytesIO(after)), turned) < 6
    assert Thumbnails(settings)(record) == before
    assert difference(Image.open(BytesIO(before)), CAT) < 6


@pytest.mark.parametrize("scheme", ["s3", "memory", "HTTPS"])
def test_a_remote_photo_is_not_opened(settings, record, opened, scheme) -> None:
    remote = PhotoRecord("cat", f"{scheme}://bucket/cat.jpg", record.info)
    thumbnails = Thumbnails(settings.replace(photo_roots=(str(settings.root), f"{scheme}://bucket")))
    assert thumbnails(remote) is None
    assert opened == []
    assert thumbnails(record) is not None
    assert thumbnails(remote) == thumbnails(record)
    assert opened == ["cat.jpg"]


@pytest.mark.parametrize("blocked", ["data", "data/cache", "data/cache/thumbnails"])
def test_a_folder_that_cannot_be_made_costs_nothing(settings, record, opened, blocked) -> None:
    expected = make_thumbnail(
        file_of((settings.root / "cat.jpg").read_bytes()), ICON, DecodeLimits(settings.max_pixels)
    )
    path = settings.root / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a file where the folder should be")
    assert [Thumbnails(settings)(record) for _ in range(2)] == [expected, expected]
    assert opened == ["cat.jpg", "cat.jpg"]
    assert path.read_bytes() == b"a file where the folder should be"


@KINDS
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: bytes(len(whole)),
        lambda whole: whole + bytes(PREVIEW.max_bytes),
        lambda whole: b"<script>",
        lambda whole: encoded(CAT.resize((20, 13)), "PNG"),
        lambda whole: encoded(Image.new("RGB", (PREVIEW.side + 1, 10)), "JPEG"),
    ],
    ids=["empty", "truncated", "zeros", "too long", "text", "PNG", "larger"],
)
def test_a_damaged_or_foreign_file_is_replaced(settings, record, opened, damage, wanted) -> None:
    whole = Thumbnails(settings, wanted)(record)
    [path] = (settings.data_path / "cache" / "thumbnails").iterdir()
    path.write_bytes(damage(whole))
    assert Thumbnails(settings, wanted)(record) == whole
    assert path.read_bytes() == whole
    assert len(opened) == 2


@pytest.mark.skipif(os.name != "posix", reason="needs a FIFO")
def test_a_fifo_or_folder_in_the_cache_is_ignored(settings, record) -> None:
    whole = Thumbnails(settings)(record)
    [path] = (settings.data_path / "cache" / "thumbnails").iterdir()
    path.unlink()
    os.mkfifo(path)
    assert Thumbnails(settings)(record) == whole
    path.unlink()
    path.mkdir()
    assert Thumbnails(settings)(record) == whole
