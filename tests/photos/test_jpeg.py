"""JPEG decoding: pixels equal Pillow's; damage is refused, and an unsupported frame before any decoder runs."""

from __future__ import annotations

import base64
import random
import re
import struct
from collections.abc import Callable
from io import BytesIO
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import simplejpeg
from pictures import CAT, decoded, encoded, file_of, pillows, reason_of, reason_or_none, refusal, rgb_of, tiff
from PIL import Image
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.photos import limits
from curation_features.photos.decoders.jpeg.metadata import read_notes
from curation_features.photos.decoders.jpeg.reader import jpeg_pixels, read_jpeg
from curation_features.photos.decoding_version import decoding_version
from curation_features.photos.exif.fields import read_exif
from curation_features.photos.jpeg_segments import FRAMES, FRAMES_READ, Segment, segments
from curation_features.photos.limits import DecodeLimits, open_image
from curation_features.photos.thumbnail import ICON, make_thumbnail

WHOLE_CAT = Image.fromarray(bundled.chelsea())
LIMITS = DecodeLimits(10_000_000)
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "4:4:4": {"quality": 95, "subsampling": "4:4:4"},
    "4:2:2": {"quality": 40, "subsampling": "4:2:2"},
    "progressive": {"progressive": True, "quality": 85},
    "restarts": {"restart_marker_rows": 1, "quality": 85},
    "optimised": {"optimize": True, "quality": 20},
}
EACH_VARIANT = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@EACH_VARIANT
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows_bit_for_bit(options: dict[str, Any], mode: str) -> None:
    for size in ((451, 300), (33, 17), (1, 1)):
        data = encoded(WHOLE_CAT.convert(mode).resize(size), **options)
        assert jpeg_pixels(data) is not None
        np.testing.assert_array_equal(rgb_of(data), pillows(data))


def test_cmyk_has_full_ink_at_255() -> None:
    """As Pillow, browsers and Adobe's programs read it: stored inverted, with a transform (YCCK) or without."""
    ink = WHOLE_CAT.convert("CMYK")
    plain = encoded(ink, quality=95)
    adobe = plain.index(b"\xff\xee")
    ycck = plain[: adobe + 15] + b"\2" + plain[adobe + 16 :]
    unmarked = plain[:adobe] + plain[adobe + 16 :]
    for data in (plain, ycck, unmarked):
        stored = read_jpeg(data, LIMITS)
        assert stored.pixels.shape == (300, 451, 4)
        np.testing.assert_array_equal(stored.pixels, np.asarray(Image.open(BytesIO(data))))
        np.testing.assert_array_equal(rgb_of(data), pillows(data))
    assert np.abs(read_jpeg(plain, LIMITS).pixels.astype(int) - np.asarray(ink)).mean() < 3


@pytest.mark.long
def test_real_photos_equal_pillows_bit_for_bit(shared_data: Path) -> None:
    files = {path: path.read_bytes() for name in ("photos", "corrupt") for path in (shared_data / name).iterdir()}
    jpegs = {path.name: data for path, data in files.items() if data.startswith(b"\xff\xd8")}
    assert len(jpegs) > 25
    refused = {name for name, data in jpegs.items() if reason_or_none(data)}
    # The first is truncated; the second has lost half its lines, which Pillow does not report.
    assert refused == {"ultrahdr.jpg", "hopper_bad_exif.jpg"}
    converted = {name for name, data in jpegs.items() if decoding_version(data) == 2}
    for name in jpegs.keys() - refused - converted - {name for name in jpegs if "orientation" in name}:
        np.testing.assert_array_equal(rgb_of(jpegs[name]), pillows(jpegs[name]))


# --- damage ---------------------------------------------------------------------------------------------------------


def scan(data: bytes) -> int:
    """Return the offset of the coded pixels."""
    return data.index(b"\xff\xda") + 14


@EACH_VARIANT
def test_missing_pixels_in_the_middle_are_detected(options: dict[str, Any]) -> None:
    data = encoded(WHOLE_CAT, **options)
    start = (scan(data) + len(data)) // 2
    assert Image.open(BytesIO(data[:start] + data[start + 1500 :])).load()  # Pillow does not detect it
    assert reason_or_none(data[:start] + data[start + 1500 :])


@EACH_VARIANT
def test_many_flipped_bits_are_mostly_detected(options: dict[str, Any]) -> None:
    data, flips, detected = encoded(WHOLE_CAT, **options), random.Random(1), 0
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(50):
            damaged[flips.randrange(scan(data), len(data) - 2)] ^= 1 << flips.randrange(8)
        detected += reason_or_none(bytes(damaged)) is not None
    assert detected >= 10


