"""Identifies camera raw files by their content: by first bytes, or by the tags of a TIFF."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

_STARTS: Mapping[str, re.Pattern[bytes]] = {
    "CR2": re.compile(rb"(II\*\x00|MM\x00\*)....CR\x02", re.DOTALL),
    "CR3": re.compile(rb"....ftypcrx ", re.DOTALL),
    "CRW": re.compile(rb"(II|MM)....HEAPCCDR", re.DOTALL),
    "RAF": re.compile(rb"FUJIFILMCCD-RAW"),
    "ORF": re.compile(rb"IIR[OS]|MMOR"),
    "RW2": re.compile(rb"IIU\x00"),
    "MRW": re.compile(rb"\x00MR[MI]"),
    "X3F": re.compile(rb"FOVb"),
    "IIQ": re.compile(rb"(II\*\x00|MM\x00\*)....(IIII|MMMM)", re.DOTALL),
}

_MAKES: Mapping[str, str] = {
    "nikon": "NEF",
    "sony": "ARW",
    "pentax": "PEF",
    "ricoh": "PEF",
    "samsung": "SRW",
    "hasselblad": "3FR",
    "phase one": "IIQ",
    "leaf": "MOS",
    "mamiya": "MEF",
    "seiko epson": "ERF",
    "kodak": "DCR",
    "eastman kodak": "DCR",
}
"""Start of EXIF's `Make`, in lower case -> format of the maker's raw files that are TIFFs."""

_MAKE, _PHOTOMETRIC, _SUB_DIRECTORIES, _DNG_VERSION = 271, 262, 330, 50706
_SENSOR = frozenset({32803, 34892})  # PhotometricInterpretation: colour filter array, linear raw (TIFF/EP, DNG)
_PARTS = ((273, 279), (324, 325))  # offsets and lengths of strips and tiles
_TAGS = frozenset({_MAKE, _PHOTOMETRIC, _SUB_DIRECTORIES, _DNG_VERSION, *_PARTS[0], *_PARTS[1]})
_ORDERS: Mapping[bytes, str] = {b"II*\0": "<", b"MM\0*": ">"}  # first bytes of a TIFF -> byte order of `struct`
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 13: 4}  # TIFF type -> bytes
_MAX_ENTRIES = 1000
_MAX_NUMBERS = 100_000
_MAX_SUB_DIRECTORIES = 20

_Directory: TypeAlias = Mapping[int, Sequence[int]]


def identify_raw(data: bytes) -> str:
    """Return the camera raw format of a file; empty if it is none.

    A TIFF is raw if it has a `DNGVersion`, or if its first directory or one of the sub-directories of that holds
    sensor values. Its other images are previews.
    """
    start = data[:64]
    for kind, pattern in _STARTS.items():
        if pattern.match(start):
            return kind
    order = _ORDERS.get(data[:4])
    if order is None:
        return ""
    first, *others = _read_directories(data, order)
    if _DNG_VERSION in first:
        return "DNG"
    if any(_SENSOR.intersection(directory.get(_PHOTOMETRIC, ())) for directory in (first, *others)):
        make = bytes(first.get(_MAKE, ())).decode("latin-1").strip("\0 ").lower()
        return next((kind for name, kind in _MAKES.items() if make.startswith(name)), "RAW")
    return ""


def is_cut_dng(data: bytes) -> bool:
    """Return whether a strip or tile of a DNG exceeds the file. (The offsets of other raw files can be anything.)"""
    order = _ORDERS.get(data[:4])
    directories = _read_directories(data, order) if order else []
    return any(
        start + length > len(data)
        for directory in directories
        for starts, lengths in _PARTS
        for start, length in zip(directory.get(starts, ()), directory.get(lengths, ()), strict=False)
    )


def _read_directories(data: bytes, order: str) -> list[_Directory]:
    """Return the first directory of a TIFF and its sub-directories."""
    first = dict(_read_entries(data, order, _integer(data[4:8], order)))
    offsets = first.get(_SUB_DIRECTORIES, ())[:_MAX_SUB_DIRECTORIES]
    return [first, *(dict(_read_entries(data, order, offset)) for offset in offsets)]


def _read_entries(data: bytes, order: str, start: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the known tags of a directory and their numbers; of a text, its bytes. Damage ends the list."""
    for number in range(min(_integer(data[start : start + 2], order), _MAX_ENTRIES)):
        entry = data[start + 2 + 12 * number : start + 14 + 12 * number]
        if len(entry) < 12:
            return
        tag, kind, count = struct.unpack(f"{order}HHI", entry[:8])
        size = _SIZES.get(kind, 0)
        if size and tag in _TAGS:
            length, offset = size * min(count, _MAX_NUMBERS), _integer(entry[8:], order)
            value = entry[8 : 8 + length] if length <= 4 else data[offset : offset + length]
            yield tag, [_integer(value[i : i + size], order) for i in range(0, len(value), size)]


def _integer(value: bytes, order: str) -> int:
    return int.from_bytes(value, "little" if order == "<" else "big")
