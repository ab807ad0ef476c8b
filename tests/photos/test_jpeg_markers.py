"""Unsupported JPEG frames are refused by their marker before any decoder runs. Supported ones never are."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from io import BytesIO
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import simplejpeg
from pictures import decoded, encoded, file_of, rgb_of
from PIL import Image
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.ingest.exif import read_exif
from curation_features.photos import limits
from curation_features.photos.jpeg import Segment, segments
from curation_features.photos.limits import MAX_SCANS, open_image
from curation_features.photos.thumbnails import thumbnail

CAT = Image.fromarray(bundled.chelsea()[60:156, 100:164])
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


BASELINE = encoded(CAT)
FRAME = BASELINE.index(b"\xff\xc0")
OTHER = b"\xff\xc3" + BASELINE[FRAME + 2 : FRAME + 19]  # the same frame header, named lossless


def refusal(data: bytes) -> PhotoError:
    with pytest.raises(PhotoError) as caught:
        rgb_of(data)
    return caught.value


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every decoder call fail the test."""

    def called(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a decoder is called")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", called)
    monkeypatch.setattr(Image, "_getdecoder", called)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.usefixtures("no_decoder")
def test_a_frame_that_is_not_read_is_refused_by_its_marker(kind: int) -> None:
    data = BASELINE[:FRAME] + bytes([0xFF, kind]) + BASELINE[FRAME + 2 :]
    error = refusal(data)
    assert error.reason == "unsupported_format"
    assert NAMES[kind] in str(error)
    assert thumbnail(file_of(data), max_pixels=1_000_000) is None
    assert read_exif(data)["camera"] == "Unknown"


@pytest.mark.usefixtures("no_decoder")
def test_the_fixture_detects_a_decoder_call() -> None:
    for data in (BASELINE, encoded(CAT.convert("CMYK")), encoded(CAT, "TIFF", compression="jpeg")):
        with pytest.raises(PhotoError, match="a decoder is called"):
            rgb_of(data)


def before_the_frame(part: bytes) -> bytes:
    return BASELINE[:FRAME] + part + BASELINE[FRAME:]


HIDDEN: dict[str, Callable[[], bytes]] = {
    "behind fill bytes": lambda: before_the_frame(b"\xff" * 9 + OTHER),
    "behind junk": lambda: before_the_frame(b"junk \xff\0 \xff\0" + OTHER),
    "behind restarts": lambda: before_the_frame(b"\xff\xd0\xff\x01" + OTHER),
    "behind another frame": lambda: BASELINE[: FRAME + 19] + OTHER + BASELINE[FRAME + 19 :],
    "at the very beginning": lambda: b"\xff\xd8" + OTHER + BASELINE[2:],
    "behind tables and an end": lambda: BASELINE[:FRAME] + b"\xff\xd9\xff\xd8" + OTHER + BASELINE[FRAME:],
    "behind a length of 0": lambda: before_the_frame(b"\xff\xe5\0\0" + OTHER),
    "behind a length of 1": lambda: before_the_frame(b"\xff\xe5\0\1" + OTHER),
    "behind a length that is too short": lambda: before_the_frame(b"\xff\xe5\0\4abcdef" + OTHER),
    "behind a segment with another frame": lambda: before_the_frame(b"\xff\xe5\0\6\xff\xc0ab" + OTHER),
    "behind a reserved marker": lambda: before_the_frame(b"\xff\xf0\0\4ab" + OTHER),
    "without an end": lambda: before_the_frame(OTHER)[: FRAME + 4],
}


@pytest.mark.parametrize("where", HIDDEN)
@pytest.mark.usefixtures("no_decoder")
def test_hidden_frames_are_found(where: str) -> None:
    assert refusal(HIDDEN[where]()).reason == "unsupported_format"


@pytest.mark.usefixtures("no_decoder")
def test_a_hierarchical_file_has_frames_behind_the_first_scan() -> None:
    head = b"\xff\xde" + BASELINE[FRAME + 2 : FRAME + 19]
    several = BASELINE[:FRAME] + head + BASELINE[FRAME:-2] + b"\xff\xdf\0\3\x11" + OTHER + BASELINE[FRAME + 19 :]
    assert "hierarchical JPEG (DHP)" in str(refusal(several))


def exif_with(thumbnail: bytes) -> bytes:
    return b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0" + struct.pack("<I", 0) + thumbnail


