"""Huffman-coded blocks of a sequential JPEG (ITU-T T.81, annex F.2): more picture, or padding?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from curation_features.photos.jpeg_segments import (
    HUFFMAN_TABLES,
    SEQUENTIAL_FRAMES,
    Frame,
    Scan,
    read_frame,
    segments,
)

_MAX_TAIL = 160  # bytes at the end that are decoded; codes synchronise within a few blocks
_TO_SYNCHRONISE = 32  # bytes: a walk may start in the first ones of a long tail
_LAST_AC = 63
_MAX_DC_BITS, _MAX_AC_BITS = 11, 10  # of 8-bit samples

Codes = Mapping[str, int]
"""A Huffman table: code, as text of 0 and 1 -> value."""


class Coder(NamedTuple):
    """The tables of each block of an MCU, in coded order: for DC and AC."""

    blocks: tuple[tuple[Codes, Codes], ...]


def find_coder(data: bytes, scan: Scan) -> Coder | None:
    """Return the tables of a scan; None if it is not sequential, or a table is missing."""
    tables: dict[int, Codes] = {}
    frame: Frame | None = None
    for segment in segments(data):
        if segment.start >= scan.header:
            break
        if segment.kind == HUFFMAN_TABLES:
            tables.update(_read_tables(data[segment.start + 4 : segment.end]))
        elif segment.kind in SEQUENTIAL_FRAMES:
            frame = read_frame(data, segment)
    if frame is None:
        return None
    header = data[scan.header + 4 : scan.start]
    number = header[0] if header else 0
    sizes = {part.identifier: part.horizontal * part.vertical for part in frame.components}
    blocks = []
    for at in range(1, 2 * number, 2):
        identifier, chosen = header[at : at + 2]
        dc, ac = tables.get(chosen >> 4), tables.get(0x10 | chosen & 15)
        if dc is None or ac is None or identifier not in sizes:
            return None
        blocks += [(dc, ac)] * (sizes[identifier] if number > 1 else 1)
    return Coder(tuple(blocks)) if blocks else None


def _read_tables(payload: bytes) -> Mapping[int, Codes]:
    """Return the tables of a DHT segment by class and number (T.81, annex C)."""
    tables: dict[int, Codes] = {}
    at = 0
    while at + 17 <= len(payload):
        counts, values = payload[at + 1 : at + 17], iter(payload[at + 17 :])
        code, codes = 0, {}
        for length, count in enumerate(counts, start=1):
            for _, value in zip(range(count), values, strict=False):
                codes[f"{code:0{length}b}"] = value
                code += 1
            code <<= 1
        tables[payload[at]] = codes
        at += 17 + sum(counts)
    return tables


def has_blocks(coded: bytes, coder: Coder, *, only_whole_mcus: bool = False) -> bool:
    """Return whether coded bytes decode as MCUs up to their last bit.

    The last byte of a picture is filled up with ones (T.81, F.1.2.3). Where the first block begins is unknown, so each
    bit and each block of an MCU are tried. Of random bytes 1 to 3 % decode so.

    Args:
        only_whole_mcus: the first block is the first of an MCU.
    """
    tail = coded[-_MAX_TAIL:].replace(b"\xff\x00", b"\xff")
    bits = "".join(f"{byte:08b}" for byte in tail)
    starts = 8 if len(coded) < _MAX_TAIL else 8 * _TO_SYNCHRONISE
    seen: set[tuple[int, int]] = set()
    return any(
        _reaches_end(bits, start, block, coder, seen)
        for start in range(min(starts, len(bits)))
        for block in range(1 if only_whole_mcus else len(coder.blocks))
    )


def _reaches_end(bits: str, at: int, block: int, coder: Coder, seen: set[tuple[int, int]]) -> bool:
    while (at, block) not in seen:
        seen.add((at, block))
        if block == 0 and len(bits) - at < 8 and "0" not in bits[at:]:
            return True
        end = _skip_block(bits, at, *coder.blocks[block])
        if end is None:
            return False
        at, block = end, (block + 1) % len(coder.blocks)
    return False


def _skip_block(bits: str, at: int, dc: Codes, ac: Codes) -> int | None:
    """Return the end of a block; None if it is invalid or incomplete."""
    size, at = _read_code(bits, at, dc)
    if size is None or size > _MAX_DC_BITS:
        return None
    at += size
    index = 0
    while index < _LAST_AC:
        value, at = _read_code(bits, at, ac)
        if value is None:
            return None
        run, size = value >> 4, value & 15
        if size == 0 and run < 15:
            return at if run == 0 and at <= len(bits) else None
        index += run + 1
        at += size
        if index > _LAST_AC or size > _MAX_AC_BITS:
            return None
    return at if at <= len(bits) else None


def _read_code(bits: str, at: int, codes: Codes) -> tuple[int | None, int]:
    for end in range(at + 1, min(at + 16, len(bits)) + 1):
        value = codes.get(bits[at:end])
        if value is not None:
            return value, end
    return None, at
