"""The segments of a JPEG, by the rules of libjpeg, and the types of frame.

A segment is a marker (0xFF and a code) and, for most codes, a length and a payload of that length. Payloads are
skipped, and with them the thumbnail in EXIF. Fill bytes, junk and coded pixels may be between segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA

FRAMES_NOT_READ: Mapping[int, str] = {
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
"""Markers of unsupported frames -> name of the format. Baseline, extended and progressive frames are supported, with
Huffman (SOF0 to SOF2) or arithmetic (SOF9, SOF10) coding."""

_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # without fill bytes, stuffed 0xFF, TEM and restarts


class Segment(NamedTuple):
    """A segment: its marker's code and start, and its end. The end may exceed the file."""

    kind: int
    start: int
    end: int


def segments(data: bytes, start: int = 0) -> Iterator[Segment]:
    """Yield the segments from `start` to the end of the file."""
    while marker := _MARKER.search(data, start):
        kind, start = marker[1][0], marker.end()
        if kind not in (START_OF_IMAGE, END_OF_IMAGE):
            start += int.from_bytes(data[start : start + 2], "big")
        yield Segment(kind, marker.start(), start)