HARMLESS: dict[str, Callable[[], bytes]] = {
    "a thumbnail in EXIF": lambda: encoded(CAT, exif=exif_with(b"\xff\xd8" + OTHER)),
    "a comment": lambda: encoded(CAT, comment=OTHER),
    "a profile": lambda: encoded(CAT, icc_profile=OTHER * 9000),
    "a segment of another program": lambda: b"\xff\xd8" + b"\xff\xe5\0\x15" + OTHER + BASELINE[2:],
    "behind the end": lambda: BASELINE + b"\xff\xd8" + OTHER,
}


@pytest.mark.parametrize("where", HARMLESS)
def test_markers_outside_the_photos_frames_are_ignored(where: str) -> None:
    data = HARMLESS[where]()
    assert OTHER in data
    np.testing.assert_array_equal(rgb_of(data), rgb_of(BASELINE))


def test_frames_after_the_first_scan_are_ignored() -> None:
    """Decoders accept only one frame."""
    scan = BASELINE.index(b"\xff\xda")
    assert open_image(BASELINE[: scan + 40] + OTHER + BASELINE[scan + 40 :]).size == CAT.size


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
    for end in range(2, BASELINE.index(b"\xff\xda") + 14):
        assert refusal(BASELINE[:end]).reason in ("unreadable", "truncated")


def test_a_jpeg_without_a_frame_is_damaged() -> None:
    assert refusal(BASELINE[:FRAME] + BASELINE[FRAME + 19 :]).reason == "unreadable"


def test_segments_are_found_by_their_lengths() -> None:
    data = (
        b"\xff\xd8" + b"\xff\xe1\0\6\xff\xc3ab" + b"junk" + b"\xff\xff\xda\0\2" + b"\xff\0\xff\xd3pixels" + b"\xff\xd9"
    )
    found = list(segments(data))
    assert [(segment.kind, segment.start, segment.end) for segment in found] == [
        (0xD8, 0, 2),
        (0xE1, 2, 10),
        (0xDA, 15, 19),
        (0xD9, 29, 31),
    ]
    whole = list(segments(BASELINE))
    assert all(one.end == next_one.start for one, next_one in pairwise(whole[:-1]))


