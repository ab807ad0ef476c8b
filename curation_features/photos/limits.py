"""Limits on the time and memory of decoding a hostile file.

Pillow parses metadata in Python and decodes pixels in C. `TimedBytes` limits the time of parsing. A call into C cannot
be interrupted, so its input is limited: the number of pixels, the frame type and the scans of a JPEG, the tiles and the
directory of a TIFF.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import COMPRESSION, STRIPOFFSETS, TILELENGTH, TILEOFFSETS, TILEWIDTH, TiffImageFile

from curation_features.errors import PhotoError
from curation_features.photos.formats import PILLOW_FORMATS
from curation_features.photos.jpeg_segments import (
    END_OF_IMAGE,
    FRAMES,
    NUMBER_OF_LINES,
    OTHER_FRAMES,
    START_OF_SCAN,
    Frame,
    Segment,
    read_frame,
    segments,
)

MAX_SECONDS = 60.0
"""Default CPU time of a thread for one photo (see `Settings.max_decode_seconds`)."""

LARGE_PIXELS = 64_000_000
"""Photos with more pixels are decoded one at a time, and reduced while decoding where the format allows it."""

MAX_SCANS = 100
"""Scans of one JPEG. A progressive JPEG has about ten; each scan, even an empty one, is a pass over all blocks."""

MAX_EXIF_BYTES = 8_000_000
"""EXIF of a PNG, WebP or AVIF, which is one block (a JPEG segment holds 64 kB). A larger block is ignored."""

_MAX_SEGMENTS = 10_000  # of one JPEG; an ICC profile has up to 255
_MAX_ENTRIES = 65_535  # of a TIFF directory; a BigTIFF may declare more
_MAX_NUMBERS = 1_000_000  # of one TIFF tag, such as the strip offsets
_TIFF_NUMBERS = frozenset({3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18})  # types that Pillow converts to Python numbers
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # as in `struct`
_JPEG_IN_TIFF = frozenset({6, 7})  # old-style and new-style JPEG compression
_JPEG_OFFSETS = frozenset({STRIPOFFSETS, TILEOFFSETS, ExifTags.Base.JpegIFOffset})


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits on one photo.

    Attributes:
        max_pixels: maximum width times height.
        max_seconds: maximum CPU seconds of this thread for parsing.
        wait_for_turn: called before the pixels of a large photo are decoded (`LARGE_PIXELS`); it returns when no other
            large photo is in memory. Within a task, only the first call waits.
    """

    max_pixels: int
    max_seconds: float = MAX_SECONDS
    wait_for_turn: Callable[[], object] = bool


class TimedBytes(BytesIO):
    """A file in memory with a time limit, which ends any parser loop.

    The limit is on the CPU time of the thread: a busy machine fails no photo.

    Args:
        seconds: time after which `read` raises `PhotoError`, reason `too_slow`.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; raises `PhotoError` after the time limit."""
        self.check_time()
        return super().read(size)

    def check_time(self) -> None:
        """Raise `PhotoError` after the time limit."""
        if time.thread_time() > self._end:
            raise PhotoError("too_slow", f"decoding takes more than max_decode_seconds ({self._seconds:g})")


def open_image(data: bytes, *, formats: tuple[str, ...] = PILLOW_FORMATS, seconds: float = MAX_SECONDS) -> Image.Image:
    """Open an image without decoding its pixels; only `formats` are tried.

    Raises:
        PhotoError: `unsupported_format`: a JPEG, also in a TIFF, has another frame than `FRAMES_READ`,
            or samples of other than 8 bits; `unreadable`: its frame header is damaged;
            `too_large`: the directory of a TIFF has too many numbers;
            `too_slow`: here or when the pixels are loaded.
        Exception: Pillow cannot parse the file.
    """
    return Image.open(open_timed(data, seconds), formats=formats)


def open_timed(data: bytes, seconds: float) -> TimedBytes:
    """Return a file that may be parsed. Raises `PhotoError` as `open_image`."""
    file = TimedBytes(data, seconds)
    for start in _find_jpegs(data):
        _check_frames(file, data, start)
    return file


def read_tags(image: Image.Image) -> Image.Exif:
    """Return the EXIF tags of an image; empty if they exceed `MAX_EXIF_BYTES`.

    Raises:
        Exception: Pillow cannot parse the tags.
    """
    return image.getexif() if len(image.info.get("exif") or b"") <= MAX_EXIF_BYTES else Image.Exif()


def check_pixels(width: int, height: int, limits: DecodeLimits) -> None:
    """Raise `PhotoError`, reason `too_large`, if an image has too many pixels; wait for its turn if it is large."""
    if width * height > limits.max_pixels:
        size = f"{width} x {height} px"
        raise PhotoError("too_large", f"the image has {size}, more than max_pixels ({limits.max_pixels})")
    if width * height > LARGE_PIXELS:
        limits.wait_for_turn()


