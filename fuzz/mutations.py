"""Damage bytes like disks, networks and attackers do. The random generator decides everything."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random

Mutation = Callable[[Random, bytes], bytes]

_NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MORE_BYTES = 1_000_000  # by which a file may grow; larger files take time and find nothing more
_JPEG_SEGMENT = re.compile(rb"\xff[\xc0-\xc4\xda-\xfe]..", re.DOTALL)
_PNG_START = b"\x89PNG\r\n\x1a\n"


def damaged(random: Random, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Damage one of `files` with one to three mutations; returns their names, the file's, and the bytes."""
    name = random.choice(sorted(files))
    data, steps = files[name], []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        mutation = random.choice(MUTATIONS)
        data = (
            mutation(random, data)
            if mutation is not splice
            else splice(random, data, _choose_partner(random, name, files))
        )
        steps.append(mutation.__name__)
    if data.startswith(_PNG_START) and random.random() < 0.7:
        data = with_checksums(data)  # otherwise no code after the checksums is reached
        steps.append("with_checksums")
    return f"{name}: {', '.join(steps)}", data


def _choose_partner(random: Random, name: str, files: Mapping[str, bytes]) -> bytes:
    """Choose another file, half of the time of the same format."""
    same = [other for other in sorted(files) if other.split()[1:2] == name.split()[1:2]]
    return files[random.choice(same if random.random() < 0.5 else sorted(files))]


def _choose_position(random: Random, data: bytes) -> int:
    """Choose a position, half of the time near the headers at the beginning."""
    limit = len(data) if random.random() < 0.5 else min(len(data), 512)
    return random.randrange(limit) if limit else 0


def flip_bits(random: Random, data: bytes) -> bytes:
    """Flip single bits."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 2, 5, 20, 100)) if data else 0):
        changed[_choose_position(random, data)] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(random: Random, data: bytes) -> bytes:
    """Replace a run of bytes by noise, zeros or ones."""
    start, length = _choose_position(random, data), random.choice((1, 4, 16, 64, 512))
    run = random.choice((random.randbytes(length), b"\0" * length, b"\xff" * length))
    return data[:start] + run[: len(data) - start] + data[start + length :]


def write_number(random: Random, data: bytes) -> bytes:
    """Write a number, often a limit, of 1, 2 or 4 bytes in either order: a length, a count or a dimension."""
    size, start = random.choice((1, 2, 2, 4, 4)), _choose_position(random, data)
    number = random.choice(_NUMBERS) if random.random() < 0.7 else random.getrandbits(32)
    raw = (number % 256**size).to_bytes(size, random.choice(("big", "little")))
    return (data[:start] + raw + data[start + size :])[: len(data)]


def truncate(random: Random, data: bytes) -> bytes:
    """End the file early."""
    return data[: random.randrange(len(data) + 1)]


def insert(random: Random, data: bytes) -> bytes:
    """Insert random bytes."""
    start = _choose_position(random, data)
    return data[:start] + random.randbytes(random.choice((1, 2, 3, 16, 300))) + data[start:]


def remove(random: Random, data: bytes) -> bytes:
    """Remove a block."""
    start = _choose_position(random, data)
    return data[:start] + data[start + random.choice((1, 2, 16, 300)) :]


def repeat(random: Random, data: bytes) -> bytes:
    """Repeat a block twice or many times."""
    start, length = _choose_position(random, data), random.choice((2, 16, 64, 1000))
    return data[:start] + data[start : start + length] * random.choice((2, 2, 10, 200)) + data[start + length :]


def shuffle_blocks(random: Random, data: bytes) -> bytes:
    """Swap two neighbouring blocks."""
    start, length = _choose_position(random, data), random.choice((1, 8, 256))
    middle, end = start + length, start + 2 * length
    return data[:start] + data[middle:end] + data[start:middle] + data[end:]


def splice(random: Random, data: bytes, other: bytes = b"") -> bytes:
    """Join the beginning of one file and the end of another."""
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def edit_structure(random: Random, data: bytes) -> bytes:
    """Change a number inside a chunk, a segment or a directory entry."""
    starts = _find_structures(data)
    if not starts:
        return write_number(random, data)
    start, length = random.choice(starts)
    inside = bytearray(write_number(random, data[start : start + length]))
    return data[:start] + bytes(inside) + data[start + length :]


def repeat_structure(random: Random, data: bytes) -> bytes:
    """Repeat a chunk, segment or directory entry many times."""
    starts = _find_structures(data)
    if not starts:
        return repeat(random, data)
    start, length = random.choice(starts)
    times = min(random.choice((2, 20, 1000)), 2 + _MORE_BYTES // max(1, length))
    return data[:start] + data[start : start + length] * times + data[start + length :]


MUTATIONS: Sequence[Mutation] = (
    flip_bits,
    overwrite,
    write_number,
    truncate,
    insert,
    remove,
    repeat,
    shuffle_blocks,
    splice,
    edit_structure,
    edit_structure,
    repeat_structure,
)


def _find_structures(data: bytes) -> list[tuple[int, int]]:
    """Find start and length of the parts of a JPEG, PNG, TIFF or RIFF (WebP) file."""
    if data[:2] == b"\xff\xd8":
        found = (match.start() for match in _JPEG_SEGMENT.finditer(data))
        return [(start, 2 + int.from_bytes(data[start + 2 : start + 4], "big")) for start in found][:200]
    if data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data[:1] == b"I" else ">"
        start = int.from_bytes(data[4:8], "little" if order == "<" else "big") + 2
        return [(start + 12 * index, 12) for index in range(20) if start + 12 * index + 12 <= len(data)]
    if data.startswith(_PNG_START):
        return [(start, 12 + length) for start, length in _find_chunks(data)]
    if data[:4] == b"RIFF":
        parts, start = [], 12
        while start + 8 <= len(data) and len(parts) < 50:
            length = 8 + int.from_bytes(data[start + 4 : start + 8], "little")
            parts.append((start, length))
            start += length + length % 2
        return parts
    return []


def _find_chunks(data: bytes) -> list[tuple[int, int]]:
    """Find start and content length of each chunk of a PNG."""
    chunks, start = [], len(_PNG_START)
    while start + 12 <= len(data) and len(chunks) < 5000:
        length = int.from_bytes(data[start : start + 4], "big")
        if start + 12 + length > len(data):
            break
        chunks.append((start, length))
        start += 12 + length
    return chunks


def with_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks."""
    mended = bytearray(data)
    for start, length in _find_chunks(data):
        body = data[start + 4 : start + 8 + length]
        struct.pack_into(">I", mended, start + 8 + length, zlib.crc32(body))
    return bytes(mended)
