"""The segments, frame and scans of a JPEG, by the rules of libjpeg (ITU-T T.81, annex B).

A segment is a marker (0xFF and a code) and, for most codes, a length and a payload of that length. Payloads are
skipped, and with them the thumbnail in EXIF. Fill bytes, junk and coded pixels may be between segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN, HUFFMAN_TABLES = 0xD8, 0xD9, 0xDA, 0xC4
RESTART_INTERVAL, NUMBER_OF_LINES = 0xDD, 0xDC

SEQUENTIAL_FRAMES = frozenset({0xC0, 0xC1})
"""Baseline and extended sequential, Huffman coding."""

HUFFMAN_FRAMES = SEQUENTIAL_FRAMES | {0xC2}
"""Sequential and progressive, Huffman coding."""

FRAMES_READ = HUFFMAN_FRAMES | {0xC9, 0xCA}
"""Markers of the frames that are read: baseline, extended and progressive, with Huffman or arithmetic coding (which
libjpeg-turbo in simplejpeg and in Pillow's wheels decodes to the same pixels)."""

OTHER_FRAMES: Mapping[int, str] = {
    0xC3: "lossless JPEG (SOF3)",
    0xC5: "hierarchical JPEG (SOF5)",
    0xC6: "hierarchical JPEG (SOF6)",
    0xC7: "hierarchical lossless JPEG (SOF7)",
    0xC8: "extended JPEG (JPG)",
    0xCB: "lossless JPEG (SOF11)",
    0xCD: "hierarchical JPEG (SOF13)",
    0xCE: "hierarchical JPEG (SOF14)",
    0xCF: "hierarchical lossless JPEG (SOF15)",
    0xDE: "hierarchical JPEG (DHP)",
    0xDF: "hierarchical JPEG (EXP)",
    0xF7: "JPEG-LS (SOF55)",
}
"""Markers of all other frames -> name of the format."""

FRAMES = FRAMES_READ | OTHER_FRAMES.keys()
"""Markers of frames, read or not."""

_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # without fill bytes, stuffed 0xFF, TEM and restarts


class Segment(NamedTuple):
    """A segment: its marker's code and start, and its end. The end may exceed the file."""

    kind: int
    start: int
    end: int


class Component(NamedTuple):
    """A colour component: its identifier and sampling factors, 1 to 4."""

    identifier: int
    horizontal: int
    vertical: int


class Frame(NamedTuple):
    """A frame header (T.81, B.2.2): marker and its offset, bits per sample, size in px, and components."""

    kind: int
    start: int
    precision: int
    height: int
    width: int
    components: tuple[Component, ...]


class Scan(NamedTuple):
    """A scan: start of its header, and start and end of its coded pixels."""

    header: int
    start: int
    end: int


def segments(data: bytes, start: int = 0) -> Iterator[Segment]:
    """Yield the segments from `start` to the end of the file."""
    while marker := _MARKER.search(data, start):
        kind, start = marker[1][0], marker.end()
        if kind not in (START_OF_IMAGE, END_OF_IMAGE):
            start += int.from_bytes(data[start : start + 2], "big")
        yield Segment(kind, marker.start(), start)


def read_frame(data: bytes, segment: Segment) -> Frame | None:
    """Read a frame header; None if it is cut, or its length does not match its components."""
    payload = data[segment.start + 4 : segment.end]
    if len(payload) < 6 or len(payload) != 6 + 3 * payload[5] or segment.end > len(data):
        return None
    parts = (payload[at : at + 3] for at in range(6, len(payload), 3))
    height, width = (int.from_bytes(payload[at : at + 2], "big") for at in (1, 3))
    components = tuple(Component(part[0], part[1] >> 4, part[1] & 15) for part in parts)
    return Frame(segment.kind, segment.start, payload[0], height, width, components)


def find_frame(data: bytes) -> Frame | None:
    """Return the first frame header; None if it is missing or damaged."""
    first = next((segment for segment in segments(data) if segment.kind in FRAMES), None)
    return read_frame(data, first) if first else None


def find_scans(data: bytes) -> list[Scan]:
    """Return the scans up to the end of the image."""
    scans: list[Scan] = []
    opened: Segment | None = None
    for segment in segments(data):
        if opened:
            scans.append(Scan(opened.start, opened.end, segment.start))
        opened = segment if segment.kind == START_OF_SCAN else None
        if segment.kind == END_OF_IMAGE and scans:
            return scans
    return [*scans, Scan(opened.start, opened.end, len(data))] if opened else scans
