"""EXIF and XMP blocks in photo files of every format.

Only the structure of a file is read, never its pixels, and no decoder is needed. Of a file with several pictures, such
as MPO or a gain map, the blocks are those of the first, the still.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

from curation_features.photos.exif.iso_boxes import exif_of_boxes
from curation_features.photos.exif.tiff_tags import open_directory, strip_prefix
from curation_features.photos.jpeg_segments import START_OF_SCAN, segments
from curation_features.photos.limits import MAX_EXIF_BYTES

Part: TypeAlias = tuple[str, bytes]
"""`exif`: a TIFF with the main directory; `gps`: a TIFF with the position's directory; `xmp`: an XMP packet."""

_APP1 = 0xE1
_MAX_CHUNKS = 100_000  # of a PNG or WebP
_TIFF_HEAD = re.compile(rb"II[*+]\0|MM\0[*+]")
_JPG_FROM_RAW = 0x002E
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


def find_blocks(data: bytes) -> Iterator[Part]:
    """Yield the metadata blocks of a file; nothing for an unknown format.

    Raises:
        Exception: the file is damaged after the blocks that were yielded.
    """
    reader = next((reader for start, reader in _READERS if start.match(data)), None)
    if reader is not None:
        yield from reader(data)


def _of_jpeg(data: bytes) -> Iterator[Part]:
    """Yield the blocks before the first scan; a block of more than 64 kB continues in the next segment."""
    blocks: list[list[bytes]] = []
    for kind, start, end in islice(segments(data), _MAX_CHUNKS):
        if kind == START_OF_SCAN:
            break
        if kind != _APP1:
            continue
        payload = data[start + 4 : end]
        if payload.startswith(b"Exif\0"):
            block = strip_prefix(payload)
            if blocks and not _TIFF_HEAD.match(block):
                blocks[-1].append(block)
            else:
                blocks.append([block])
        elif payload.startswith(_XMP_HEAD):
            yield "xmp", payload[len(_XMP_HEAD) :]
    yield from (("exif", b"".join(parts)) for parts in blocks)


def _of_png(data: bytes) -> Iterator[Part]:
    """Yield the blocks of a PNG; also those in texts, as ImageMagick writes them."""
    start = 8
    for _ in range(_MAX_CHUNKS):
        size, kind = struct.unpack_from(">I4s", data, start)
        if kind == b"IEND":
            return
        payload = data[start + 8 : start + 8 + min(size, MAX_EXIF_BYTES)] if kind != b"IDAT" else b""
        if kind == b"eXIf":
            yield "exif", strip_prefix(payload)
        elif kind in (b"tEXt", b"zTXt") and payload.startswith(
            (b"Raw profile type exif\0", b"Raw profile type APP1\0")
        ):
            yield "exif", strip_prefix(_from_hexadecimal(payload, kind == b"zTXt"))
        elif kind == b"iTXt" and payload.startswith(b"XML:com.adobe.xmp\0\0"):
            yield "xmp", payload
        start += size + 12


def _from_hexadecimal(payload: bytes, is_packed: bool) -> bytes:
    """Return the bytes of a profile in a text: its name, its length, then hexadecimal digits in lines."""
    text = payload[payload.index(b"\0") + 1 :]
    if is_packed:
        text = zlib.decompressobj().decompress(text[1:], 3 * MAX_EXIF_BYTES)
    return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))


def _of_webp(data: bytes) -> Iterator[Part]:
    start = 12
    for _ in range(_MAX_CHUNKS):
        kind, size = struct.unpack_from("<4sI", data, start)
        if kind in (b"EXIF", b"XMP "):
            block = data[start + 8 : start + 8 + min(size, MAX_EXIF_BYTES)]
            yield ("exif", strip_prefix(block)) if kind == b"EXIF" else ("xmp", block)
        start += 8 + size + size % 2


def _of_tiff(data: bytes) -> Iterator[Part]:
    """Yield a TIFF itself, and the blocks of the JPEG in a Panasonic RW2, which has more tags."""
    yield "exif", data
    if data[2:4] == b"U\0":
        jpeg = open_directory(data).entries.get(_JPG_FROM_RAW)
        if jpeg:
            yield from _of_jpeg(data[jpeg.start : jpeg.end])


def _of_fujifilm(data: bytes) -> Iterator[Part]:
    """Yield the blocks of the JPEG in a RAF: big-endian offset and length are at 84."""
    start, size = struct.unpack_from(">II", data, 84)
    yield from _of_jpeg(data[start : start + size])


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Iterator[Part]]], ...] = (
    (re.compile(rb"\xff\xd8"), _of_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _of_png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _of_webp),
    (re.compile(rb"FUJIFILM"), _of_fujifilm),
    (re.compile(rb"....(?:ftyp|JXL )", re.DOTALL), exif_of_boxes),
    (re.compile(rb"II|MM"), _of_tiff),
)
"""First bytes of a file -> reader. TIFF includes the raw files that are TIFFs: DNG, NEF, ARW, CR2, ORF, RW2, PEF."""
