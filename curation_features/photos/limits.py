"""What keeps a hostile file from costing much time or memory: what holds before, and while, it is decoded.

Pillow parses metadata in Python and decodes pixels in C. The parsing is bounded by the time that `TimedBytes` allows.
A call into C cannot be interrupted; it is bounded by what it is allowed to begin with: pixels, the frame type and the
scans of a JPEG, the tiles and the directory of a TIFF.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import COMPRESSION, STRIPOFFSETS, TILELENGTH, TILEOFFSETS, TILEWIDTH, TiffImageFile

from curation_features.errors import PhotoError
from curation_features.photos.jpeg_markers import END_OF_IMAGE, FRAMES_NOT_READ, START_OF_SCAN, segments

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
_TIFF_NUMBERS = frozenset({3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18})  # types of which Pillow makes Python's numbers
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # as in `struct`
_JPEG_IN_TIFF = frozenset({6, 7})  # of the old style, and today's
_JPEG_OFFSETS = frozenset({STRIPOFFSETS, TILEOFFSETS, ExifTags.Base.JpegIFOffset})


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
        self.check_time()
        return super().read(size)

    def check_time(self) -> None:
        """Raise `PhotoError` where the time is up."""
        if time.thread_time() > self._end:
            raise PhotoError("too_slow", f"decoding takes more than max_decode_seconds ({self._seconds:g})")


def open_image(data: bytes, *, formats: tuple[str, ...] = FORMATS, seconds: float = MAX_SECONDS) -> Image.Image:
    """The image in a file, its pixels not yet decoded. Other formats are not even tried.

    Raises:
        PhotoError: `unsupported_format`: a JPEG, or one in a TIFF, with a frame that is not read (`FRAMES_NOT_READ`);
            `too_large`: a TIFF whose directory holds more numbers than Python could sensibly make objects of;
            `too_slow`, here or when the pixels are loaded.
        Exception: what Pillow says of the bytes.
    """
    file = TimedBytes(data, seconds)
    for start in _jpegs(data):
        _check_frames(file, data, start)
    return Image.open(file, formats=formats)


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
    scans = 0
    for number, segment in enumerate(segments(data)):
        if segment.kind == END_OF_IMAGE and scans:
            return False
        scans += segment.kind == START_OF_SCAN
        if scans > MAX_SCANS or number > _MAX_SEGMENTS:
            return True
    return False


def _check_frames(file: TimedBytes, data: bytes, start: int) -> None:
    """Refuse a JPEG that announces a frame that is not read, in or before the first image that it holds."""
    for segment in segments(data, start):
        file.check_time()
        if segment.kind in FRAMES_NOT_READ:
            what = FRAMES_NOT_READ[segment.kind]
            raise PhotoError("unsupported_format", f"{what} is not read; export it as a baseline JPEG")
        if segment.kind == START_OF_SCAN:
            return


def _jpegs(data: bytes) -> Iterator[int]:
    """Where the file, or the strips or tiles of a TIFF, may be a JPEG.

    Raises:
        PhotoError: `too_large`.
    """
    if data.startswith(b"\xff\xd8"):
        yield 0
    directory = list(_directory(data))
    for entry in directory:
        if entry.type in _TIFF_NUMBERS and entry.length > _MAX_NUMBERS:
            raise PhotoError("too_large", f"TIFF tag {entry.tag} has {entry.length} numbers, more than {_MAX_NUMBERS}")
    if any(_JPEG_IN_TIFF.intersection(_integers(data, entry)) for entry in directory if entry.tag == COMPRESSION):
        for entry in directory:
            if entry.tag in _JPEG_OFFSETS:
                yield from (
                    place for place in _integers(data, entry) if place > 0 and data[place : place + 1] == b"\xff"
                )


class _Entry(NamedTuple):
    """An entry of a TIFF's directory: its values begin at `place`, in the byte order `order`, as in `struct`."""

    tag: int
    type: int
    length: int
    place: int
    order: str


def _directory(data: bytes) -> Iterator[_Entry]:
    """The entries of the first directory of a TIFF or BigTIFF; of other files none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    big = data[2:3] == b"+"
    pointer, number, entry = (order + code for code in (("Q", "Q", "HHQ") if big else ("I", "H", "HHI")))
    try:
        (start,) = struct.unpack_from(pointer, data, 8 if big else 4)
        (entries,) = struct.unpack_from(number, data, start)
        if entries > _MAX_ENTRIES:
            raise PhotoError("too_large", f"the TIFF has {entries} tags, more than {_MAX_ENTRIES}")
        place, room = start + struct.calcsize(number), struct.calcsize(pointer)
        for _ in range(entries):
            tag, kind, length = struct.unpack_from(entry, data, place)
            place += struct.calcsize(entry)
            (elsewhere,) = struct.unpack_from(pointer, data, place)
            fits = length * struct.calcsize(_TIFF_INTEGERS.get(kind, "Q")) <= room
            yield _Entry(tag, kind, length, place if fits else elsewhere, order)
            place += room
    except (struct.error, OverflowError):  # it ends early, and Pillow says so
        return


def _integers(data: bytes, entry: _Entry) -> tuple[int, ...]:
    """The whole numbers of an entry; none where it has others, or they are not all there."""
    code = _TIFF_INTEGERS.get(entry.type)
    if code is None:
        return ()
    try:
        return struct.unpack_from(f"{entry.order}{min(entry.length, _MAX_NUMBERS)}{code}", data, entry.place)
    except (struct.error, OverflowError):
        return ()
