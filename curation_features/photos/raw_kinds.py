"""Identifies camera raw files by their content: by first bytes, or by the tags of a TIFF."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping

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
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 13: 4}  # TIFF type -> bytes
_MAX_ENTRIES = 1000
_MAX_SUB_DIRECTORIES = 20


def identify_raw(data: bytes) -> str:
    """Return the camera raw format of a file; empty if it is none.

    A TIFF is raw if it has a `DNGVersion`, or if its first directory or one of the sub-directories of that holds
    sensor values. Its other images are previews.
    """
    start = data[:64]
    for kind, pattern in _STARTS.items():
        if pattern.match(start):
            return kind
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return ""
    first = _read_directory(data, order, _integer(data[4:8], order))
    if _DNG_VERSION in first:
        return "DNG"
    offsets = _integers(first.get(_SUB_DIRECTORIES, b""), order)[:_MAX_SUB_DIRECTORIES]
    directories = [first, *(_read_directory(data, order, offset) for offset in offsets)]
    if any(_integer(directory.get(_PHOTOMETRIC, b"")[:2], order) in _SENSOR for directory in directories):
        make = first.get(_MAKE, b"").decode("latin-1").strip("\0 ").lower()
        return next((kind for name, kind in _MAKES.items() if make.startswith(name)), "RAW")
    return ""


def _read_directory(data: bytes, order: str, start: int) -> dict[int, bytes]:
    """Return the tags of a TIFF directory that have at most 64 bytes. Damage ends the list."""
    return dict(_read_entries(data, order, start))


def _read_entries(data: bytes, order: str, start: int) -> Iterator[tuple[int, bytes]]:
    for number in range(min(_integer(data[start : start + 2], order), _MAX_ENTRIES)):
        entry = data[start + 2 + 12 * number : start + 14 + 12 * number]
        if len(entry) < 12:
            return
        tag, kind, count = struct.unpack(f"{order}HHI", entry[:8])
        size = _SIZES.get(kind, 0) * count
        offset = _integer(entry[8:], order)
        yield tag, entry[8 : 8 + size] if size <= 4 else data[offset : offset + min(size, 64)]


def _integer(value: bytes, order: str) -> int:
    return int.from_bytes(value, "little" if order == "<" else "big")


def _integers(value: bytes, order: str) -> list[int]:
    return [_integer(value[i : i + 4], order) for i in range(0, len(value), 4)]
