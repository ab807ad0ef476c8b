"""Every format: known by its content, right pixels, turned exactly once, or refused with the extra it needs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from other_formats import dng, heic, jxl, with_exif_orientation, with_transforms
from pictures import CAT_PIXELS, decoded, encoded, file_of, reason_of, refusal
from PIL import Image, ImageOps

from curation_features.errors import EXTRAS
from curation_features.ingest.discovery import OTHER_FORMATS, PHOTO_SUFFIXES
from curation_features.photos import decode as decoding
from curation_features.photos.boxes import read_boxes, read_brands
from curation_features.photos.decoders import extras
from curation_features.photos.formats import FORMATS, PILLOW_FORMATS, RAW_FORMATS, SUFFIXES, identify
from curation_features.photos.limits import DecodeLimits

REPOSITORY = Path(__file__).resolve().parent.parent.parent

SMOOTH = np.stack(np.broadcast_arrays(np.arange(64) * 3 + 30, np.arange(96)[:, None] * 2 + 30, 128), 2).astype(np.uint8)
"""(96, 64, 3): ramps to the right in red and down in green."""
DOUBLE = SMOOTH.repeat(2, axis=0).repeat(2, axis=1)

FILES = {
    "JPEG": encoded(SMOOTH, quality=100, subsampling=0),
    "PNG": encoded(SMOOTH, "PNG"),
    "WEBP": encoded(SMOOTH, "WEBP", lossless=True),
    "TIFF": encoded(SMOOTH, "TIFF"),
    "BMP": encoded(SMOOTH, "BMP"),
    "GIF": encoded(Image.fromarray(SMOOTH).quantize(256), "GIF"),
    "AVIF": encoded(SMOOTH, "AVIF", quality=100, subsampling="4:4:4"),
    "HEIC": heic(SMOOTH),
    "JXL": jxl(SMOOTH),
    "DNG": dng(DOUBLE),
}
TOLERANCE = {"JPEG": 3, "GIF": 24, "AVIF": 4, "HEIC": 2, "DNG": 2}  # levels; the others are without loss


@pytest.mark.parametrize("kind", FILES)
def test_each_format_has_the_pixels_of_the_picture(kind: str) -> None:
    photo = decoded(FILES[kind])
    assert photo.info.format == kind
    assert (photo.source, photo.notes) == ("demosaic" if kind == "DNG" else "image", ())
    assert (photo.info.width, photo.info.height) == ((128, 192) if kind == "DNG" else (64, 96))
    assert np.abs(photo.rgb.astype(int) - SMOOTH).max() <= TOLERANCE.get(kind, 0)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels as stored with an orientation; Pillow turns them back."""
    exif = Image.Exif()
    exif[274] = {6: 8, 8: 6}.get(orientation, orientation)  # the inverse
    image = Image.open(BytesIO(encoded(pixels, "PNG", exif=exif)))
    return np.array(ImageOps.exif_transpose(image))


