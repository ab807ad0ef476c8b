"""Finds the EXIF block of HEIC, JPEG XL and camera raw files, without their decoders."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from curation_features.photos.boxes import find_box, read_boxes, read_brands
from curation_features.photos.raw_kinds import identify_raw

MAX_BYTES = 8_000_000
"""A larger block is ignored, like that of other formats."""

_TIFF_STARTS = (b"II*\0", b"MM\0*")
_PANASONIC_AND_OLYMPUS = {b"IIU\0": b"II*\0", b"IIRO": b"II*\0", b"IIRS": b"II*\0", b"MMOR": b"MM\0*"}


def find_exif(data: bytes) -> bytes:
    """Return the EXIF block of a file: a TIFF; empty if it has none, or if Pillow finds it.

    Of camera raw files this is the file, which is a TIFF. Not supported: CR3, CRW, MRW and X3F.
    """
    if read_brands(data):
        block = _skip_header(_find_item(data))
    elif data[4:8] == b"JXL ":
        block = _skip_header(next(_exif_boxes(data), b""))
    else:
        return _find_in_raw(data)
    return block if block.startswith(_TIFF_STARTS) and len(block) <= MAX_BYTES else b""


def _find_in_raw(data: bytes) -> bytes:
    kind = identify_raw(data)
    if kind == "RAF":  # a JPEG with EXIF is inside
        start, length = struct.unpack_from(">II", data.ljust(92, b"\0"), 84)
        jpeg = data[start : start + min(length, 65_536 + 20)]
        found = jpeg.find(b"Exif\0\0", 0, 64)
        return jpeg[found + 6 :] if found > 0 else b""
    start = _PANASONIC_AND_OLYMPUS.get(data[:4], data[:4])
    return start + data[4:] if kind and start in _TIFF_STARTS else b""


def _exif_boxes(data: bytes) -> Iterator[bytes]:
    """Yield the content of EXIF boxes, also of compressed ones (`brob`, ISO/IEC 18181-2)."""
    for box in read_boxes(data):
        content = data[box.start : box.end]
        if box.kind == b"Exif":
            yield content
        elif box.kind == b"brob" and content.startswith(b"Exif"):
            yield _decompress(content[4:])


def _decompress(brotli: bytes) -> bytes:
    """Return at most `MAX_BYTES` + 1 bytes; empty if they are damaged."""
    import pyarrow as pa

    with suppress(OSError, pa.ArrowException):
        content: bytes = pa.CompressedInputStream(pa.BufferReader(brotli), "brotli").read(MAX_BYTES + 1)
        return content
    return b""


def _skip_header(content: bytes) -> bytes:
    """Skip the offset of the TIFF in an EXIF item, and the bytes before it (ISO/IEC 23008-12, A.2.1)."""
    return content[4 + int.from_bytes(content[:4], "big") :] if len(content) > 8 else b""


def _find_item(data: bytes) -> bytes:
    """Return the content of the first item of type `Exif`; empty if it has none, or the boxes are damaged."""
    try:
        item = next(_exif_items(data), None)
        return b"" if item is None else next((content for owner, content in _contents(data) if owner == item), b"")
    except struct.error:  # truncated
        return b""


def _exif_items(data: bytes) -> Iterator[int]:
    box = find_box(data, b"meta", b"iinf")
    if box is None:
        return
    start = box.start + (8 if data[box.start : box.start + 1] > b"\0" else 6)  # version, flags, number of entries
    for entry in read_boxes(data, start, box.end):
        version = data[entry.start]
        item, kind = struct.unpack_from(">I2x4s" if version > 2 else ">H2x4s", data, entry.start + 4)
        if version >= 2 and kind == b"Exif":
            yield item


def _contents(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield item number and content, from the file or from `idat` (ISO/IEC 14496-12, 8.11.3)."""
    box, inside = find_box(data, b"meta", b"iloc"), find_box(data, b"meta", b"idat")
    if box is None:
        return
    version, sizes, more = struct.unpack_from(">B3xBB", data, box.start)
    position = box.start + 6

    def take(size: int) -> int:
        nonlocal position
        position += size
        if position > box.end:
            raise struct.error
        return int.from_bytes(data[position - size : position], "big")

    number_size = 4 if version == 2 else 2
    for _ in range(take(number_size)):
        item = take(number_size)
        method = take(2) & 15 if version else 0
        take(2)  # the file of the data: this one
        base, content = take(more >> 4), b""
        for _ in range(take(2)):
            take(more & 15 if version else 0)
            start, length = base + take(sizes >> 4), take(sizes & 15)
            start += inside.start if method == 1 and inside else 0
            content += data[start : start + min(length, MAX_BYTES)]
        yield item, content
