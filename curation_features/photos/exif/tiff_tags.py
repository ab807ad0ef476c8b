"""Directories of tags, as in EXIF, TIFF and TIFF-based raw files, for hostile bytes.

A tag's value is read when asked for, and only its first bytes: a directory may declare thousands of tags that all claim
the whole file. Layout: TIFF 6.0, section 2; BigTIFF; EXIF 3.0, section 4.6.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Value: TypeAlias = bytes | tuple[float, ...]
"""Text and untyped data as bytes, cut at the limit; numbers as a tuple: x/0 is infinite, 0/0 is NaN."""

MAX_BYTES = 4096
"""Bytes of one value. Longer text is cut, more numbers are skipped; both are shorter in valid files."""

_MAX_TEXT = 200  # characters; longer fields are damage or worse
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PREFIX = re.compile(rb"(?:Exif\0[\0\xff])*")
_ORDERS = {b"II": "<", b"MM": ">"}
_VERSIONS = frozenset({b"*\0", b"\0*", b"+\0", b"\0+", b"RO", b"RS", b"OR", b"U\0"})  # then Olympus's and Panasonic's
_BYTES = frozenset({1, 2, 7, 129})  # BYTE, ASCII, UNDEFINED, UTF-8
_NUMBERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # in `struct`
_RATIONALS = {5: "II", 10: "ii"}


class Entry(NamedTuple):
    """A tag's type, and start and end of its value in the file."""

    type: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Directory:
    """The tags of one directory.

    Attributes:
        data: the bytes that offsets refer to.
        order: byte order of `struct`; empty if `data` has no directory.
    """

    data: bytes = b""
    order: str = ""
    is_big: bool = False
    entries: Mapping[int, Entry] = field(default_factory=dict)

    def get(self, tag: int, max_bytes: int = MAX_BYTES) -> Value | None:
        """Return the value of a tag. None if it is missing, damaged, or of an unknown type."""
        entry = self.entries.get(tag)
        if entry is None or not 0 < entry.end - entry.start <= len(self.data) - entry.start:
            return None
        if entry.type in _BYTES:
            return self.data[entry.start : min(entry.end, entry.start + max_bytes)]
        if entry.end - entry.start > max_bytes:
            return None
        code = _RATIONALS.get(entry.type) or _NUMBERS[entry.type]
        numbers = struct.iter_unpack(self.order + code, self.data[entry.start : entry.end])
        return tuple(map(_divide, numbers))

    def follow(self, tag: int) -> Directory:
        """Return the directory that a tag points to. Empty if there is none."""
        start = self.get(tag)
        if not isinstance(start, tuple) or not isinstance(start[0], int):
            return Directory()
        return _read(self.data, self.order, self.is_big, start[0])

    def at(self, start: int) -> Directory:
        """Return the directory at an offset, in the same byte order."""
        return _read(self.data, self.order, self.is_big, start)


def open_directory(data: bytes) -> Directory:
    """Return the first directory of a TIFF, which EXIF is. Empty if `data` is not a TIFF."""
    order = _ORDERS.get(data[:2])
    if order is None or data[2:4] not in _VERSIONS or len(data) < 16:
        return Directory()
    is_big = b"+" in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    return _read(data, order, is_big, start)


def strip_prefix(block: bytes) -> bytes:
    """Remove the `Exif` that precedes the TIFF in a JPEG segment; other formats have it by mistake."""
    match = _PREFIX.match(block)
    return block[match.end() :] if match else block


def find(directories: Iterable[Directory], tag: int) -> Value | None:
    """Return the first value of a tag."""
    values = (directory.get(tag) for directory in directories)
    return next((value for value in values if value is not None), None)


def _read(data: bytes, order: str, is_big: bool, start: int) -> Directory:
    """Read a directory; of a truncated one the tags before its end."""
    number, head, pointer = (order + code for code in (("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I")))
    room = struct.calcsize(pointer)
    entries: dict[int, Entry] = {}
    try:
        (count,) = struct.unpack_from(number, data, start)
        offset = start + struct.calcsize(number)
        for _ in range(min(count, 65_535)):  # tags are 16-bit numbers
            tag, kind, length = struct.unpack_from(head, data, offset)
            offset += struct.calcsize(head)
            size = length * _size(kind)
            (elsewhere,) = struct.unpack_from(pointer, data, offset)
            first = offset if size <= room else elsewhere
            if size:
                entries.setdefault(tag, Entry(kind, first, first + size))
            offset += room
    except (struct.error, OverflowError):  # the end of the file, or an offset beyond any file
        pass
    return Directory(data, order, is_big, entries)


def _size(kind: int) -> int:
    """Return the bytes of one value of a type; 0 if the type is unknown."""
    return 1 if kind in _BYTES else struct.calcsize("=" + (_RATIONALS.get(kind) or _NUMBERS.get(kind, "")))


def _divide(numbers: tuple[float, ...]) -> float:
    if len(numbers) == 1:
        return numbers[0]
    numerator, denominator = numbers
    if denominator:
        return numerator / denominator
    return math.copysign(math.inf, numerator) if numerator else math.nan


def to_text(value: Value | None) -> str | None:
    """Return the text up to the first NUL: UTF-8 if it is valid, otherwise Latin-1. None if empty."""
    if not isinstance(value, bytes):
        return None
    stored = value.partition(b"\0")[0]
    try:
        text = codecs.utf_8_decode(stored, "strict", len(stored) < MAX_BYTES)[0]  # a cut may split a character
    except UnicodeDecodeError:
        text = stored.decode("latin-1")
    return _UNPRINTABLE.sub("", text[:_MAX_TEXT]).strip() or None


def to_numbers(value: Value | None) -> tuple[float | None, ...]:
    """Return the numbers of a value, None for those that are not finite."""
    return tuple(number if math.isfinite(number) else None for number in value or ())


def to_number(value: Value | None) -> float | None:
    """Return the first number of a value, if it is finite."""
    return next(iter(to_numbers(value)), None)
