"""What keeps a small hostile file from costing much time or memory: limits that hold before, and while, it is decoded.

Pillow parses metadata in Python and decodes pixels in C. The parsing is bounded by the time that `TimedBytes` allows.
A call into C cannot be interrupted; it is bounded by what it is allowed to begin with: pixels, the scans of a JPEG,
the tiles and the directory of a TIFF.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from io import BytesIO

from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from curation_features.errors import PhotoError

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
}
"""The formats that are read, and how files of each are called, the usual suffix first."""

FORMATS = tuple(SUFFIXES)
"""What is read, whatever a file is called. A multi-picture or Ultra HDR JPEG counts as the JPEG it begins with."""

MAX_SECONDS = 60.0
"""Of a thread's own work on one photo, unless `Settings.max_decode_seconds` says otherwise."""

MAX_SCANS = 100
"""Scans of one JPEG. A progressive one has about ten; each, even an empty one, costs a pass over all its blocks."""

MAX_EXIF_BYTES = 8_000_000
"""Of a PNG, WebP or AVIF, all in one block; in a JPEG a segment holds 64 kB. What is larger is not looked at."""

_MAX_SEGMENTS = 10_000  # of one JPEG; an ICC profile has up to 255
_MAX_ENTRIES = 65_535  # in a directory, which a BigTIFF may exceed
_MAX_NUMBERS = 1_000_000  # in one tag of a TIFF: its strips or tiles, say
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # all that may follow a scan and have a length, and the end
_TIFF_NUMBERS = frozenset({3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18})  # types of which Pillow makes Python's numbers


class TimedBytes(BytesIO):
    """A file in memory that can be read only for so long: every loop of a parser ends, whatever the bytes say.

    The time is that of the thread's own work, so that a busy machine fails no photo.

    Args:
        seconds: after so long `read` raises `PhotoError`, reason `too_slow`.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file's."""
        if time.thread_time() > self._end:
            raise PhotoError("too_slow", f"decoding takes more than max_decode_seconds ({self._seconds:g})")
        return super().read(size)


def open_image(data: bytes, *, formats: tuple[str, ...] = FORMATS, seconds: float = MAX_SECONDS) -> Image.Image:
    """The image in a file, its pixels not yet decoded. Other formats are not even tried.

    Raises:
        PhotoError: `too_large`: a TIFF whose directory holds more numbers than Python could sensibly make objects of;
            `too_slow`, here or when the pixels are loaded.
        Exception: what Pillow says of the bytes.
    """
    for tag, kind, count in _directory(data):
        if kind in _TIFF_NUMBERS and count > _MAX_NUMBERS:
            raise PhotoError("too_large", f"TIFF tag {tag} has {count} numbers, more than {_MAX_NUMBERS}")
    return Image.open(TimedBytes(data, seconds), formats=formats)


def read_tags(image: Image.Image) -> Image.Exif:
    """The EXIF tags of an image; none where they take more than `MAX_EXIF_BYTES`.

    Raises:
        Exception: what Pillow says of damaged ones.
    """
    return image.getexif() if len(image.info.get("exif") or b"") <= MAX_EXIF_BYTES else Image.Exif()


def check_before_pixels(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuse what would take much work or memory, before its pixels are decoded.

    Args:
        image: as `open_image` gave it.
        data: its file.
        max_pixels: width times height of the image, and of a tile of it.

    Raises:
        PhotoError: `too_large`.
    """
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise PhotoError("too_large", f"the image has {size} px, more than max_pixels ({max_pixels})")
    if isinstance(image, TiffImageFile):
        tile = (image.tag_v2.get(TILEWIDTH, 0), image.tag_v2.get(TILELENGTH, 0))
        if tile[0] * tile[1] > max_pixels:
            raise PhotoError("too_large", f"a tile has {tile[0]} x {tile[1]} px, more than max_pixels ({max_pixels})")
    if image.format in ("JPEG", "MPO") and _has_many_scans(data):
        raise PhotoError("too_large", f"the JPEG has more than {MAX_SCANS} scans, or {_MAX_SEGMENTS} segments")


def _has_many_scans(data: bytes) -> bool:
    if data.count(b"\xff\xda") <= MAX_SCANS:  # and no more can be scans
        return False
    scans, position = 0, 2
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None or marker[1][0] == _END_OF_IMAGE:
            return False
        scans += marker[1][0] == _START_OF_SCAN
        if scans > MAX_SCANS:
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return True


def _directory(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, type and count of each entry of the first directory of a TIFF or BigTIFF; of other files none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    big = data[2:3] == b"+"
    pointer, number, entry = (order + code for code in (("Q", "Q", "HHQ8x") if big else ("I", "H", "HHI4x")))
    try:
        (start,) = struct.unpack_from(pointer, data, 8 if big else 4)
        (entries,) = struct.unpack_from(number, data, start)
        if entries > _MAX_ENTRIES:
            raise PhotoError("too_large", f"the TIFF has {entries} tags, more than {_MAX_ENTRIES}")
        first, length = start + struct.calcsize(number), struct.calcsize(entry)
        for index in range(entries):
            yield struct.unpack_from(entry, data, first + index * length)
    except (struct.error, OverflowError):  # it ends early, and Pillow says so
        return
