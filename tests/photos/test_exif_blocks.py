"""EXIF in the containers of every format, whole and damaged."""

from __future__ import annotations

import json
import struct
import time
from functools import cache

import pytest
from exif_files import EXPECTED, FILES, WHOLE, box, jpeg, jpeg_xl, segment
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import CAT, encoded, png

from curation_features.photos.exif.fields import read_exif

VALUES = st.sampled_from([bytes(4), b"\xff" * 4, b"\0\0\0\1"]) | st.binary(max_size=8)
XMP = b"http://ns.adobe.com/xap/1.0/\0"


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_exif(name: str) -> None:
    assert read_exif(FILES[name]()) == EXPECTED


@pytest.mark.parametrize(
    ("packet", "datetime"),
    [
        (b'<x exif:DateTimeOriginal="2010-07-11T13:53:00+02:00"/>', "2010:07:11 13:53:00"),
        (b"<photoshop:DateCreated>2010-07-11T13:53:00</photoshop:DateCreated>", "2010:07:11 13:53:00"),
        (
            b"<x photoshop:DateCreated='2011-01-01' exif:DateTimeDigitized = '2010-07-11T13:53:00'/>",
            "2010:07:11 13:53:00",
        ),
        (b'<x xmp:ModifyDate="2010-07-11T13:53:00" xmp:CreateDate="2010-07-11T13:53:00"/>', None),
    ],
)
def test_xmp_has_the_date_if_exif_has_none(packet: bytes, datetime: str | None) -> None:
    for data in (
        jpeg(segment(XMP + packet)),
        encoded(CAT, "WEBP", xmp=packet),
        encoded(CAT, "TIFF", tiffinfo={700: 9000 * b" " + packet}),
        encoded(CAT, "PNG")[:33] + png(b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + packet)[8:],
        jpeg_xl(box(b"xml ", packet)),
    ):
        assert read_exif(data)["datetime"] == datetime
    with_exif = jpeg(segment(XMP + packet), segment(b"Exif\0\0" + WHOLE))
    assert read_exif(with_exif)["datetime"] == EXPECTED["datetime"]


def test_tags_behind_the_first_picture_are_not_its_own() -> None:
    other = encoded(CAT, exif=b"Exif\0\0" + WHOLE)
    assert read_exif(encoded(CAT) + other) == read_exif(b"")
    assert read_exif(encoded(CAT, "PNG") + png(b"eXIf" + WHOLE)[8:]) == read_exif(b"")


@cache
def made(name: str) -> bytes:
    try:
        return FILES[name]()
    except pytest.skip.Exception:  # its package is not installed
        return FILES["a.jpg"]()


@pytest.mark.long
@settings(max_examples=200)
@given(st.sampled_from([*FILES]), st.data())
def test_damaged_files_give_finite_values_in_time(name: str, data: st.DataObject) -> None:
    file = bytearray(made(name))
    start = max(file.find(b"MM\0*"), file.find(b"meta"), 0)
    for _ in range(data.draw(st.integers(1, 4))):
        place = start + data.draw(st.integers(0, min(400, len(file) - start)))
        file[place : place + 4] = data.draw(
            st.sampled_from([bytes(4), b"\xff" * 4, b"\0\0\0\1"]) | st.binary(max_size=8)
        )
    begin = time.thread_time()
    found = read_exif(bytes(file[: len(file) - data.draw(st.integers(0, 9))]))
    assert time.thread_time() - begin < 5
    json.dumps(found, allow_nan=False)
    assert list(found)[:8] == list(EXPECTED)[:8]


def test_tables_that_repeat_an_item_are_read_once() -> None:
    names = box(b"iinf", struct.pack(">IH", 0, 1), box(b"infe", struct.pack(">IHH4sx", 2 << 24, 3, 0, b"Exif")))
    repeated = struct.pack(">4H", 3, 0, 0, 65_535) * 65_535  # each with 65,535 pieces of no length
    places = box(b"iloc", struct.pack(">IBBH", 1 << 24, 0, 0, 65_535), repeated)
    begin = time.thread_time()
    assert read_exif(box(b"ftyp", b"heic\0\0\0\0") + box(b"meta", bytes(4), names, places)) == read_exif(b"")
    assert time.thread_time() - begin < 5