# --- damage is detected by decoding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["none", "pixels", "junk before it"])
def test_a_photo_is_decoded_once_and_at_full_size(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused file is not decoded again with other parameters."""
    scan = BASELINE.index(b"\xff\xda") + 14
    data = {
        "none": BASELINE,
        "pixels": BASELINE[: scan + 400] + BASELINE[scan + 900 :],
        "junk before it": BASELINE[:2] + b"\xff\xe5\0\4ab junk " + BASELINE[2:],
    }[damage]
    calls: list[tuple[object, ...]] = []
    decoder = simplejpeg.decode_jpeg

    def decode_jpeg(data: bytes, *options: object, **more: object) -> object:
        calls.append((*options, more))
        return decoder(data, *options, **more)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    if damage == "pixels":
        assert "the image is damaged" in str(refusal(data))
    else:
        assert rgb_of(data).shape == (96, 64, 3)
    assert calls == [("RGB", {})]


@pytest.mark.parametrize("part", [b"\xff\xd8", b"\xff\xd9", b"\xff\xf0\0\4ab", b"\xff\x02\0\4ab"])
def test_unusual_markers_are_not_removed(part: bytes) -> None:
    """Only metadata is removed before decoding."""
    assert refusal(before_the_frame(part)).reason in ("unreadable", "truncated")


def test_scans_behind_an_empty_image_are_counted_too() -> None:
    data = encoded(CAT.convert("L"), progressive=True)
    start = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    end = data.index(b"\xff\xc4", start)
    many = data[:end] + data[start : start + 10] * MAX_SCANS + data[end:]
    for prefix in (b"", b"\xff\xd8\xff\xd9"):
        assert refusal(prefix + many).reason == "too_large"


# --- JPEGs in a TIFF ------------------------------------------------------------------------------------------------


def with_other_frame(data: bytes, which: int = -1) -> bytes:
    """Return a TIFF with one JPEG marked as lossless."""
    frames = [start for start in range(len(data)) if data.startswith(b"\xff\xc0\0", start)]
    return data[: frames[which]] + b"\xff\xc3" + data[frames[which] + 2 :]


@pytest.mark.parametrize("options", [{}, {"tiffinfo": {278: 16}}, {"big_tiff": True}], ids=["one", "strips", "BigTIFF"])
@pytest.mark.usefixtures("no_decoder")
def test_frames_in_a_tiff_are_checked(options: dict[str, Any]) -> None:
    for photo in (CAT, CAT.convert("L")):
        data = encoded(photo, "TIFF", compression="jpeg", **options)
        error = refusal(with_other_frame(data))
        assert (error.reason, "lossless JPEG (SOF3)" in str(error)) == ("unsupported_format", True)
        assert thumbnail(file_of(with_other_frame(data)), max_pixels=1_000_000) is None


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes, order: str = "<") -> bytes:
    """Return a TIFF: directory of (tag, type, count, value), `tail` at 256."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries))
    body = b"".join(
        struct.pack(f"{order}HHI", *entry[:3])
        + struct.pack(f"{order}{'H2x' if entry[1:3] == (3, 1) else 'I'}", entry[3])
        for entry in sorted(entries)
    )
    return (head + body + bytes(4)).ljust(256, b"\0") + tail


def gray_tiff(jpeg: bytes, *more: tuple[int, int, int, int], compression: int = 7, order: str = "<") -> bytes:
    size = [(256, 4, 1, CAT.width), (257, 4, 1, CAT.height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return tiff([*size, (277, 3, 1, 1), *more], jpeg, order)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [6, 7])
@pytest.mark.usefixtures("no_decoder")
def test_strips_tiles_and_old_style_jpegs_are_checked(compression: int, order: str) -> None:
    jpeg = encoded(CAT.convert("L"))
    bad = with_other_frame(jpeg)
    for tag in (273, 324, 513):
        where = ((tag, 4, 1, 256), (279, 4, 1, len(jpeg)))
        assert "SOF3" in str(refusal(gray_tiff(bad, *where, compression=compression, order=order)))
        assert "SOF3" not in str(refusal(gray_tiff(jpeg, *where, compression=compression, order=order)))


@pytest.mark.usefixtures("no_decoder")
def test_every_strip_is_checked() -> None:
    jpeg = encoded(CAT.convert("L"))
    for kind, code in ((3, "H"), (4, "I"), (16, "Q")):
        places = struct.pack(f"<3{code}", 300, 300 + len(jpeg), 300 + 2 * len(jpeg))
        data = gray_tiff(places.ljust(44, b"\0") + jpeg * 2 + with_other_frame(jpeg), (273, kind, 3, 256))
        assert "SOF3" in str(refusal(data))


def test_pixels_that_look_like_a_jpeg_are_none() -> None:
    pixels = (b"\xff\xd8" + OTHER).ljust(CAT.width * CAT.height, b"\x80")
    data = gray_tiff(pixels, (273, 4, 1, 256), (278, 4, 1, CAT.height), (279, 4, 1, len(pixels)), compression=1)
    assert rgb_of(data)[0, :4, 0].tolist() == [0xFF, 0xD8, 0xFF, 0xC3]


def test_jpegs_in_a_tiff_are_read_as_before() -> None:
    for photo in (CAT, CAT.convert("L")):
        data = encoded(photo, "TIFF", compression="jpeg", tiffinfo={278: 16})
        np.testing.assert_array_equal(rgb_of(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


def test_a_tiff_of_many_long_headers_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each strip is a header of many segments, and the strips overlap."""
    seen: list[Segment] = []
    ticks = count()
    monkeypatch.setattr(limits.time, "thread_time", lambda: next(ticks))  # each call takes a second
    monkeypatch.setattr(limits, "segments", lambda *at: (seen.append(one) or one for one in segments(*at)))
    places = struct.pack("<100I", *(656 + 4 * number for number in range(100)))
    data = gray_tiff(places + b"\xff\xe5\0\2" * 200, (273, 4, 100, 256))
    with pytest.raises(PhotoError) as caught:
        decoded(data, max_seconds=20)
    assert caught.value.reason == "too_slow"
    assert 10 < len(seen) < 30


def test_no_real_file_is_refused_for_its_frame(shared_data: Path) -> None:
    folders = [shared_data / name for name in ("photos", "corrupt", "inputs/whole-jpeg-refused")]
    files = [path.read_bytes() for folder in folders for path in folder.iterdir() if path.is_file()]
    starts = (b"\xff\xd8", b"II*\0", b"MM\0*")
    photos = [data for data in files if data.startswith(starts)]
    assert len(photos) > 40
    assert not any(_is_of_a_refused_frame(data) for data in photos)


def _is_of_a_refused_frame(data: bytes) -> bool:
    try:
        open_image(data)
    except PhotoError as error:
        return error.reason == "unsupported_format"
    except Exception:
        return False
    return False