def oriented(kind: str, pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "HEIC":  # pillow-heif writes `irot` and `imir`
        return heic(pixels, exif=exif.tobytes())
    if kind == "HEIC of phones":  # the same orientation in EXIF
        return with_transforms(with_exif_orientation(heic(pixels), orientation), orientation)
    if kind == "JXL":
        return jxl(pixels, orientation)
    if kind == "DNG":
        return dng(pixels.repeat(2, axis=0).repeat(2, axis=1), orientation)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    return encoded(pixels, kind, exif=exif, **options.get(kind, {}))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP", "AVIF", "HEIC", "HEIC of phones", "JXL", "DNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_format_is_turned_exactly_once(kind: str, orientation: int) -> None:
    photo = decoded(oriented(kind, turned(SMOOTH, orientation), orientation))
    scale = 2 if kind == "DNG" else 1
    assert (photo.info.width, photo.info.height) == (64 * scale, 96 * scale)
    assert np.abs(photo.rgb.astype(int) - SMOOTH).max() <= 6


@pytest.mark.parametrize("kind", ["HEIC", "JXL", "AVIF"])
def test_an_orientation_in_metadata_alone_is_not_applied(kind: str) -> None:
    """In these formats the orientation of the container holds (ISO/IEC 23008-12, 18181-2)."""
    exif = Image.Exif()
    exif[274] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = {
        "HEIC": with_exif_orientation(heic(SMOOTH), 6),
        "JXL": jxl(SMOOTH, exif=exif.tobytes(), xmp=xmp),
        "AVIF": encoded(SMOOTH, "AVIF", xmp=xmp),
    }[kind]
    assert decoded(data).rgb.shape == (96, 64, 3)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypavis\0\0\0\0msf1miafavis", "AVIF"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1heix", "HEIC"),
        (b"\0\0\0\x1cftypmsf1\0\0\0\0msf1hevcmif1", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", ""),  # a video
        (b"\0\0\0\x18ftypqt  \0\0\0\0avif", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JXL"),
        (b"\xff\x0a\xfa\x1f", "JXL"),
        (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
        (b"II\x1a\0\0\0HEAPCCDR\x02\0", "CRW"),
        (b"FUJIFILMCCD-RAW 0201FF389502", "RAF"),
        (b"IIRO\x08\0\0\0", "ORF"),
        (b"IIRS\x08\0\0\0", "ORF"),
        (b"IIU\0\x18\0\0\0", "RW2"),
        (b"\0MRM\0\0\0\x10", "MRW"),
        (b"FOVb\x03\0\x02\0", "X3F"),
        (b"II*\0\x08\0\0\0IIII", "IIQ"),
        (b"II*\0\x08\0\0\0\0\0\0\0", "TIFF"),
        (b"II*\0\xff\xff\xff\xff", "TIFF"),
        (b"", ""),
    ],
)
def test_formats_are_known_by_their_first_bytes(start: bytes, kind: str) -> None:
    assert identify(start.ljust(64 if start else 0, b"\0")) == kind


@pytest.mark.parametrize(
    ("make", "kind"), [("NIKON CORPORATION", "NEF"), ("SONY", "ARW"), ("PENTAX", "PEF"), ("Drawn", "RAW")]
)
def test_raw_files_that_are_tiffs_are_known_by_sensor_and_maker(make: str, kind: str) -> None:
    assert identify(dng(DOUBLE, make=make, is_dng=False)) == kind
    assert identify(dng(DOUBLE, make=make)) == "DNG"
    assert identify(encoded(SMOOTH, "TIFF", tiffinfo={271: make})) == "TIFF"  # an edited photo of that camera


def test_damaged_boxes_and_directories_end_the_search() -> None:
    for data in (FILES["HEIC"], FILES["AVIF"], FILES["DNG"]):
        for length in range(0, 400, 3):
            assert identify(data[:length]) in (*FORMATS, "")
    endless = b"\0\0\0\x08free" * 50_000  # boxes without content
    assert len(list(read_boxes(endless))) == 10_000
    assert list(read_boxes(b"\0\0\0\x04free" * 9)) == []  # shorter than its own head
    assert read_brands(b"\0\0\0\0ftyp" + b"mif1\0\0\0\0" + b"avif" * 100_000)[:2] == (b"mif1", b"avif")


# Extras


@pytest.fixture
def libraries_anew() -> Iterator[None]:
    """Ask again whether the libraries of the extras are there, in the test and after it."""
    extras._problem.cache_clear()
    yield
    extras._problem.cache_clear()


@pytest.mark.parametrize(("kind", "extra"), [("HEIC", "heic"), ("JXL", "jxl"), ("DNG", "raw")])
@pytest.mark.usefixtures("libraries_anew")
def test_a_missing_extra_is_named_in_the_reason(kind: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation_features.errors.find_spec", lambda name: None)
    error = refusal(lambda: decoded(FILES[kind]))
    assert error.reason == "unsupported_format"
    assert f'files need a package: pip install "curation-features[{extra}]"' in str(error)


@pytest.mark.usefixtures("libraries_anew")
def test_an_extra_that_cannot_be_loaded_is_no_damaged_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libheif.so.1: cannot open shared object file")

    monkeypatch.setattr("curation_features.photos.decoders.extras.import_module", fail)
    error = refusal(lambda: decoded(FILES["HEIC"]))
    assert error.reason == "unsupported_format"
    assert "libheif.so.1" in str(error)


def test_all_brings_no_gpl_package() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "heic" not in str(extras["all"])  # its wheels contain x265
    assert {*EXTRAS} <= {*extras}


def test_every_format_has_a_reader() -> None:
    assert decoding.READERS.keys() <= {*FORMATS}
    assert {*FORMATS} - decoding.READERS.keys() == {*PILLOW_FORMATS} - {"JPEG", "PNG", "TIFF", "AVIF"}
    assert "HEIC" not in PILLOW_FORMATS


# Discovery


def test_each_suffix_belongs_to_one_format_and_is_a_photo() -> None:
    listed = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    assert len(listed) == len(set(listed)) == len(PHOTO_SUFFIXES)
    assert {".heic", ".hif", ".jxl", ".dng", ".nef", ".cr3", ".arw", ".raf"} <= PHOTO_SUFFIXES
    assert PHOTO_SUFFIXES.isdisjoint(" ".join(OTHER_FORMATS.values()).split())
    assert RAW_FORMATS["NEF"][0] == ".nef"


def test_shared_files_are_read_or_refused(shared_data: Path) -> None:
    folder = shared_data / "inputs" / "heic-skipped"
    expected = decoded((folder / "IMG_0001.jpg").read_bytes()).rgb.shape
    assert decoded((folder / "IMG_0002.HEIC").read_bytes()).rgb.shape == expected
    assert reason_of((folder / "IMG_0003.DNG").read_bytes()) == "unreadable"  # only the first bytes of a TIFF


# Damage


@pytest.mark.parametrize("kind", ["AVIF", "HEIC", "JXL", "DNG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_part_of_a_file_is_never_a_photo(kind: str, share: float) -> None:
    data = FILES[kind]
    expected = {"unreadable"} if kind == "JXL" else {"truncated"}  # a codestream of JPEG XL has no length
    assert reason_of(data[: int(len(data) * share)]) in expected


@pytest.mark.parametrize("kind", ["AVIF", "HEIC", "JXL", "DNG"])
def test_the_pixel_limit_holds_before_pixels_are_decoded(kind: str) -> None:
    data = FILES[kind]
    size = decoded(data).info
    assert reason_of(data, max_pixels=size.width * size.height - 1) == "too_large"
    assert decoded(data, max_pixels=size.width * size.height).info == size


def test_registered_plugins_of_pillow_are_not_used() -> None:
    pillow_heif.register_heif_opener()
    try:
        data = heic(CAT_PIXELS)
        with pytest.raises(Exception, match="cannot identify"):
            Image.open(BytesIO(data), formats=PILLOW_FORMATS)
        assert decoding.decode(file_of(data), DecodeLimits(10_000)).info.format == "HEIC"
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID[:] = [name for name in Image.ID if name != "HEIF"]