MARKER_AFTER_SCAN = re.compile(rb"(?<=[^\xff])(?=\xff[\xc4\xd9\xda])")
TEXT = b"Made by a camera, serial number 0000017.\n"
WHOLE_BASELINE = encoded(WHOLE_CAT)
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "two bytes before the end": lambda data: data[:-2] + b"\x4a\x91" + data[-2:],
    "a pattern before the end": lambda data: data[:-2] + bytes([7] * 40) + data[-2:],
    "a sector of zeros before the end": lambda data: data[:-2] + bytes(5000) + data[-2:],
    "stuffed ones before the end": lambda data: data[:-2] + b"\xff\0" * 300 + data[-2:],
    "fill bytes before the end": lambda data: data[:-2] + b"\xff" * 500 + data[-2:],
    "no end": lambda data: data[:-2],
    "half an end": lambda data: data[:-1],
    "zeros and no end": lambda data: data[:-2] + bytes(512),
    "junk before the first segments": lambda data: data[:2] + b"\xff\xe5\0\4ab junk " + data[2:],
    "a trailer": lambda data: data + TEXT * 9,
    "a picture behind it": lambda data: data + data[:-900],
    "padding after each scan": lambda data: MARKER_AFTER_SCAN.sub(b"\0\0\0\0\0\0\0\0\0\0\0\0", data),
    "a marker after the last restart": lambda data: data[:-2] + bytes(30) + b"\xff\xd2" + data[-2:],
    "an unknown colour transform": lambda data: data[:2] + ADOBE_9 + data[20:],
    "an unknown colour transform and zeros": lambda data: data[:2] + ADOBE_9 + data[20:-2] + bytes(40) + data[-2:],
}
# An unknown transform, instead of the JFIF segment. libjpeg takes it for YCbCr, with a warning.
ADOBE_9 = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09"


@EACH_VARIANT
@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_picture_is_measured(kind: str, options: dict[str, Any]) -> None:
    data = encoded(CAT, **options)
    if kind == "a marker after the last restart":
        data = encoded(CAT, restart_marker_rows=2)  # 96 px: RST0 and RST1
    np.testing.assert_array_equal(rgb_of(WHOLE[kind](data)), pillows(data))


def test_text_before_the_end_is_no_picture() -> None:
    for options in ({}, {"quality": 95, "subsampling": "4:4:4"}, {"optimize": True, "quality": 20}):
        data = encoded(WHOLE_CAT, **options)
        np.testing.assert_array_equal(rgb_of(data[:-2] + TEXT * 4 + data[-2:]), pillows(data))


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 9, b"\xff\xff", b"\xff\0" * 5, b"\x55" * 30])
@pytest.mark.parametrize("options", [{"restart_marker_rows": 1}, {"restart_marker_blocks": 3}], ids=["rows", "blocks"])
def test_padding_before_restarts_is_harmless(options: dict[str, Any], padding: bytes) -> None:
    for photo in (WHOLE_CAT, CAT.convert("L")):
        data = encoded(photo, **options)
        padded = re.sub(rb"(?=\xff[\xd0-\xd7])", lambda _: padding, data)
        assert len(padded) > len(data) + 9
        np.testing.assert_array_equal(rgb_of(padded), pillows(data))


RESTARTS = encoded(WHOLE_CAT, restart_marker_rows=1)
PROGRESSIVE = encoded(WHOLE_CAT, progressive=True)
SCANS = [match.start() for match in re.finditer(rb"\xff\xc4|\xff\xda", PROGRESSIVE)]


def swap(data: bytes, one: bytes, other: bytes) -> bytes:
    first, second = data.index(one), data.index(other)
    return data[:first] + other + data[first + 2 : second] + one + data[second + 2 :]


