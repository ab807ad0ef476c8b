"""Boxes of ISO media files (HEIC, AVIF, JPEG XL, CR3): brands, the primary image's colours, auxiliary images.

Sources: ISO/IEC 14496-12 (boxes, items), 23008-12 (properties). Damaged boxes end the search; nothing here raises.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_MAX_BOXES = 10_000  # of one level; the grid of a 200-megapixel photo has about a thousand properties and items

AUXILIARY: Mapping[str, re.Pattern[bytes]] = {
    "gain_map": re.compile(rb"urn:com:apple:photo:\d+:aux:hdrgainmap"),
    "depth_map": re.compile(rb"urn:mpeg:(hevc:2015:auxid:2|mpegB:cicp:systems:auxiliary:depth)"),
}
"""Note -> type of an auxiliary image (property `auxC`)."""


class Box(NamedTuple):
    """A box: its type, and start and end of its content."""

    kind: bytes
    start: int
    end: int


def read_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes of a file, or of a part of it. The last one may exceed the file."""
    end = len(data) if end is None else min(end, len(data))
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1 and content + 8 <= end:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = start + size if size else end  # 0: to the end of the file
        if stop < content:
            return
        yield Box(kind, content, stop)
        start = stop


def read_brands(data: bytes) -> tuple[bytes, ...]:
    """Return the brands of a file, the major one first; empty if it has none."""
    first = next(read_boxes(data), None)
    if first is None or first.kind != b"ftyp":
        return ()
    brands = data[first.start : min(first.end, first.start + 1024)]
    return tuple(brands[i : i + 4] for i in range(0, len(brands) - 3, 4) if i != 4)  # 4: the minor version


def is_cut(data: bytes) -> bool:
    """Return whether the last box of a media file exceeds the file: it is truncated. False for other files."""
    if data[4:8] not in (b"ftyp", b"JXL "):
        return False
    *_, last = read_boxes(data)
    return last.end > len(data)


def find_auxiliary(data: bytes) -> tuple[str, ...]:
    """Return the notes on auxiliary images and on a derived HDR image (item type `tmap`, ISO 21496-1)."""
    properties = b"".join(data[box.start : box.end] for box in _properties(data) if box.kind == b"auxC")
    found = {note for note, pattern in AUXILIARY.items() if pattern.search(properties)}
    if b"tmap" in read_brands(data):
        found.add("gain_map")
    return tuple(sorted(found))


def read_nclx(data: bytes) -> tuple[int, int] | None:
    """Return the colour primaries and the transfer of the primary image (ITU-T H.273); None if it has no `nclx`."""
    properties = list(_properties(data))
    for index in _primary_properties(data):
        if 0 < index <= len(properties):
            box = properties[index - 1]
            content = data[box.start : box.end]
            if box.kind == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
                primaries, transfer = struct.unpack_from(">HH", content, 4)
                return primaries, transfer
    return None


def primary_item(data: bytes, pitm: Box) -> int:
    """Return the number of the primary item. Raises `struct.error` or `IndexError` if the box is truncated."""
    return int(struct.unpack_from(">I" if data[pitm.start] else ">H", data, pitm.start + 4)[0])


def find_box(data: bytes, *path: bytes) -> Box | None:
    """Return the box at a path of types; None if there is none."""
    found: Box | None = Box(b"", 0, len(data))
    for kind in path:
        if found is None:
            return None
        start = found.start + 4 * (found.kind == b"meta")  # a full box: with version and flags
        found = next((box for box in read_boxes(data, start, found.end) if box.kind == kind), None)
    return found


def _properties(data: bytes) -> Iterator[Box]:
    container = find_box(data, b"meta", b"iprp", b"ipco")
    return read_boxes(data, container.start, container.end) if container else iter(())


def _primary_properties(data: bytes) -> list[int]:
    """Return the numbers of the primary item's properties, from 1; empty if the boxes are damaged."""
    primary, associations = find_box(data, b"meta", b"pitm"), find_box(data, b"meta", b"iprp", b"ipma")
    if primary is None or associations is None:
        return []
    try:
        item = primary_item(data, primary)
        head, count = struct.unpack_from(">II", data, associations.start)
        item_code, number_code, offset = (
            ">I" if head >> 24 else ">H",
            ">H" if head & 1 else ">B",
            associations.start + 8,
        )
        bits = 0x7FFF if head & 1 else 0x7F  # the highest bit says that a property is essential
        for _ in range(min(count, _MAX_BOXES)):
            (owner,) = struct.unpack_from(item_code, data, offset)
            offset += struct.calcsize(item_code) + 1
            numbers = struct.unpack_from(f">{data[offset - 1]}{number_code[1]}", data, offset)
            if owner == item:
                return [number & bits for number in numbers]
            offset += struct.calcsize(number_code) * len(numbers)
    except (struct.error, IndexError):  # truncated
        pass
    return []
