"""JPEG decoding: pixels equal Pillow's; damage is refused, and an unsupported frame before any decoder runs."""

from __future__ import annotations

import base64
import random
import struct
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
from curation_features.photos.decoding_version import decoding_version
from curation_features.photos.exif import read_exif
from curation_features.photos.jpeg import jpeg_pixels
from curation_features.photos.jpeg_segments import Segment, segments
from curation_features.photos.limits import open_image
from curation_features.photos.thumbnails import thumbnail

WHOLE_CAT = Image.fromarray(bundled.chelsea())
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


def test_cmyk_is_decoded_by_pillow() -> None:
    cmyk = encoded(WHOLE_CAT.convert("CMYK"), quality=95)
    np.testing.assert_array_equal(rgb_of(cmyk), pillows(cmyk))


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


def test_harmless_extra_bytes_are_not_damage() -> None:
    data = encoded(WHOLE_CAT)
    aligned, padded = (data[:-2] + rest + data[-2:] for rest in (bytes(range(1, 17)), bytes(5000)))
    before = data[:2] + b"\xff\xe5\0\4ab junk " + data[2:]
    for harmless in (aligned, padded, before, data + b"behind the end"):
        np.testing.assert_array_equal(rgb_of(harmless), pillows(data))


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
    assert calls == [("RGB", {})]


# --- frames ---------------------------------------------------------------------------------------------------------

NAMES = {  # ITU-T T.81, table B.1, and T.87
    0xC3: "lossless JPEG (SOF3)",
    0xC5: "hierarchical JPEG (SOF5)",
    0xC6: "hierarchical JPEG (SOF6)",
    0xC7: "hierarchical lossless JPEG (SOF7)",
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


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.usefixtures("no_decoder")
def test_a_frame_that_is_not_read_is_refused_by_its_marker(kind: int) -> None:
    data = BASELINE[:FRAME] + bytes([0xFF, kind]) + BASELINE[FRAME + 2 :]
    error = refusal(lambda: rgb_of(data))
    assert error.reason == "unsupported_format"
    assert NAMES[kind] in str(error)
    assert thumbnail(file_of(data), max_pixels=1_000_000) is None
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
    assert thumbnail(file_of(data), max_pixels=1_000_000) is not None


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
        assert thumbnail(file_of(data), max_pixels=1_000_000) is None


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