LOST = {
    "restarts in another order": swap(RESTARTS, b"\xff\xd1", b"\xff\xd2"),
    "a restart is missing": RESTARTS[: RESTARTS.index(b"\xff\xd1")] + RESTARTS[RESTARTS.index(b"\xff\xd1") + 2 :],
    "an interval is missing": RESTARTS[: RESTARTS.index(b"\xff\xd1")] + RESTARTS[RESTARTS.index(b"\xff\xd2") :],
    "padding hides an empty interval": RESTARTS[: RESTARTS.index(b"\xff\xd1")]
    + bytes(40)
    + RESTARTS[RESTARTS.index(b"\xff\xd1") : RESTARTS.index(b"\xff\xd6") + 12]
    + RESTARTS[RESTARTS.index(b"\xff\xd7") :],
    "a colour transform hides missing pixels": WHOLE_BASELINE[:2]
    + ADOBE_9
    + WHOLE_BASELINE[20 : len(WHOLE_BASELINE) // 2]
    + WHOLE_BASELINE[-2:],
    "more rows than the frame": WHOLE_BASELINE.replace(b"\xff\xc0\0\x11\x08\x01\x2c", b"\xff\xc0\0\x11\x08\0\xf0"),
}
CUT = {
    "within pixels": WHOLE_BASELINE[: len(WHOLE_BASELINE) // 2],
    "within pixels, zeros behind": WHOLE_BASELINE[: len(WHOLE_BASELINE) // 2] + bytes(4000),
    "three bytes before the end": WHOLE_BASELINE[:-5],
    "before a progressive scan": PROGRESSIVE[: SCANS[-1]],
    "between restarts": RESTARTS[: RESTARTS.rindex(b"\xff\xd0")],
    "CMYK": encoded(WHOLE_CAT.convert("CMYK"))[:9000],
}


@pytest.mark.parametrize("data", LOST.values(), ids=LOST)
def test_a_picture_with_missing_pixels_is_damaged(data: bytes) -> None:
    assert Image.open(BytesIO(data)).load()  # Pillow does not detect it
    assert reason_of(data) == "unreadable"


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_a_picture_without_its_last_pixels_is_truncated(data: bytes) -> None:
    assert reason_of(data) == "truncated"


def test_flipped_bits_are_detected_at_least_as_before() -> None:
    """The reference is the former rule: any warning, but 16 bytes or zeros at the end are harmless."""
    flips, found, before = random.Random(3), 0, 0
    for options in VARIANTS.values():
        data = encoded(WHOLE_CAT, **options)
        for number in (1, 1, 5, 5, 20):
            damaged = bytearray(data)
            for _ in range(number):
                damaged[flips.randrange(scan(data), len(data) - 2)] ^= 1 << flips.randrange(8)
            found += reason_or_none(bytes(damaged)) is not None
            before += has_warning(bytes(damaged))
    assert before >= 12
    assert found >= before


def has_warning(data: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", str(error))
        return not extra or int(extra[1]) > 16
    return False


def test_whole_shared_files_are_measured(shared_data: Path) -> None:
    folder = shared_data / "inputs" / "whole-jpeg-refused"
    files = [path.read_bytes() for path in folder.iterdir() if path.suffix == ".jpg"]
    assert len(files) >= 3
    for data in files:
        np.testing.assert_array_equal(rgb_of(data), pillows((folder / "00-plain.jpg").read_bytes()))


@pytest.mark.long
def test_whole_files_of_other_encoders_are_measured() -> None:
    cv2, codecs = pytest.importorskip("cv2"), pytest.importorskip("imagecodecs")
    pixels = np.ascontiguousarray(bundled.chelsea()[:203, :149])
    files = [
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_RST_INTERVAL, restarts, cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        for restarts in (0, 1, 7)
        for quality in (5, 50, 100)
    ]
    for quality in (10, 75, 98):
        files += [
            simplejpeg.encode_jpeg(pixels, quality, colorsubsampling=sampling)
            for sampling in ("444", "422", "420", "440", "411")
        ]
        files += [
            codecs.jpeg8_encode(pixels, level=quality, subsampling=sampling, optimize=optimised, smoothing=False)
            for sampling in ("444", "422", "420", "440", "411")
            for optimised in (False, True)
        ]
    for data in map(bytes, files):
        assert jpeg_pixels(data) is not None
        for whole in (data, data[:-2], data[:-2] + bytes(30) + data[-2:]):
            np.testing.assert_array_equal(rgb_of(whole), pillows(data))


BASELINE = encoded(CAT)
FRAME = BASELINE.index(b"\xff\xc0")
OTHER = b"\xff\xc3" + BASELINE[FRAME + 2 : FRAME + 19]  # the same frame header, named lossless


@pytest.mark.parametrize("damage", ["none", "pixels", "junk before it"])
def test_a_photo_is_decoded_once_and_at_full_size(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused file is not decoded again with other parameters."""
    data = {
        "none": BASELINE,
        "pixels": BASELINE[: scan(BASELINE) + 400] + BASELINE[scan(BASELINE) + 900 :],
        "junk before it": BASELINE[:2] + b"\xff\xe5\0\4ab junk " + BASELINE[2:],
    }[damage]
    calls: list[tuple[object, ...]] = []
    decoder = simplejpeg.decode_jpeg

    def decode_jpeg(data: bytes, *options: object, **more: object) -> object:
        calls.append((*options, more))
        return decoder(data, *options, **more)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    assert reason_or_none(data) == ("unreadable" if damage == "pixels" else None)
    assert calls == [("RGB", {"strict": True})]


# --- frames ---------------------------------------------------------------------------------------------------------

NAMES = {  # ITU-T T.81, table B.1, and T.87
    0xC3: "lossless JPEG (SOF3)",
    0xC5: "hierarchical JPEG (SOF5)",
    0xC6: "hierarchical JPEG (SOF6)",
    0xC7: "hierarchical lossless JPEG (SOF7)",
    0xC8: "extended JPEG (JPG)",
    0xCB: "lossless JPEG (SOF11)",
    0xCD: "hierarchical JPEG (SOF13)",
    0xCE: "hierarchical JPEG (SOF14)",
    0xCF: "hierarchical lossless JPEG (SOF15)",
    0xDE: "hierarchical JPEG (DHP)",
    0xDF: "hierarchical JPEG (EXP)",
    0xF7: "JPEG-LS (SOF55)",
}
# 16 x 12 px of gray, written by libjpeg-turbo 2.1 at quality 85 with `arith_code` off and on: the same coefficients.
HUFFMAN = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAUDBAQEAwUEBAQFBQUGBwwIBwcHBw8LCwkMEQ8SEhEPERETFhwXExQaFRERGCEYGh0dHx8fExciJCIe
JBweHx7/wAALCAAMABABAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEG
E1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJ
ipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/AMzxa8L+I9H8
RRsGtZoJLNnB/wBXIxBXP1wR+VeU/FQa1deLLWzWB/szW+wAL8oO45Y+4zxXpNkVjuksDHHJZ3a7ZoHXKNnHOOxHYiuS+Jmu6l4V1r+z9PmSaJVz
G11Gsjxj0DYzj65r/9k="""
ARITHMETIC = {
    0xC9: """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAUDBAQEAwUEBAQFBQUGBwwIBwcHBw8LCwkMEQ8SEhEPERETFhwXExQaFRERGCEYGh0dHx8fExciJCIe
JBweHx7/yQALCAAMABABAREA/8wABgAQEAX/2gAIAQEAAD8A/tdXsJWpnlHrb4eqd13oHwD+TvEikILdSOugKa9taaHpAMtTmYTrJHvuand0Aqj7
YEMMte7sZ6S0SQYtKvIJjCnPfcyrHBqOrQkGog7Epdgwl3FI9p+sRNppLfZXsGPlfB3MGbHNxBHttj9bn7jqvFJK2LT/2Q==""",
    0xCA: """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAUDBAQEAwUEBAQFBQUGBwwIBwcHBw8LCwkMEQ8SEhEPERETFhwXExQaFRERGCEYGh0dHx8fExciJCIe
JBweHx7/ygALCAAMABABAREA/8wABAAQ/9oACAEBAAAAAf2llOhr0sD/zAAEEAX/2gAIAQEAAQUCOaLC/BUsTxdJCwtsP0h1IP/MAAQQBf/aAAgB
AQAGPwITdQ7q06oKjlGzhoiKdQ7TtDAZUCDTRxKhwP/MAAQQBf/aAAgBAQABPyFEPLcwQXz2+pC8MOCAS/WMslp32zqdgf/aAAgBAQAAABDg/8wA
BBAF/9oACAEBAAE/EOQcGHWltldlv6T37Fy4tgySUw243BjfUxG8QJO8fsRjeU40ITj/2Q==""",
}


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every decoder call fail the test."""

    def called(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a decoder is called")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", called)
    monkeypatch.setattr(Image, "_getdecoder", called)


@pytest.mark.usefixtures("no_decoder")
def test_the_fixture_detects_a_decoder_call() -> None:
    for data in (BASELINE, encoded(CAT.convert("CMYK")), encoded(CAT, "TIFF", compression="jpeg")):
        with pytest.raises(PhotoError, match="a decoder is called"):
            rgb_of(data)


def test_frames_that_are_neither_read_nor_refused_do_not_exist() -> None:
    """T.81, table B.1: SOFn are 0xC0 to 0xCF without DHT, JPG and DAC; 0xDE and 0xDF are hierarchical."""
    frames = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
    assert frames | {0xC8, 0xDE, 0xDF, 0xF7} == FRAMES
    assert {0xC0, 0xC1, 0xC2, 0xC9, 0xCA} == FRAMES_READ


def header(precision: int = 8, height: int = 96, width: int = 64, parts: tuple[int, ...] = (0x22, 0x11, 0x11)) -> bytes:
    """Return a JPEG of a frame header and a scan header, without pixels."""
    frame = struct.pack(">HBHHB", 8 + 3 * len(parts), precision, height, width, len(parts))
    frame += b"".join(bytes([number, factors, 0]) for number, factors in enumerate(parts, 1))
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0" + b"\xff\xd9"


BAD_HEADERS = {
    "12 bits": (header(precision=12), "unsupported_format", "12 bits"),
    "16 bits": (header(precision=16), "unsupported_format", "16 bits"),
    "no height": (header(height=0), "unsupported_format", "DNL"),
    "no width": (header(width=0), "unreadable", "width"),
    "no component": (header(parts=()), "unsupported_format", "0 components"),
    "2 components": (header(parts=(0x11, 0x11)), "unsupported_format", "2 components"),
    "5 components": (header(parts=(0x11,) * 5), "unsupported_format", "5 components"),
    "sampling of 0": (header(parts=(0x02, 0x11, 0x11)), "unreadable", "sampling"),
    "sampling of 5": (header(parts=(0x51, 0x11, 0x11)), "unreadable", "sampling"),
    "a second height": (header()[:-2] + b"\xff\xdc\0\4\1\0" + b"\xff\xd9", "unsupported_format", "256 px"),
    "a length that is too long": (header().replace(b"\0\x11\x08", b"\0\x12\x08"), "unreadable", "header"),
    "a length that is too short": (header().replace(b"\0\x11\x08", b"\0\x04\x08"), "unreadable", "header"),
}


@pytest.mark.parametrize(("data", "reason", "word"), BAD_HEADERS.values(), ids=BAD_HEADERS)
@pytest.mark.usefixtures("no_decoder")
def test_a_frame_header_is_checked(data: bytes, reason: str, word: str) -> None:
    error = refusal(lambda: rgb_of(data))
    assert (error.reason, word in str(error)) == (reason, True)
    in_tiff = gray_tiff(data, (273, 4, 1, 256), (279, 4, 1, len(data)))
    assert word in str(refusal(lambda: rgb_of(in_tiff)))


def test_the_same_height_after_the_pixels_is_harmless() -> None:
    same = b"\xff\xdc\0\4" + CAT.height.to_bytes(2, "big")
    np.testing.assert_array_equal(rgb_of(BASELINE[:-2] + same + BASELINE[-2:]), rgb_of(BASELINE))


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.usefixtures("no_decoder")
def test_a_frame_that_is_not_read_is_refused_by_its_marker(kind: int) -> None:
    data = BASELINE[:FRAME] + bytes([0xFF, kind]) + BASELINE[FRAME + 2 :]
    error = refusal(lambda: rgb_of(data))
    assert error.reason == "unsupported_format"
    assert NAMES[kind] in str(error)
    assert make_thumbnail(file_of(data), ICON, DecodeLimits(1_000_000)) is None
    assert read_exif(data)["camera"] == "Unknown"


def before_the_frame(part: bytes) -> bytes:
    return BASELINE[:FRAME] + part + BASELINE[FRAME:]


HIDDEN = {
    "behind fill bytes": before_the_frame(b"\xff" * 9 + OTHER),
    "behind junk": before_the_frame(b"junk \xff\0 \xff\0" + OTHER),
    "behind restarts": before_the_frame(b"\xff\xd0\xff\x01" + OTHER),
    "behind another frame": BASELINE[: FRAME + 19] + OTHER + BASELINE[FRAME + 19 :],
    "at the very beginning": b"\xff\xd8" + OTHER + BASELINE[2:],
    "behind tables and an end": before_the_frame(b"\xff\xd9\xff\xd8" + OTHER),
    "behind a length of 0": before_the_frame(b"\xff\xe5\0\0" + OTHER),
    "behind a length of 1": before_the_frame(b"\xff\xe5\0\1" + OTHER),
    "behind a length that is too short": before_the_frame(b"\xff\xe5\0\4abcdef" + OTHER),
    "behind a segment with another frame": before_the_frame(b"\xff\xe5\0\6\xff\xc0ab" + OTHER),
    "behind a reserved marker": before_the_frame(b"\xff\xf0\0\4ab" + OTHER),
    "without an end": before_the_frame(OTHER)[: FRAME + 4],
}


@pytest.mark.parametrize("data", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.usefixtures("no_decoder")
def test_hidden_frames_are_found(data: bytes) -> None:
    assert reason_of(data) == "unsupported_format"


@pytest.mark.usefixtures("no_decoder")
def test_a_hierarchical_file_has_frames_behind_the_first_scan() -> None:
    head = b"\xff\xde" + BASELINE[FRAME + 2 : FRAME + 19]
    several = BASELINE[:FRAME] + head + BASELINE[FRAME:-2] + b"\xff\xdf\0\3\x11" + OTHER + BASELINE[FRAME + 19 :]
    assert "hierarchical JPEG (DHP)" in str(refusal(lambda: rgb_of(several)))


EXIF_WITH_THUMBNAIL = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0" + bytes(4) + b"\xff\xd8" + OTHER
HARMLESS = {
    "a thumbnail in EXIF": encoded(CAT, exif=EXIF_WITH_THUMBNAIL),
    "a comment": encoded(CAT, comment=OTHER),
    "a profile": encoded(CAT, icc_profile=OTHER * 9000),
    "a segment of another program": b"\xff\xd8" + b"\xff\xe5\0\x15" + OTHER + BASELINE[2:],
    "behind the end": BASELINE + b"\xff\xd8" + OTHER,
}


@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS)
def test_markers_outside_the_photos_frames_are_ignored(data: bytes) -> None:
    assert OTHER in data
    np.testing.assert_array_equal(rgb_of(data), rgb_of(BASELINE))


def test_frames_after_the_first_scan_are_ignored() -> None:
    """Decoders accept only one frame."""
    start = scan(BASELINE) + 26
    assert open_image(BASELINE[:start] + OTHER + BASELINE[start:]).size == CAT.size


def test_extended_frames_are_read_like_baseline_ones() -> None:
    extended = BASELINE[:FRAME] + b"\xff\xc1" + BASELINE[FRAME + 2 :]
    np.testing.assert_array_equal(rgb_of(extended), rgb_of(BASELINE))


@pytest.mark.parametrize("kind", ARITHMETIC)
def test_arithmetic_coding_is_read(kind: int) -> None:
    data = base64.b64decode(ARITHMETIC[kind])
    assert bytes([0xFF, kind]) in data
    np.testing.assert_array_equal(rgb_of(data), rgb_of(base64.b64decode(HUFFMAN)))
    assert make_thumbnail(file_of(data), ICON, DecodeLimits(1_000_000)) is not None


@pytest.mark.usefixtures("no_decoder")
def test_a_header_cut_anywhere_is_an_error_of_the_photo() -> None:
    for end in range(2, scan(BASELINE)):
        assert reason_of(BASELINE[:end]) in ("unreadable", "truncated")


def test_a_jpeg_without_a_frame_is_damaged() -> None:
    assert reason_of(BASELINE[:FRAME] + BASELINE[FRAME + 19 :]) == "unreadable"


@pytest.mark.parametrize("part", [b"\xff\xd8", b"\xff\xd9", b"\xff\xf0\0\4ab", b"\xff\x02\0\4ab"])
def test_unusual_markers_are_not_removed(part: bytes) -> None:
    """Only metadata is removed before decoding."""
    assert reason_of(before_the_frame(part)) in ("unreadable", "truncated")


def test_segments_are_found_by_their_lengths() -> None:
    data = (
        b"\xff\xd8" + b"\xff\xe1\0\6\xff\xc3ab" + b"junk" + b"\xff\xff\xda\0\2" + b"\xff\0\xff\xd3pixels" + b"\xff\xd9"
    )
    assert list(segments(data)) == [(0xD8, 0, 2), (0xE1, 2, 10), (0xDA, 15, 19), (0xD9, 29, 31)]
    whole = list(segments(BASELINE))
    assert all(one.end == next_one.start for one, next_one in pairwise(whole[:-1]))


# --- JPEGs in a TIFF ------------------------------------------------------------------------------------------------


def with_other_frame(data: bytes) -> bytes:
    """Return a file with its last JPEG marked as lossless."""
    frame = data.rindex(b"\xff\xc0\0")
    return data[:frame] + b"\xff\xc3" + data[frame + 2 :]


@pytest.mark.parametrize("options", [{}, {"tiffinfo": {278: 16}}, {"big_tiff": True}], ids=["one", "strips", "BigTIFF"])
@pytest.mark.usefixtures("no_decoder")
def test_frames_in_a_tiff_are_checked(options: dict[str, Any]) -> None:
    for photo in (CAT, CAT.convert("L")):
        data = with_other_frame(encoded(photo, "TIFF", compression="jpeg", **options))
        error = refusal(lambda data=data: rgb_of(data))
        assert (error.reason, "lossless JPEG (SOF3)" in str(error)) == ("unsupported_format", True)
        assert make_thumbnail(file_of(data), ICON, DecodeLimits(1_000_000)) is None


def gray_tiff(jpeg: bytes, *more: tuple[int, int, int, int], compression: int = 7, order: str = "<") -> bytes:
    size = [(256, 4, 1, CAT.width), (257, 4, 1, CAT.height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return tiff([*size, (277, 3, 1, 1), *more], jpeg, order=order)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [6, 7])
@pytest.mark.usefixtures("no_decoder")
def test_strips_tiles_and_old_style_jpegs_are_checked(compression: int, order: str) -> None:
    jpeg = encoded(CAT.convert("L"))
    for tag in (273, 324, 513):
        where = ((tag, 4, 1, 256), (279, 4, 1, len(jpeg)))
        bad, good = (
            gray_tiff(data, *where, compression=compression, order=order) for data in (with_other_frame(jpeg), jpeg)
        )
        assert "SOF3" in str(refusal(lambda bad=bad: rgb_of(bad)))
        assert "SOF3" not in str(refusal(lambda good=good: rgb_of(good)))


@pytest.mark.usefixtures("no_decoder")
def test_every_strip_is_checked() -> None:
    jpeg = encoded(CAT.convert("L"))
    for kind, code in ((3, "H"), (4, "I"), (16, "Q")):
        places = struct.pack(f"<3{code}", 300, 300 + len(jpeg), 300 + 2 * len(jpeg))
        data = gray_tiff(places.ljust(44, b"\0") + jpeg * 2 + with_other_frame(jpeg), (273, kind, 3, 256))
        assert "SOF3" in str(refusal(lambda data=data: rgb_of(data)))


def test_pixels_that_look_like_a_jpeg_are_none() -> None:
    pixels = (b"\xff\xd8" + OTHER).ljust(CAT.width * CAT.height, b"\x80")
    data = gray_tiff(pixels, (273, 4, 1, 256), (278, 4, 1, CAT.height), (279, 4, 1, len(pixels)), compression=1)
    assert rgb_of(data)[0, :4, 0].tolist() == [0xFF, 0xD8, 0xFF, 0xC3]


def test_jpegs_in_a_tiff_are_read_as_before() -> None:
    for photo in (CAT, CAT.convert("L")):
        data = encoded(photo, "TIFF", compression="jpeg", tiffinfo={278: 16})
        np.testing.assert_array_equal(rgb_of(data), pillows(data))


def test_a_tiff_of_many_long_headers_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each strip is a header of many segments, and the strips overlap."""
    seen: list[Segment] = []
    ticks = count()
    monkeypatch.setattr(limits.time, "thread_time", lambda: next(ticks))  # each call takes a second
    monkeypatch.setattr(limits, "segments", lambda *at: (seen.append(one) or one for one in segments(*at)))
    places = struct.pack("<100I", *(656 + 4 * number for number in range(100)))
    data = gray_tiff(places + b"\xff\xe5\0\2" * 200, (273, 4, 100, 256))
    assert refusal(lambda: decoded(data, max_seconds=20)).reason == "too_slow"
    assert 10 < len(seen) < 30


def test_no_real_file_is_refused_for_its_frame(shared_data: Path) -> None:
    folders = [shared_data / name for name in ("photos", "corrupt", "inputs/whole-jpeg-refused")]
    files = [path.read_bytes() for folder in folders for path in folder.iterdir() if path.is_file()]
    photos = [data for data in files if data.startswith((b"\xff\xd8", b"II*\0", b"MM\0*"))]
    assert len(photos) > 40
    assert not any(_has_refused_frame(data) for data in photos)


def _has_refused_frame(data: bytes) -> bool:
    try:
        open_image(data)
    except Exception as error:
        return isinstance(error, PhotoError) and error.reason == "unsupported_format"
    return False


# --- reduced --------------------------------------------------------------------------------------------------------


@EACH_VARIANT
def test_a_reduced_photo_is_pillows_draft(options: dict[str, Any]) -> None:
    data = encoded(WHOLE_CAT, **options)
    for min_side, divisor in ((452, 1), (451, 1), (226, 2), (114, 2), (113, 4), (57, 8), (1, 8)):
        stored = read_jpeg(data, LIMITS, min_side=min_side)
        draft = Image.open(BytesIO(data))
        if divisor > 1:
            draft.draft("RGB", (451 // divisor, 300 // divisor))
        assert stored.size == (451, 300)
        np.testing.assert_array_equal(stored.pixels, np.asarray(draft))


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 1), (16, 8)])
def test_a_reduced_photo_has_no_empty_side(size: tuple[int, int]) -> None:
    stored = read_jpeg(encoded(CAT.resize(size)), LIMITS, min_side=1)
    assert stored.pixels.shape == (-(-size[1] // 8), -(-size[0] // 8), 3)


def test_damage_and_padding_are_judged_when_reduced() -> None:
    for damaged in (*LOST.values(), *CUT.values()):
        assert refusal(lambda damaged=damaged: read_jpeg(damaged, LIMITS, min_side=20)).reason in (
            "unreadable",
            "truncated",
        )
    for kind in ("a pattern before the end", "no end", "an unknown colour transform"):
        data = WHOLE[kind](WHOLE_BASELINE)
        assert read_jpeg(data, LIMITS, min_side=20).size == (451, 300)


def test_arithmetic_coding_is_never_reduced() -> None:
    data = base64.b64decode(ARITHMETIC[0xC9])
    assert read_jpeg(data, LIMITS, min_side=1).pixels.shape == (12, 16, 3)


# --- profile and notes ----------------------------------------------------------------------------------------------


def profile_part(number: int, count: int, payload: bytes) -> bytes:
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + payload)


def segment(kind: int, payload: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(payload) + 2) + payload


A, B = bytes(range(200)), bytes(range(100, 150))
PROFILES = {
    "none": (b"", None),
    "one": (profile_part(1, 1, A), A),
    "two": (profile_part(1, 2, A) + profile_part(2, 2, B), A + B),
    "two in another order": (profile_part(2, 2, B) + profile_part(1, 2, A), A + B),
    "one is missing": (profile_part(1, 3, A) + profile_part(3, 3, B), "broken"),
    "one is there twice": (profile_part(1, 2, A) + profile_part(2, 2, B) * 2, "broken"),
    "two counts": (profile_part(1, 2, A) + profile_part(2, 3, B), "broken"),
    "number 0": (profile_part(0, 1, A), "broken"),
}


@pytest.mark.parametrize(("parts", "expected"), PROFILES.values(), ids=PROFILES)
def test_a_profile_is_joined_from_its_segments(parts: bytes, expected: bytes | str | None) -> None:
    stored = read_jpeg(BASELINE[:2] + parts + BASELINE[2:], LIMITS)
    assert stored.profile == (None if expected == "broken" else expected)
    assert stored.notes == (("profile_ignored",) if expected == "broken" else ())
    np.testing.assert_array_equal(stored.pixels, rgb_of(BASELINE))


def test_a_profile_of_several_segments_is_pillows() -> None:
    profile = random.Random(1).randbytes(200_000)
    data = encoded(CAT, icc_profile=profile)
    assert read_jpeg(data, LIMITS).profile == profile == Image.open(BytesIO(data)).info["icc_profile"]


def xmp(text: str) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text.encode())


def with_segments(*parts: bytes) -> bytes:
    return BASELINE[:2] + b"".join(parts) + BASELINE[2:]


PAIR = encoded(CAT, "MPO", save_all=True, append_images=[CAT.rotate(180)])
SECOND = PAIR.rindex(b"\xff\xd8\xff")
NOTES = {
    "plain": (BASELINE, ()),
    "a thumbnail": (encoded(CAT, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + bytes(4) + BASELINE), ()),
    "MPO": (PAIR, ("multi_picture",)),
    "MPO of one picture": (PAIR[:SECOND], ()),
    "Ultra HDR": (with_segments(xmp('<x hdrgm:Version="1.0"/>')), ("gain_map",)),
    "Google's container": (with_segments(xmp('<Container:Item Item:Semantic="GainMap"/>')), ("gain_map",)),
    "ISO 21496-1": (with_segments(segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")), ("gain_map",)),
    "Apple": (
        PAIR[: SECOND + 2] + xmp("<a>urn:com:apple:photo:2020:aux:hdrgainmap</a>") + PAIR[SECOND + 2 :],
        ("multi_picture", "gain_map"),
    ),
    "Google's motion photo": (with_segments(xmp('<x GCamera:MotionPhoto="1"/>')), ("motion_photo",)),
    "Google's former motion photo": (
        with_segments(xmp("<GCamera:MicroVideo>1</GCamera:MicroVideo>")),
        ("motion_photo",),
    ),
    "not a motion photo": (with_segments(xmp('<x GCamera:MotionPhoto="0"/>')), ()),
    "Samsung's motion photo": (
        BASELINE + b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data\0\0\0\x18ftypmp42SEFT",
        ("motion_photo",),
    ),
}


@pytest.mark.parametrize(("data", "notes"), NOTES.values(), ids=NOTES)
def test_kinds_of_compound_files_are_noted(data: bytes, notes: tuple[str, ...]) -> None:
    photo = decoded(data)
    assert photo.notes == notes
    np.testing.assert_array_equal(photo.rgb, pillows(data))


def test_damaged_metadata_is_no_error() -> None:
    index = PAIR.index(b"MPF\0")
    flips = random.Random(2)
    for _ in range(200):
        damaged = bytearray(PAIR)
        for _ in range(3):
            damaged[flips.randrange(index + 4, index + 90)] ^= flips.randrange(1, 256)
        assert set(read_notes(bytes(damaged))) <= {"multi_picture"}
    assert read_notes(PAIR.replace(b"MPF\0II*\0\x08", b"MPF\0II*\0\xf8")) == ()
