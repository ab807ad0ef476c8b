"""TIFF: every kind of samples is read right, or refused with its reason.

Files are made by tifffile or by hand; expected pixels come from the formulas of TIFF 6.0 in double precision, from
littlecms, libtiff and tifffile.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pictures import CAT, CAT_PIXELS, decoded, encoded, reason_of, refusal, rgb_of, tiff
from PIL import Image, ImageCms

from curation_features.photos.decoders.tiff import samples as tiff_samples
from curation_features.photos.decoders.tiff.reader import read_tiff
from curation_features.photos.limits import DecodeLimits

HEIGHT, WIDTH = CAT_PIXELS.shape[:2]
GRAY = CAT_PIXELS[..., 1]
RANDOM = np.random.default_rng(7)
LIMITS = DecodeLimits(1_000_000)


def written(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def by_hand(strip: bytes, width: int, height: int, **tags: int) -> bytes:
    """Return an uncompressed TIFF of one strip; tags are named by their number, as `t258`."""
    numbers = {256: width, 257: height, 273: 256, 278: height, 279: len(strip)}
    numbers |= {int(name[1:]): value for name, value in tags.items()}
    return tiff([(tag, 4, 1, value) for tag, value in numbers.items()], strip)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Return rows of samples; each row is filled to a byte."""
    rows = ("".join(format(value, f"0{bits}b") for value in row.ravel()) for row in values)
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def in_gray(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.reshape(levels, (*levels.shape[:2], 1)), 3, axis=2)


