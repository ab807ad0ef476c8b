"""JPEG: its segments by the rules of libjpeg, and decoding with the warnings of libjpeg-turbo, which Pillow hides.

A segment is a marker (0xFF and a code) and, for most codes, a length and a payload of that length. Payloads are
skipped, and with them the thumbnail in EXIF. Fill bytes, junk and coded pixels may be between segments.

A JPEG has no checksum. If bits of its entropy-coded data are flipped, the decoder often meets an invalid code and
warns; the photo is damaged although it has pixels. A flip that gives a valid code goes unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import simplejpeg

from curation_features.errors import PhotoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

_MAX_PADDING = 16  # bytes an encoder may pad before the end of the image; any number of zeros is padding, too
_LOST_PIXELS = re.compile(
    r"premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST|"
    r"(?P<extra>\d+) extraneous bytes before marker 0x(?P<marker>..)"
)
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE})  # frame, tables, restarts, colour space


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


def jpeg_pixels(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a gray or colour JPEG to RGB, bit-identical to Pillow.

    The frame type must be supported (see `FRAMES_NOT_READ`); this function does not check it.

    Returns:
        (height, width, 3), without the EXIF orientation. None if the decoder refuses the file or warns of harmless
        data: Pillow supports more kinds, and explains why it cannot read one.

    Raises:
        PhotoError: `unreadable`: pixels were lost.
    """
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(_strip_metadata(data), "RGB")
    except ValueError as error:
        warning = str(error)
        if _has_lost_pixels(warning, data):
            raise PhotoError("unreadable", f"the image is damaged ({warning}); copy it again") from None
        return None
    return pixels


def _has_lost_pixels(warning: str, data: bytes) -> bool:
    match = _LOST_PIXELS.search(warning)
    if match is None or match["marker"] != "d9":
        return match is not None
    extra = int(match["extra"])
    return extra > _MAX_PADDING and bytes(extra) + b"\xff\xd9" not in data


def _strip_metadata(data: bytes) -> bytes:
    """Remove metadata and junk, since the decoder reports only its first warning.

    A file with an unusual marker is returned unchanged.
    """
    parts = [data[:2]]
    for kind, start, end in segments(data, 2):
        if kind == START_OF_SCAN:
            return b"".join([*parts, data[start:]])
        if kind in _NEEDED:
            parts.append(data[start:end])
        elif kind not in _METADATA:
            break
    return data