def check_before_pixels(image: Image.Image, data: bytes, limits: DecodeLimits) -> None:
    """Refuse an image whose decoding would take too much time or memory.

    Args:
        image: the result of `open_image`.
        data: the bytes of its file.
        limits: `max_pixels` holds for the image, and for a tile of a TIFF.

    Raises:
        PhotoError: `too_large`.
    """
    check_pixels(image.width, image.height, limits)
    if isinstance(image, TiffImageFile):
        tile = (image.tag_v2.get(TILEWIDTH, 0), image.tag_v2.get(TILELENGTH, 0))
        if tile[0] * tile[1] > limits.max_pixels:
            size = f"{tile[0]} x {tile[1]} px"
            raise PhotoError("too_large", f"a tile has {size}, more than max_pixels ({limits.max_pixels})")
    if image.format in ("JPEG", "MPO") and _has_many_scans(data):
        raise PhotoError("too_large", f"the JPEG has more than {MAX_SCANS} scans, or {_MAX_SEGMENTS} segments")


def _has_many_scans(data: bytes) -> bool:
    if data.count(b"\xff\xda") <= MAX_SCANS:  # an upper bound of the scans
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
    """Refuse a JPEG with a frame before its first scan that is not read."""
    frame: Frame | None = None
    for segment in segments(data, start):
        file.check_time()
        if segment.kind in FRAMES:
            frame = _check_frame(data, segment)
        if segment.kind == START_OF_SCAN:
            if frame:
                _check_number_of_lines(data, segment.end, frame)
            return


def _check_frame(data: bytes, segment: Segment) -> Frame:
    """Return a frame that is read: 8 bits, 1, 3 or 4 components, sampling of T.81."""
    if segment.kind in OTHER_FRAMES:
        raise _refused(f"{OTHER_FRAMES[segment.kind]} is not read")
    frame = read_frame(data, segment)
    if frame is None:
        raise PhotoError("unreadable", "the frame header of the JPEG is damaged; copy it again")
    if frame.precision != 8:
        raise _refused(f"a JPEG of {frame.precision} bits per sample is not read")
    if frame.height == 0:
        raise _refused("a JPEG with its height after the pixels (DNL marker) is not read")
    if len(frame.components) not in (1, 3, 4):
        raise _refused(f"a JPEG of {len(frame.components)} components is not read")
    sampling = [factor for part in frame.components for factor in (part.horizontal, part.vertical)]
    if frame.width == 0 or not all(1 <= factor <= 4 for factor in sampling):
        raise PhotoError(
            "unreadable", "the frame header of the JPEG is damaged (width or sampling factors); copy it again"
        )
    return frame


def _check_number_of_lines(data: bytes, start: int, frame: Frame) -> None:
    """Refuse a JPEG with a DNL marker after its first scan that changes the height (T.81, B.2.5)."""
    if data.find(b"\xff\xdc", start) < 0:
        return
    marker = next(segments(data, start), None)
    if marker and marker.kind == NUMBER_OF_LINES:
        height = int.from_bytes(data[marker.start + 4 : marker.end], "big")
        if height != frame.height:
            raise _refused(f"a JPEG with a second height after the pixels (DNL marker: {height} px) is not read")


def _refused(problem: str) -> PhotoError:
    return PhotoError("unsupported_format", f"{problem}; export it as a baseline JPEG")


def _find_jpegs(data: bytes) -> Iterator[int]:
    """Yield the offsets of possible JPEGs in a file or TIFF.

    Raises:
        PhotoError: `too_large`.
    """
    if data.startswith(b"\xff\xd8"):
        yield 0
    directory = list(_read_directory(data))
    for entry in directory:
        if entry.type in _TIFF_NUMBERS and entry.length > _MAX_NUMBERS:
            raise PhotoError("too_large", f"TIFF tag {entry.tag} has {entry.length} numbers, more than {_MAX_NUMBERS}")
    if any(_JPEG_IN_TIFF.intersection(_read_integers(data, entry)) for entry in directory if entry.tag == COMPRESSION):
        for entry in directory:
            if entry.tag in _JPEG_OFFSETS:
                offsets = _read_integers(data, entry)
                yield from (offset for offset in offsets if offset > 0 and data[offset : offset + 1] == b"\xff")


class _Entry(NamedTuple):
    """An entry of a TIFF directory: its values start at `offset`. `order` is the byte order of `struct`."""

    tag: int
    type: int
    length: int
    offset: int
    order: str


def _read_directory(data: bytes) -> Iterator[_Entry]:
    """Yield the entries of the first directory of a TIFF or BigTIFF. Nothing for other files."""
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
        offset, room = start + struct.calcsize(number), struct.calcsize(pointer)
        for _ in range(entries):
            tag, kind, length = struct.unpack_from(entry, data, offset)
            offset += struct.calcsize(entry)
            (elsewhere,) = struct.unpack_from(pointer, data, offset)
            fits = length * struct.calcsize(_TIFF_INTEGERS.get(kind, "Q")) <= room
            yield _Entry(tag, kind, length, offset if fits else elsewhere, order)
            offset += room
    except (struct.error, OverflowError):  # truncated, which Pillow reports
        return


def _read_integers(data: bytes, entry: _Entry) -> tuple[int, ...]:
    """Return the integers of an entry. Empty if they have another type or are truncated."""
    code = _TIFF_INTEGERS.get(entry.type)
    if code is None:
        return ()
    try:
        return struct.unpack_from(f"{entry.order}{min(entry.length, _MAX_NUMBERS)}{code}", data, entry.offset)
    except (struct.error, OverflowError):
        return ()
