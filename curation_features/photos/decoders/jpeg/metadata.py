"""Metadata of a JPEG: ICC profile, and the kinds of compound files.

Only segments before the first scan are read. damaged metadata is ignored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice

from curation_features.photos.jpeg_segments import START_OF_IMAGE, START_OF_SCAN, segments

_PROFILE = b"ICC_PROFILE\0"  # ICC.1:2022, annex B.4
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MULTI_PICTURE = b"MPF\0"  # CIPA DC-007
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"  # ISO 21496-1
_NUMBER_OF_IMAGES, _ENTRIES = 0xB001, 0xB002  # tags of the MP index
_ENTRY_BYTES = 16
_MAX_SEGMENTS = 1000  # of a picture's header; a profile has up to 255
_MAX_PICTURES = 100  # of a multi-picture file; a panorama has tens
_MOTION = re.compile(rb"(?:MotionPhoto|MicroVideo)(?:=[\"']1[\"']|>\s*1\s*<)")  # Google's GCamera namespace
_GAIN_MAP_XMP = re.compile(
    rb"hdrgm:Version|Semantic(?:=[\"']|>)GainMap|HDRGainMapVersion|urn:com:apple:photo:\d+:aux:hdrgainmap"
)  # Adobe and Google, Google's container, Apple
_SAMSUNG_MOTION = b"MotionPhoto_Data"  # in the trailer, before the video
_SAMSUNG_END = b"SEFT"


def read_profile(data: bytes) -> tuple[bytes | None, bool]:
    """Return the ICC profile, None without one, and whether it is broken and ignored."""
    parts: dict[int, bytes] = {}
    counts = set()
    for kind, payload in _read_header(data):
        if kind == 0xE2 and payload.startswith(_PROFILE):
            number, count = (*payload[12:14], 0, 0)[:2]
            if number in parts:
                return None, True
            parts[number] = payload[14:]
            counts.add(count)
    if not parts:
        return None, False
    if len(counts) != 1 or set(parts) != set(range(1, counts.pop() + 1)):
        return None, True
    return b"".join(parts[number] for number in sorted(parts)), False


def read_notes(data: bytes) -> tuple[str, ...]:
    """Return the kinds of a compound file: `multi_picture`, `gain_map`, `motion_photo`."""
    header = list(_read_header(data))
    pictures = _find_pictures(data)
    others = [part for start in pictures[1:] for part in _read_header(data, start)]
    facts = {
        "multi_picture": len(pictures) > 1,
        "gain_map": any(map(_has_gain_map, [*header, *others])),
        "motion_photo": any(_is_xmp(part) and _MOTION.search(part[1]) for part in header) or _has_trailer(data),
    }
    return tuple(note for note, holds in facts.items() if holds)


def _has_trailer(data: bytes) -> bool:
    return data.endswith(_SAMSUNG_END) and _SAMSUNG_MOTION in data


def _read_header(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield marker and payload of the segments before the first scan."""
    for segment in islice(segments(data, start), _MAX_SEGMENTS):
        if segment.kind == START_OF_SCAN:
            return
        if 0xE0 <= segment.kind <= 0xEF:
            yield segment.kind, data[segment.start + 4 : segment.end]


def _is_xmp(part: tuple[int, bytes]) -> bool:
    return part[0] == 0xE1 and part[1].startswith(_XMP)


def _has_gain_map(part: tuple[int, bytes]) -> bool:
    if part[0] == 0xE2 and part[1].startswith(_GAIN_MAP):
        return True
    return _is_xmp(part) and _GAIN_MAP_XMP.search(part[1]) is not None


def _find_pictures(data: bytes) -> list[int]:
    """Return the offsets of the pictures of a multi-picture file that exist (CIPA DC-007, 5.2.3)."""
    for segment in islice(segments(data), _MAX_SEGMENTS):
        if segment.kind == START_OF_SCAN:
            break
        base = segment.start + 8
        if segment.kind == 0xE2 and data[segment.start + 4 : base] == _MULTI_PICTURE:
            offsets = _read_offsets(data[base : segment.end])
            starts = [0, *(base + offset for offset in offsets if offset)]
            return [start for start in starts if data[start : start + 2] == bytes([0xFF, START_OF_IMAGE])]
    return []


def _read_offsets(index: bytes) -> list[int]:
    """Return the offsets of pictures in an MP index; 0 is the first picture."""
    order = {b"II": "<", b"MM": ">"}.get(index[:2])
    if order is None:
        return []
    try:
        (start,) = struct.unpack_from(f"{order}I", index, 4)
        (number,) = struct.unpack_from(f"{order}H", index, start)
        tags = {}
        for at in range(start + 2, start + 2 + 12 * min(number, 20), 12):
            tag, _, count, value = struct.unpack_from(f"{order}HHII", index, at)
            tags[tag] = (count, value)
        pictures = min(tags[_NUMBER_OF_IMAGES][1], tags[_ENTRIES][0] // _ENTRY_BYTES, _MAX_PICTURES)
        first = tags[_ENTRIES][1] + 8
        return [
            struct.unpack_from(f"{order}I", index, first + _ENTRY_BYTES * picture)[0] for picture in range(pictures)
        ]
    except (struct.error, KeyError):
        return []