def of_type(dtype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of the whole range, and their levels of 0..255."""
    random = np.random.default_rng(1)
    if dtype.startswith("float"):  # no value is near the middle of two levels, which may be rounded either way
        levels = random.integers(0, 255, shape, endpoint=True)
        values = np.clip((levels + random.uniform(-0.4, 0.4, shape)) / 255, 0, 1).astype(dtype)
        return values, levels
    limit = np.iinfo(dtype).max
    values = random.integers(0, limit, shape, dtype, endpoint=True)
    values.flat[:2] = 0, limit
    return values, np.rint(values.astype(np.float64) * (255 / limit))


# --- samples --------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 7},
    "one strip": {},
    "tiles": {"tile": (16, 32)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 5},
    "BigTIFF": {"bigtiff": True, "tile": (32, 16)},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
}
TYPES = ["uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_samples_are_scaled_in_every_layout(dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_samples, "_BAND_BYTES", 3000)  # several bands
    options = {**LAYOUTS[layout]}
    gray, gray_levels = of_type(dtype, (41, 50))
    colour, colour_levels = of_type(dtype, (41, 50, 3))
    for photometric, levels in (("minisblack", gray_levels), ("miniswhite", 255 - gray_levels)):
        rgb = rgb_of(written(gray, photometric=photometric, **options))
        assert np.abs(rgb - in_gray(levels)).max() == 0
    chunky = rgb_of(written(colour, photometric="rgb", **options))
    assert np.abs(chunky - colour_levels).max() == 0
    planar = written(colour.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate", **options)
    np.testing.assert_array_equal(rgb_of(planar), chunky)


@pytest.mark.long
@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_compressed_samples_are_those_of_tifffile(dtype: str, compression: str) -> None:
    pytest.importorskip("imagecodecs")
    colour, levels = of_type(dtype, (41, 50, 3))
    for byteorder in "<>":
        for shape in ({"rowsperstrip": 7}, {"tile": (16, 32)}):
            for planar in (False, True):
                values = colour.transpose(2, 0, 1).copy() if planar else colour
                predictors = (None,) if compression == "packbits" else (None, 3 if dtype == "float32" else 2)
                for predictor in predictors:
                    data = written(
                        values,
                        photometric="rgb",
                        planarconfig="separate" if planar else "contig",
                        compression=compression,
                        predictor=predictor,
                        byteorder=byteorder,
                        **shape,
                    )
                    np.testing.assert_array_equal(tifffile.imread(BytesIO(data)), values)
                    np.testing.assert_array_equal(rgb_of(data), levels)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 10, 12, 14, 24])
def test_any_bit_depth_is_scaled_by_its_range(bits: int) -> None:
    limit = 2**bits - 1
    values = RANDOM.integers(0, limit, (9, 13, 3), np.int64, endpoint=True)
    levels = np.rint(values * (255 / limit))
    plane = values[..., 0]
    for photometric, expected in ((1, levels[..., 0]), (0, 255 - levels[..., 0])):
        data = by_hand(packed(plane, bits), 13, 9, t258=bits, t262=photometric)
        np.testing.assert_array_equal(rgb_of(data), in_gray(expected))
    data = by_hand(packed(values, bits), 13, 9, t258=bits, t262=2, t277=3)
    np.testing.assert_array_equal(rgb_of(data), levels)


def test_reversed_bits_are_read() -> None:
    gray = RANDOM.integers(0, 65536, (9, 13), np.uint16)
    strip = bytes(int(f"{byte:08b}"[::-1], 2) for byte in gray.tobytes())
    for photometric, levels in ((1, np.rint(gray / 257)), (0, 255 - np.rint(gray / 257))):
        data = by_hand(strip, 13, 9, t258=16, t262=photometric, t266=2)
        np.testing.assert_array_equal(rgb_of(data), in_gray(levels))


def test_values_without_a_range_are_refused() -> None:
    gray = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    wrong = {
        "outside 0..1": [gray * 1.01, gray - 0.01, gray * np.nan, gray.astype(np.float16) + 1, gray + np.inf],
        "signed": [np.zeros((8, 8), np.int8), np.zeros((8, 8, 3), np.int16), np.zeros((8, 8), np.int64)],
        "complex|SampleFormat|not read": [gray.astype(np.complex64)],
        "outside 0..65535": [np.full((8, 8), -1, np.int32), np.full((8, 8), 65536, np.int32)],
    }
    for message, images in wrong.items():
        for image in images:
            error = refusal(
                lambda image=image: decoded(written(image, photometric="rgb" if image.ndim == 3 else "minisblack"))
            )
            assert error.reason == "unsupported_format"
            assert any(part in str(error) for part in message.split("|"))
            assert "export it" in str(error)


# --- colours --------------------------------------------------------------------------------------------------------


def test_lab_of_all_encodings_is_that_of_littlecms() -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(CAT, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    exact = ImageCms.buildTransform(*profiles[::-1], "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    back = ImageCms.applyTransform(image, exact)
    lab = np.asarray(image).astype(np.uint16)  # L of 0..255; a and b are signed bytes
    opponents = np.asarray(image)[..., 1:].view(np.int8).astype(np.int16)
    lab[..., 1:] = opponents + 128
    encodings = (
        (8, np.dstack([lab[..., :1].astype(np.uint8), opponents.astype(np.int8).view(np.uint8)])),
        (9, lab.astype(np.uint8)),
        (8, np.dstack([lab[..., :1] * 257, (opponents * 256).view(np.uint16)])),
        (9, lab * 256),
    )
    for photometric, values in encodings:
        rgb = rgb_of(written(values, photometric=photometric)).astype(int)
        assert np.abs(rgb - np.asarray(back)).max() <= 1
    assert np.abs(rgb_of(encoded(image, "TIFF")).astype(int) - np.asarray(back)).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_alpha_is_composited_on_white(dtype: str) -> None:
    rgba, levels = of_type(dtype, (20, 30, 4))
    whole = 1 if dtype == "float32" else np.iinfo(dtype).max
    share = levels[..., 3:] / 255
    straight = levels[..., :3] * share + 255 * (1 - share)
    kinds = (("unassalpha", rgba, straight), ("unspecified", rgba, levels[..., :3]))
    multiplied = rgba.copy()
    multiplied[..., :3] = (rgba[..., :3].astype(np.float64) * rgba[..., 3:] / whole).astype(dtype)
    for kind, values, expected in (*kinds, ("assocalpha", multiplied, straight)):
        for planar in (False, True):
            stored = values.transpose(2, 0, 1).copy() if planar else values
            config = "separate" if planar else "contig"
            data = written(stored, photometric="rgb", extrasamples=[kind], planarconfig=config)
            assert np.abs(rgb_of(data) - expected).max() <= (2 if kind == "assocalpha" else 1)
    glowing = rgba.copy()
    glowing[..., :3], glowing[..., 3] = whole, 0  # light without cover, as of a flame: the sum must not wrap
    data = written(glowing, photometric="rgb", extrasamples=["assocalpha"])
    assert (rgb_of(data) == 255).all()
    two = rgba[..., :2].copy()
    expected = in_gray(levels[..., 0] * levels[..., 1] / 255 + 255 - levels[..., 1])
    data = written(two, photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    assert np.abs(rgb_of(data) - expected).max() <= 1
    data = written(two, photometric="miniswhite", extrasamples=["unassalpha"], planarconfig="contig")
    ink = in_gray(255 - levels[..., 0] * levels[..., 1] / 255)
    assert np.abs(rgb_of(data) - ink).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_8_and_16_bits_are_read(bits: int) -> None:
    entries = RANDOM.integers(0, 65536, (3, 2**bits), np.uint16)
    indices = RANDOM.integers(0, 2**bits, (9, 13))
    strip = packed(indices, bits)
    for palette, expected in ((entries, np.rint(entries / 257)), (entries // 256, entries // 256)):
        colours = palette.astype("<u2").tobytes()
        numbers = {256: 13, 257: 9, 258: bits, 262: 3, 278: 9, 279: len(strip), 273: 256 + len(colours)}
        tags = [(tag, 4, 1, value) for tag, value in numbers.items()]
        data = tiff([*tags, (320, 3, palette.size, 256)], colours + strip)
        np.testing.assert_array_equal(rgb_of(data), expected.T[indices])


def test_a_palette_with_alpha_is_composited() -> None:
    palette = RANDOM.integers(0, 65536, (3, 256), np.uint16)
    values = RANDOM.integers(0, 256, (9, 13, 2), np.uint8)
    colours, strip = palette.astype("<u2").tobytes(), values.tobytes()
    numbers = {256: 13, 257: 9, 258: 8, 262: 3, 277: 2, 278: 9, 279: len(strip), 273: 256 + len(colours)}
    tags = [(tag, 4, 1, value) for tag, value in (numbers | {338: 2}).items()]
    data = tiff([*tags, (320, 3, palette.size, 256)], colours + strip)
    share = values[..., 1:] / 255
    expected = np.rint(palette / 257).T[values[..., 0]] * share + 255 * (1 - share)
    assert np.abs(rgb_of(data) - expected).max() <= 0.51


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cmyk_keeps_four_channels_of_ink(dtype: str) -> None:
    values, levels = of_type(dtype, (20, 30, 5))
    plain = written(values[..., :4].copy(), photometric="separated")
    extra = written(values, photometric="separated", extrasamples=["unspecified"], planarconfig="contig")
    planar = written(values[..., :4].transpose(2, 0, 1).copy(), photometric="separated", planarconfig="separate")
    for data in (plain, extra, planar):
        np.testing.assert_array_equal(read_tiff(data, LIMITS).pixels, levels[..., :4])
    data = written(values, photometric="separated", extrasamples=["unassalpha"], planarconfig="contig")
    faded = levels[..., :4] * levels[..., 4:] / 255
    assert np.abs(read_tiff(data, LIMITS).pixels - faded).max() <= 0.51


@pytest.mark.parametrize(("across", "up"), [(1, 1), (2, 1), (2, 2), (4, 4), (1, 2)])
def test_subsampled_ycbcr_is_that_of_libtiff(across: int, up: int) -> None:
    """Pillow reads compressed YCbCr with libtiff; it takes uncompressed YCbCr for whole pixels."""
    columns, rows = -(-29 // across), -(-21 // up)
    units = RANDOM.integers(60, 200, (rows, columns, across * up + 2), np.uint8)
    strip = units.tobytes()
    numbers = {256: 29, 257: 21, 258: 8, 262: 6, 277: 3, 278: 21, 273: 256}
    subsampling = (530, 3, 2, across | up << 16)
    files = []
    for compression, body in ((1, strip), (8, zlib.compress(strip))):
        tags = [(tag, 4, 1, value) for tag, value in (numbers | {259: compression, 279: len(body)}).items()]
        files.append(tiff([*tags, subsampling], body))
    libtiff = np.asarray(Image.open(BytesIO(files[1])).convert("RGB")).astype(int)
    for data in files:
        assert np.abs(rgb_of(data) - libtiff).max() <= 1


def test_colours_that_are_not_read_are_named() -> None:
    for photometric, name in ((32845, "LogLuv"), (32844, "LogL"), (10, "ITULAB"), (4, "mask"), (77, "77")):
        data = by_hand(bytes(300), 10, 10, t258=8, t262=photometric, t277=3)
        error = refusal(lambda data=data: decoded(data))
        assert (error.reason, name in str(error)) == ("unsupported_format", True)
    for tags, name in (
        ({"t262": 5, "t277": 4, "t332": 2}, "inks"),
        ({"t262": 2, "t277": 3, "t259": 34712}, "JPEG 2000"),
        ({"t262": 2, "t277": 3, "t259": 34887}, "LERC"),
    ):
        error = refusal(lambda tags=tags: decoded(by_hand(bytes(400), 10, 10, t258=8, **tags)))
        assert (error.reason, name in str(error)) == ("unsupported_format", True)


# --- files ----------------------------------------------------------------------------------------------------------


def test_inputs_match_their_references(shared_data: Path) -> None:
    folder = shared_data / "inputs"
    for name, reference in (
        ("tiff-planar16/planar16.tif", "tiff-planar16"),
        ("tiff-whiteiszero16/wiz16.tif", "tiff-whiteiszero16"),
        ("tiff-whiteiszero16/wiz-float.tif", "tiff-whiteiszero16"),
        ("tiff-wrong-reason/rgb-float32.tif", "tiff-planar16"),
    ):
        expected = np.asarray(Image.open(folder / reference / "reference.png").convert("RGB"))
        np.testing.assert_array_equal(rgb_of((folder / name).read_bytes()), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_profile_and_orientation_of_any_samples(orientation: int) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = {1: CAT_PIXELS, 6: np.rot90(CAT_PIXELS, -1), 3: CAT_PIXELS[::-1, ::-1], 8: np.rot90(CAT_PIXELS)}
    for dtype, scale in ((np.uint8, 1), (np.uint16, 257)):
        tags = [(274, 3, 1, orientation, True)]
        data = written(CAT_PIXELS.astype(dtype) * scale, photometric="rgb", extratags=tags, iccprofile=profile)
        assert read_tiff(data, LIMITS).profile == profile
        pillow = np.asarray(Image.open(BytesIO(written(CAT_PIXELS, photometric="rgb", extratags=tags))))
        photo = decoded(data)
        np.testing.assert_array_equal(photo.rgb, pillow)
        np.testing.assert_array_equal(photo.rgb, turned.get(orientation, pillow))
        assert (photo.info.height, photo.info.width) == photo.rgb.shape[:2]


def test_the_first_of_several_pages_is_read() -> None:
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(CAT_PIXELS.astype(np.uint16) * 257, photometric="rgb")
        file.write(255 - CAT_PIXELS, photometric="rgb")
    np.testing.assert_array_equal(rgb_of(buffer.getvalue()), CAT_PIXELS)


def test_old_style_jpeg_is_read() -> None:
    jpeg = encoded(CAT, quality=95)
    tags = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 6, 262: 6, 277: 3, 278: HEIGHT, 273: 256, 279: len(jpeg), 513: 256}
    data = tiff([*((tag, 4, 1, value) for tag, value in tags.items()), (514, 4, 1, len(jpeg))], jpeg)
    off = np.abs(rgb_of(data).astype(int) - np.asarray(Image.open(BytesIO(jpeg))))
    assert off.mean() < 1  # libtiff repeats the chroma, libjpeg interpolates it


def test_damaged_structures_are_photo_errors() -> None:
    whole = written(CAT_PIXELS.astype(np.uint16) * 257, photometric="rgb", rowsperstrip=8)
    assert reason_of(whole[:-5]) == "truncated"
    missing = by_hand(bytes(400), 10, 10, t258=16, t262=2, t277=3)
    assert reason_of(missing) == "truncated"
    for tags in ({"t258": 0}, {"t258": 16, "t277": 0}, {"t258": 16, "t277": 9999}, {"t258": 16, "t278": 0}):
        assert reason_of(by_hand(bytes(900), 10, 10, **{"t262": 2, "t277": 3, **tags})) == "unreadable"
    assert reason_of(by_hand(bytes(9000), 10, 10, t258=65, t262=2, t277=3)) == "unsupported_format"
    tiles = by_hand(bytes(100), 9000, 9000, t258=16, t262=2, t277=3, t322=1, t323=1, t324=256, t325=1)
    assert reason_of(tiles) == "unreadable"
    broken = by_hand(b"no deflate data", 10, 10, t258=16, t262=2, t277=3, t259=8)
    assert reason_of(broken) in ("unreadable", "truncated")


def test_limits_hold_for_all_samples() -> None:
    large = by_hand(b"", 40_000, 40_000, t258=16, t262=2, t277=3)
    assert reason_of(large) == "too_large"
    strip = by_hand(bytes(900), 6000, 6000, t258=64, t262=2, t277=3, t259=8)
    error = refusal(lambda: decoded(strip))
    assert (error.reason, "smaller strips" in str(error)) == ("too_large", True)
    tags = {"t322": 40_000, "t323": 40_000, "t324": 256, "t325": 100}
    tile = by_hand(bytes(100), 10, 10, t258=16, t262=2, t277=3, t259=8, **tags)
    error = refusal(lambda: decoded(tile))
    assert (error.reason, "tile" in str(error)) == ("too_large", True)


def test_a_large_uncompressed_strip_needs_no_copy() -> None:
    import tracemalloc

    data = written(np.zeros((1500, 1500, 3), np.float64), photometric="rgb")  # 54 MB
    tracemalloc.start()
    try:
        read_tiff(data, DecodeLimits(10_000_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) / 54 * 7 + 50_000_000
