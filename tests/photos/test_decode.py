"""Decoding of photos: upright RGB pixels, or an error with a reason."""

from __future__ import annotations

import hashlib
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from pictures import CAT, CAT_PIXELS, decoded, encoded, pillows, png, reason_of, reason_or_none
from PIL import Image, ImageCms

from curation_features.errors import PhotoError
from curation_features.photos.decoders.jpeg.reader import read_jpeg
from curation_features.photos.decoders.pillow import quiet_pillow, read_with_pillow
from curation_features.photos.decoders.png import read_png
from curation_features.photos.decoders.tiff.reader import read_tiff
from curation_features.photos.limits import DecodeLimits
from curation_features.schema import PHOTO_REASONS

# Upright


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels as a camera stores them (EXIF 2.32, table 6)."""
    flips: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,  # row 0 top, column 0 left
        2: lambda a: a[:, ::-1],  # top, right
        3: lambda a: a[::-1, ::-1],  # bottom, right
        4: lambda a: a[::-1],  # bottom, left
        5: lambda a: a.transpose(1, 0, 2),  # row 0 left, column 0 top
        6: lambda a: a[:, ::-1].transpose(1, 0, 2),  # right, top
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: lambda a: a[::-1].transpose(1, 0, 2),  # left, bottom
    }
    return np.ascontiguousarray(flips[orientation](upright))


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return encoded(stored(CAT_PIXELS, orientation), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_gives_the_upright_photo(kind: str, orientation: int) -> None:
    photo = decoded(with_orientation(kind, orientation))
    assert (photo.info.width, photo.info.height, photo.info.format) == (64, 96, kind)
    assert photo.rgb.flags.c_contiguous
    off_by = 0 if kind != "JPEG" else 6
    assert np.abs(photo.rgb.astype(int) - CAT_PIXELS).max() <= off_by


def test_compressed_tiff_is_turned_once() -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        data = encoded(stored(CAT_PIXELS, 6), "TIFF", compression=compression, tiffinfo={274: 6})
        np.testing.assert_array_equal(decoded(data).rgb, CAT_PIXELS)


def test_real_oriented_photos_match_their_upright_twins(shared_data: Path) -> None:
    upright = decoded((shared_data / "photos/portrait.jpg").read_bytes()).rgb.mean(axis=2)
    turned = decoded((shared_data / "photos/portrait-orientation-6.jpg").read_bytes()).rgb.mean(axis=2)
    assert np.corrcoef(upright.ravel(), turned.ravel())[0, 1] > 0.95  # the same photo in gray, stored turned
    hopper = decoded((shared_data / "corrupt/hopper.png").read_bytes()).rgb.astype(int)
    for orientation in range(2, 9):
        data = (shared_data / f"corrupt/hopper_orientation_{orientation}.jpg").read_bytes()
        assert np.abs(decoded(data).rgb - hopper).mean() < 8


def test_xmp_orientation_is_applied_and_broken_exif_ignored(shared_data: Path) -> None:
    assert decoded((shared_data / "corrupt/xmp_tags_orientation.png").read_bytes()).rgb.shape == (268, 326, 3)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turned = encoded(stored(CAT_PIXELS, 6), "WEBP", xmp=xmp, lossless=True)
    np.testing.assert_array_equal(decoded(turned).rgb, CAT_PIXELS)
    for broken in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk" * 9):
        assert decoded(encoded(CAT_PIXELS, "JPEG", exif=broken)).rgb.shape == CAT_PIXELS.shape


# Pixel types


def test_sixteen_bit_gray_is_scaled() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(values.astype(np.float64) * 255 / 65535).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        photo = decoded(encoded(values, kind))
        for channel in range(3):
            np.testing.assert_array_equal(photo.rgb[..., channel], expected)
    big_endian = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(decoded(encoded(big_endian, "TIFF")).rgb[..., 0], expected)
    np.testing.assert_array_equal(decoded(encoded(values.astype(np.int32), "TIFF")).rgb[..., 0], expected)


def test_float_gray_is_scaled_within_0_to_1_only() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    expected = np.round(values * 255)
    np.testing.assert_array_equal(decoded(encoded(values, "TIFF")).rgb[..., 1], expected)
    negative = np.full((4, 4), -1, np.int32)
    for bad in (values * 2, values - 1, values * np.nan, values + np.inf, negative, negative + 65537):
        assert reason_of(encoded(bad, "TIFF")) == "unsupported_format"


def test_transparency_is_composited_on_white() -> None:
    alpha = np.linspace(0, 255, 96 * 64).reshape(96, 64, 1).round()
    rgba = np.concatenate([CAT_PIXELS, alpha.astype(np.uint8)], axis=2)
    expected = CAT_PIXELS * (alpha / 255) + 255 * (1 - alpha / 255)
    for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        assert np.abs(decoded(encoded(rgba, kind, **options)).rgb - expected).max() <= 0.51
    gray_alpha = np.ascontiguousarray(rgba[..., [1, 3]])
    gray = decoded(encoded(Image.fromarray(gray_alpha, mode=None), "PNG")).rgb
    assert np.abs(gray - expected[..., 1:2]).max() <= 0.51


def sixteen_bits(values: np.ndarray, colour_type: int, *chunks: bytes) -> bytes:
    """Return a PNG of 16-bit samples, (height, width, samples)."""
    header = b"IHDR" + struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(header, *chunks, b"IDAT" + zlib.compress(rows), b"IEND")


def test_sixteen_bit_colours_of_a_png_are_rounded() -> None:
    values = np.random.default_rng(5).integers(0, 65536, (20, 30, 4), np.uint16)
    levels = np.round(values / 257)
    np.testing.assert_array_equal(decoded(sixteen_bits(values[..., :3], 2)).rgb, levels[..., :3])
    share = levels[..., 3:] / 255
    on_white = decoded(sixteen_bits(values, 6)).rgb - (levels[..., :3] * share + 255 * (1 - share))
    assert np.abs(on_white).max() <= 0.51
    gray = decoded(sixteen_bits(values[..., 2:], 4)).rgb - (levels[..., 2:3] * share + 255 * (1 - share))
    assert np.abs(gray).max() <= 0.51
    colour, near = values[3, 4, :3].astype(">u2"), values[..., :3].copy()
    near[0, 0] = colour + np.array([0, 0, 1])  # not the transparent colour, although its upper bytes may be
    expected = np.round(near / 257)
    expected[3, 4] = 255
    transparent = sixteen_bits(near, 2, b"tRNS" + colour.tobytes())
    np.testing.assert_array_equal(decoded(transparent).rgb, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_with_a_transparent_value(bits: int) -> None:
    values = np.arange(8 // bits) % 2**bits
    row = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(1, "big")
    header = b"IHDR" + struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    for transparent in range(2**bits):
        chunks = (b"tRNS" + struct.pack(">H", transparent), b"IDAT" + zlib.compress(b"\0" + row), b"IEND")
        expected = np.where(values == transparent, 255, values * (255 // (2**bits - 1)))
        for data in (png(header, *chunks), png(header, *chunks[1:])):
            found = decoded(data).rgb[0, :, 0]
            np.testing.assert_array_equal(found, expected)
            expected = values * (255 // (2**bits - 1))


def test_profiles_and_ink_are_kept_for_the_conversion() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ink = np.random.default_rng(6).integers(0, 256, (32, 32, 4), np.uint8)
    cmyk = Image.frombytes("CMYK", (32, 32), ink.tobytes())
    limits = DecodeLimits(10_000)
    np.testing.assert_array_equal(read_tiff(encoded(cmyk, "TIFF"), limits).pixels, ink)
    for image, kinds in (
        (cmyk, ("TIFF",)),
        (CAT, ("TIFF", "PNG", "WEBP", "AVIF")),
        (CAT.convert("L"), ("PNG", "TIFF")),
    ):
        for kind in kinds:
            read = {"PNG": read_png, "TIFF": read_tiff}.get(kind, read_with_pillow)
            stored = read(encoded(image, kind, icc_profile=profile), limits)
            assert stored.profile == profile
            assert stored.pixels.shape[2] == len(image.mode.replace("L", "RGB"))


def test_ink_of_a_cmyk_jpeg_is_not_inverted() -> None:
    """Adobe stores 0 as full ink (imagecodecs gives the numbers of the file)."""
    imagecodecs = pytest.importorskip("imagecodecs")
    smooth = np.asarray(CAT.resize((48, 48)))
    ink = np.dstack([smooth, smooth[..., :1] // 2])
    data = encoded(Image.frombytes("CMYK", (48, 48), ink.tobytes()), "JPEG", quality=98, subsampling=0)
    assert b"Adobe\0" in data
    numbers = imagecodecs.jpeg8_decode(data, colorspace="CMYK", outcolorspace="CMYK").astype(int)
    assert np.abs(read_jpeg(data, DecodeLimits(10_000)).pixels - (255 - numbers)).max() <= 2


def test_transparent_colours_and_palette_entries_become_white() -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    palette.putdata([0, 1, 2, 3])
    red, green, blue, dark, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30), (255, 255, 255)
    half_green = (127, 255, 127)
    rows = {
        encoded(palette, "PNG"): [red, green, blue, dark],
        encoded(palette, "PNG", transparency=2): [red, green, white, dark],
        encoded(palette, "PNG", transparency=b"\0\x80"): [white, half_green, blue, dark],
        encoded(palette, "GIF", transparency=1): [red, white, blue, dark],
        encoded(palette.convert("RGB"), "PNG", transparency=dark): [red, green, blue, white],
        encoded(np.array([[0, 9, 200, 255]], np.uint8), "PNG", transparency=9): [(0,) * 3, white, (200,) * 3, white],
        encoded(np.array([[0, 9, 257, 65535]], np.uint16), "PNG", transparency=9): [(0,) * 3, white, (1,) * 3, white],
    }
    for data, expected in rows.items():
        np.testing.assert_array_equal(decoded(data).rgb[0], expected)


def test_other_pixel_types() -> None:
    gray = CAT_PIXELS[..., 0]
    bilevel = decoded(encoded(Image.fromarray(gray > 128), "PNG")).rgb
    np.testing.assert_array_equal(bilevel, np.repeat(np.where(gray > 128, 255, 0)[..., None], 3, axis=2))
    np.testing.assert_array_equal(decoded(encoded(gray, "BMP")).rgb, np.repeat(gray[..., None], 3, axis=2))
    ink = np.stack([255 - CAT_PIXELS[..., 0], 255 - CAT_PIXELS[..., 1], 255 - CAT_PIXELS[..., 2], 0 * gray], axis=2)
    cmyk = Image.frombytes("CMYK", (64, 96), ink.tobytes())
    np.testing.assert_array_equal(decoded(encoded(cmyk, "TIFF")).rgb, CAT_PIXELS)
    assert np.abs(decoded(encoded(cmyk, "JPEG", quality=100)).rgb.astype(int) - CAT_PIXELS).max() <= 6


def test_the_first_frame_of_animations_is_measured() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        photo = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless))
        assert photo.info.format == kind.replace("MPO", "JPEG")
        assert np.abs(photo.rgb.astype(int) - (255, 0, 0)).max() <= 12


def test_an_ultra_hdr_jpeg_is_a_jpeg() -> None:
    gain_map = Image.new("RGB", (8, 8))
    gain_map.encoderinfo = {}
    data = encoded(Image.fromarray(CAT_PIXELS), "MPO", save_all=True, append_images=[gain_map], quality=95)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>'
    ultra = data[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + data[2:]
    photo = decoded(ultra)
    assert photo.info.format == "JPEG"
    np.testing.assert_array_equal(photo.rgb, pillows(data))


# Damage


@pytest.mark.parametrize("size", [(4000, 4000), (12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = png(header, b"IDAT" + zlib.compress(bytes(100)), b"IEND")
    assert reason_of(data, max_pixels=10_000_000) == "too_large"


def test_a_large_photo_within_the_limit_makes_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow warns above this, and refuses above twice this
    for kind in ("PNG", "TIFF", "JPEG"):
        assert decoded(encoded(CAT_PIXELS, kind)).rgb.shape == (96, 64, 3)
    with pytest.raises(PhotoError, match="MAX_IMAGE_PIXELS"):
        decoded(encoded(np.zeros((101, 101), np.uint8), "PNG"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is no photo\n" * 50, "unreadable"),
        (b"\0" * 5000, "unreadable"),
        (b"\xff\xd8\xff\xe0", "unreadable"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unreadable"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "unreadable"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 64, "unsupported_format"),
        (b"8BPS\0\1" + b"\0" * 64, "unsupported_format"),
    ],
)
def test_files_of_other_formats_have_a_reason(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_camera_raw_is_refused_despite_its_thumbnail() -> None:
    assert reason_of(encoded(CAT_PIXELS, "TIFF", tiffinfo={254: 1})) == "unsupported_format"


OPTIONS = {
    "PNG": {},
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "WEBP": {},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "TIFF jpeg": {"compression": "jpeg"},
    "AVIF": {},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_half_a_file_is_never_a_photo(kind: str) -> None:
    data = encoded(CAT_PIXELS, kind.split()[0], **OPTIONS[kind])
    half = reason_of(data[: len(data) // 2])
    assert half in ("truncated", "unreadable")
    if kind in ("PNG", "JPEG", "JPEG progressive", "WEBP", "BMP"):
        assert half == "truncated"


WHOLE = {"JPEG": encoded(CAT_PIXELS, "JPEG", quality=90), "PNG": encoded(CAT_PIXELS, "PNG")}


@pytest.mark.long
@budget(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1))
def test_no_truncated_jpeg_or_png_is_a_photo(kind: str, fraction: float) -> None:
    data = WHOLE[kind]
    assert reason_of(data[: int(fraction * (len(data) - 5))]) in ("truncated", "unreadable")


@budget(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE["PNG"]) - 13), st.integers(1, 255))
def test_no_damaged_png_is_a_photo(position: int, mask: int) -> None:  # without the end chunk, which is empty
    damaged = bytearray(WHOLE["PNG"])
    damaged[position] ^= mask
    assert reason_of(bytes(damaged)) in PHOTO_REASONS


DAMAGEABLE = {
    **{kind: encoded(CAT_PIXELS[:32, :32], kind.split()[0], **options) for kind, options in OPTIONS.items()},
    "TIFF turned": with_orientation("TIFF", 6),
    "JPEG turned": with_orientation("JPEG", 8),
}


@pytest.mark.long
@budget(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(DAMAGEABLE)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1),
)
def test_damage_raises_nothing_but_photo_errors(kind: str, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(DAMAGEABLE[kind])
    for position, mask in flips:
        damaged[int(position * len(damaged))] ^= mask
    with suppress(PhotoError):
        photo = decoded(bytes(damaged))
        assert photo.rgb.size > 0
        assert photo.rgb.shape == (photo.info.height, photo.info.width, 3)


def test_real_damaged_files_are_photos_or_photo_errors(shared_data: Path) -> None:
    expected = {
        "truncated_image.png": "truncated",
        "truncated_end_chunk.png": "truncated",
        "ultrahdr.jpg": "truncated",
        "hopper_bad_exif.jpg": "unreadable",
        "broken.png": "unreadable",
        "decompression_bomb.ico": "unsupported_format",
        "LICENSE": "unreadable",
    }
    reasons = {path.name: reason_or_none(path.read_bytes()) for path in (shared_data / "corrupt").iterdir()}
    assert {name: reasons[name] for name in expected} == expected
    assert {name[-3:] for name in reasons.keys() - expected.keys() if reasons[name]} == {"tif"}


def test_real_photos_have_pillows_own_pixels(shared_data: Path) -> None:
    for name in ("kodim05.png", "prairie_falcon.jpg", "denali.webp"):
        data = (shared_data / "photos" / name).read_bytes()
        photo = decoded(data)
        np.testing.assert_array_equal(photo.rgb, pillows(data))
        assert photo.info.sha256 == hashlib.sha256(data).hexdigest()


# Warnings


def test_pillow_is_quiet_in_threads_and_no_filter_stays_behind() -> None:
    before = list(warnings.filters)
    both_inside, first_left = threading.Barrier(2, timeout=60), threading.Event()
    noise: list[object] = []

    def second() -> None:
        with quiet_pillow():
            both_inside.wait()
            first_left.wait(60)
            try:
                warnings.warn_explicit("still quiet", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
            except UserWarning as warning:
                noise.append(warning)

    thread = threading.Thread(target=second)
    thread.start()
    with quiet_pillow():
        both_inside.wait()
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
    first_left.set()
    thread.join()
    assert noise == []
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="loud again"):
        warnings.warn_explicit("loud again", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
