"""Metadata in the boxes of ISO media files: HEIC, AVIF, JPEG XL and Canon's CR3.

A box has a length, a type of four letters, and a payload, which may be boxes. In HEIC and AVIF, EXIF is an item: `iinf`
lists the items, `iloc` locates them, `iref` links them to the image they describe, and `pitm` names the still.

Source: ISO/IEC 14496-12, 8.11 (items); ISO/IEC 23008-12, A.2.1 (EXIF); ISO/IEC 18181-2, 9 (JPEG XL).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from curation_features.photos.boxes import Box, primary_item, read_boxes
from curation_features.photos.exif.tiff_tags import strip_prefix
from curation_features.photos.limits import MAX_EXIF_BYTES

_MAX_ITEMS = 16  # EXIF items of one image
_MAX_EXTENTS = 1000  # pieces of one item
_IN_ITEM_DATA = 1  # construction method: offsets count from the `idat` box, otherwise from the start of the file
_CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")  # its `uuid` box in CR3


def exif_of_boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the metadata of a file as `exif`, `gps` or `xmp`, and its bytes; those of the still first."""
    for box in read_boxes(data):
        if box.kind == b"meta":
            with suppress(struct.error, OverflowError):  # a truncated item; the other boxes are whole
                yield from (("exif", _after_offset(item)) for item in _exif_items(data, box))
        elif box.kind == b"moov":
            yield from _canon_parts(data, box)
        elif box.kind == b"Exif":
            yield "exif", _after_offset(data[box.start : min(box.end, box.start + MAX_EXIF_BYTES)])
        elif box.kind == b"xml ":
            yield "xmp", data[box.start : min(box.end, box.start + MAX_EXIF_BYTES)]
        elif box.kind == b"brob":
            yield from _unpack(data[box.start : min(box.end, box.start + MAX_EXIF_BYTES)])


def _after_offset(item: bytes) -> bytes:
    """Return the TIFF in an EXIF item, which begins with the offset of the TIFF; some writers omit the offset."""
    offset = 0 if item[:2] in (b"II", b"MM") else 4 + int.from_bytes(item[:4], "big")
    return strip_prefix(item[offset:])


def _unpack(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Unpack a box that is compressed with Brotli; nothing without the package `brotli`."""
    kind = {b"Exif": "exif", b"xml ": "xmp"}.get(payload[:4])
    if kind is None:
        return
    try:
        import brotli
    except ImportError:
        return
    with suppress(brotli.error):
        unpacked: bytes = brotli.Decompressor().process(payload[4:], output_buffer_limit=MAX_EXIF_BYTES)
        yield kind, _after_offset(unpacked) if kind == "exif" else unpacked


def _canon_parts(data: bytes, moov: Box) -> Iterator[tuple[str, bytes]]:
    """Yield the directories of a CR3, each in a TIFF: main (CMT1), EXIF (CMT2), position (CMT4)."""
    kinds = {b"CMT1": "exif", b"CMT2": "exif", b"CMT4": "gps"}
    for box in read_boxes(data, moov.start, moov.end):
        if box.kind == b"uuid" and data[box.start : box.start + 16] == _CANON:
            parts = read_boxes(data, box.start + 16, box.end)
            yield from ((kinds[part.kind], data[part.start : part.end]) for part in parts if part.kind in kinds)


def _exif_items(data: bytes, meta: Box) -> Iterator[bytes]:
    """Yield the EXIF items that describe the primary image; if there are none, the first item."""
    boxes = {box.kind: box for box in read_boxes(data, meta.start + 4, meta.end)}
    if b"iinf" not in boxes or b"iloc" not in boxes:
        return
    items = _find_items(data, boxes[b"iinf"])
    primary = primary_item(data, boxes[b"pitm"]) if b"pitm" in boxes else None
    described = dict(_read_references(data, boxes[b"iref"])) if b"iref" in boxes else {}
    wanted = ([item for item in items if primary in described.get(item, ())] or items[:1])[:_MAX_ITEMS]
    places = _locate(data, boxes[b"iloc"], set(wanted))
    for method, extents in (places[item] for item in wanted if item in places):
        base, end = 0, len(data)
        if method == _IN_ITEM_DATA:
            _, base, end = boxes[b"idat"]
        block = b""
        for start, size in extents:
            room = MAX_EXIF_BYTES - len(block)
            block += data[base + start : min(base + start + min(size or room, room), end)]
        yield block


def _find_items(data: bytes, iinf: Box) -> list[int]:
    """Return the numbers of the items of type `Exif`."""
    found = []
    for box in read_boxes(data, iinf.start + (8 if data[iinf.start] else 6), iinf.end):
        version = data[box.start]
        if version in (2, 3):  # the others have no type
            number, _, kind = struct.unpack_from(">HH4s" if version == 2 else ">IH4s", data, box.start + 4)
            if kind == b"Exif":
                found.append(number)
    return found


def _read_references(data: bytes, iref: Box) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield an item, and the items that it describes."""
    code = "I" if data[iref.start] else "H"
    for box in read_boxes(data, iref.start + 4, iref.end):
        if box.kind == b"cdsc":
            item, count = struct.unpack_from(f">{code}H", data, box.start)
            described = islice(struct.iter_unpack(f">{code}", _words(data, box, code)), count)
            yield item, tuple(number for (number,) in described)


def _words(data: bytes, box: Box, code: str) -> bytes:
    """Return the item numbers of a reference, whole ones only."""
    size = struct.calcsize(f">{code}")
    start = box.start + size + 2
    return data[start : start + max(0, min(box.end, len(data)) - start) // size * size]


def _locate(data: bytes, iloc: Box, wanted: set[int]) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Return for each wanted item how its offsets count, and offset and length of its pieces."""
    version, sizes = data[iloc.start], struct.unpack_from(">H", data, iloc.start + 4)[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    index_size *= version > 0
    wide = "I" if version == 2 else "H"
    (count,) = struct.unpack_from(f">{wide}", data, iloc.start + 6)
    position = iloc.start + 6 + struct.calcsize(f">{wide}")
    found: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    for _ in range(min(count, 65_535)):
        (item,) = struct.unpack_from(f">{wide}", data, position)
        position += struct.calcsize(f">{wide}")
        method = 0
        if version:
            method = data[position + 1] & 15
            position += 2
        base = int.from_bytes(data[position + 2 : position + 2 + base_size], "big")
        position += 2 + base_size
        (pieces,) = struct.unpack_from(">H", data, position)
        position += 2
        step = index_size + offset_size + length_size
        if item in wanted and item not in found:
            starts = (position + index_size + number * step for number in range(min(pieces, _MAX_EXTENTS)))
            found[item] = (method, [_extent(data, start, base, offset_size, length_size) for start in starts])
        position += pieces * step
    return found


def _extent(data: bytes, start: int, base: int, offset_size: int, length_size: int) -> tuple[int, int]:
    middle = start + offset_size
    offset = int.from_bytes(data[start:middle], "big")
    return base + offset, int.from_bytes(data[middle : middle + length_size], "big")
