"""The segments of a JPEG as libjpeg meets them, found without a decoder.

A segment is a marker (0xFF and a code) and, for most codes, a length and as many bytes. What stands in those bytes is
no marker, so that the thumbnail in EXIF is skipped. Fill bytes, junk and coded pixels lie between segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA

FRAMES_NOT_READ: Mapping[int, str] = MappingProxyType(
    {
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
)
"""Markers of frames that are not read, with what such a file is. Baseline, extended and progressive frames are read,
whether Huffman (SOF0 to SOF2) or arithmetic (SOF9, SOF10) coding packs them."""

_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # all but fill bytes, 0xFF as a pixel's code, TEM and restarts


class Segment(NamedTuple):
    """A marker's code, where the marker begins, and where its segment ends (perhaps behind the end of the file)."""

    kind: int
    start: int
    end: int


def segments(data: bytes, start: int = 0) -> Iterator[Segment]:
    """The segments from `start` on, to the end of the file, whatever comes after the end of the image."""
    while marker := _MARKER.search(data, start):
        kind, start = marker[1][0], marker.end()
        if kind not in (START_OF_IMAGE, END_OF_IMAGE):
            start += int.from_bytes(data[start : start + 2], "big")
        yield Segment(kind, marker.start(), start)
