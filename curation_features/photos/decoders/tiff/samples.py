"""The samples of a TIFF: unpacked, and as numbers, a band of rows at a time.

libtiff unpacks the byte compressions, by way of Pillow: a strip or tile of any samples is unpacked as bytes of 8-bit
gray. Predictors, bit depths and byte orders follow here (TIFF 6.0, sections 9, 14 and 15; Adobe Photoshop TIFF
Technical Note 3 for floats).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from curation_features.errors import PhotoError
from curation_features.photos.decoders.tiff.layout import FLOAT, SIGNED, UNSIGNED, Layout, check_blocks, check_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTE_COMPRESSIONS = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""None, LZW, Deflate, PackBits, Deflate (old number), LZMA, Zstandard: they know nothing of samples."""

_FORMAT_NAMES = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "floating-point", 5: "complex", 6: "complex"}
_NOT_COMPRESSED = 1
_BAND_BYTES = 2_000_000  # unpacked, at least one row of blocks
_HORIZONTAL, _FLOATING_POINT = 2, 3  # predictors
_REVERSED = 2  # FillOrder
_REVERSED_BITS = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8)[:, ::-1], axis=1)[:, 0]


def read_bands(data: bytes, layout: Layout, check_time: Callable[[], None]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the top row of each band, and its samples, (rows, width, samples).

    The chroma of subsampled YCbCr is repeated. Lines below and right of the image are removed.

    Raises:
        PhotoError: `unsupported_format`, `unreadable`, `truncated`, `too_large`, or by `check_time`.
        Exception: Pillow cannot unpack a strip or tile.
    """
    units = _join_pixels(layout)
    check_number(units)
    units = _split_strip(units)
    check_blocks(units, len(data))
    _check_samples(units)
    across, up = layout.subsampling
    row_bytes = units.planes * units.across * units.row_bytes
    rows_of_blocks = max(1, _BAND_BYTES // (units.block[1] * row_bytes))
    rows = max(1, _BAND_BYTES // row_bytes)
    for first in range(0, units.down, rows_of_blocks):
        check_time()
        last = min(first + rows_of_blocks, units.down)
        planes = [_read_plane(data, units, plane, first, last) for plane in range(units.planes)]
        for start in range(0, len(planes[0]), rows):  # a compressed strip may have all rows
            parts = [plane[start : start + rows] for plane in planes]
            values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            if (across, up) != (1, 1):
                values = _repeat_chroma(values, across, up)
            top = (first * units.block[1] + start) * up
            if top < layout.size[1]:
                yield top, values[: layout.size[1] - top, : layout.size[0]]


def _join_pixels(layout: Layout) -> Layout:
    """Return the layout of data units of subsampled YCbCr: the luma of several pixels, then their chroma."""
    across, up = layout.subsampling
    if (across, up) == (1, 1):
        return layout
    is_ragged = layout.down > 1 and (layout.block[1] % up or (layout.is_tiled and layout.block[0] % across))
    if not {across, up} <= {1, 2, 4} or layout.is_planar or layout.samples != 3 or layout.bits != 8 or is_ragged:
        raise PhotoError("unsupported_format", "this subsampling of a YCbCr TIFF is not read; export it as RGB")
    size, block = ((-(-width // across), -(-height // up)) for width, height in (layout.size, layout.block))
    return replace(layout, size=size, block=block, samples=across * up + 2, subsampling=(1, 1))


def _repeat_chroma(units: NDArray[Any], across: int, up: int) -> NDArray[Any]:
    """Return the pixels of data units, (rows, width, 3)."""
    rows, columns, _ = units.shape
    luma = units[..., :-2].reshape(rows, columns, up, across).transpose(0, 2, 1, 3).reshape(rows * up, columns * across)
    chroma = units[..., -2:].repeat(up, axis=0).repeat(across, axis=1)
    return np.dstack([luma, chroma])


def _split_strip(layout: Layout) -> Layout:
    """Divide an uncompressed strip of all rows, so that bands are small; set byte counts, which may be wrong."""
    if layout.compression != _NOT_COMPRESSED:
        return layout
    if not layout.is_tiled and layout.down == 1:
        rows = max(1, _BAND_BYTES // (layout.planes * layout.row_bytes))
        starts = range(0, layout.size[1], min(rows, layout.size[1]))
        planes = layout.offsets[: layout.planes]
        offsets = tuple(offset + row * layout.row_bytes for offset in planes for row in starts)
        layout = replace(layout, block=(layout.size[0], min(rows, layout.size[1])), offsets=offsets)
    heights = [_block_rows(layout, row) for row in range(layout.down)] * layout.planes
    return replace(layout, counts=tuple(rows * layout.row_bytes for rows in heights for _ in range(layout.across)))


def _block_rows(layout: Layout, row: int) -> int:
    """Return the rows of the blocks in a row of blocks: the last strip may be shorter."""
    height = layout.block[1]
    return height if layout.is_tiled else min(height, layout.size[1] - row * height)


def _check_samples(layout: Layout) -> None:
    """Refuse number types that are not read."""
    name = _FORMAT_NAMES.get(layout.format, f"SampleFormat {layout.format}")
    is_float = layout.format == FLOAT
    if layout.format > FLOAT or layout.bits > 64 or (is_float and layout.bits not in (16, 32, 64)):
        raise PhotoError("unsupported_format", f"{layout.bits}-bit {name} samples are not read; export it as 16 bits")
    bits = {_HORIZONTAL: (8, 16, 32, 64), _FLOATING_POINT: (16, 32, 64) if is_float else ()}
    if layout.predictor not in (1, *bits) or layout.bits not in bits.get(layout.predictor, (layout.bits,)):
        message = f"predictor {layout.predictor} of {layout.bits}-bit {name} samples is not read"
        raise PhotoError("unsupported_format", f"{message}; export it without compression")


def _read_plane(data: bytes, layout: Layout, plane: int, first: int, last: int) -> NDArray[Any]:
    """Return the samples of rows of blocks, (rows, width, samples per pixel of a plane)."""
    start = plane * layout.across * layout.down
    numbers = range(start + first * layout.across, start + last * layout.across)
    blocks = [data[layout.offsets[number] : layout.offsets[number] + layout.counts[number]] for number in numbers]
    rows = sum(_block_rows(layout, row) for row in range(first, last))
    unpack = _read_uncompressed if layout.compression == _NOT_COMPRESSED else _unpack_with_pillow
    samples = _to_numbers(unpack(blocks, layout, rows), layout)
    return samples.reshape(rows, layout.across * layout.block[0], -1)[:, : layout.size[0]]


def _read_uncompressed(blocks: list[bytes], layout: Layout, rows: int) -> NDArray[np.uint8]:
    """Return the bytes of rows of blocks, (rows, blocks across, bytes of a row)."""
    joined = np.frombuffer(b"".join(blocks), np.uint8)
    if layout.fill_order == _REVERSED:
        joined = _REVERSED_BITS[joined]
    if layout.across == 1:
        return joined.reshape(rows, 1, layout.row_bytes)
    tiles = joined.reshape(-1, layout.across, layout.block[1], layout.row_bytes)
    return tiles.transpose(0, 2, 1, 3).reshape(rows, layout.across, layout.row_bytes)


def _unpack_with_pillow(blocks: list[bytes], layout: Layout, rows: int) -> NDArray[np.uint8]:
    """Unpack rows of blocks like `_read_uncompressed`, as a TIFF of 8-bit gray."""
    width, head = layout.across * layout.row_bytes, 8
    ends = np.cumsum([len(block) for block in blocks], dtype=np.int64).tolist()
    offsets = [head + end - len(block) for end, block in zip(ends, blocks, strict=True)]
    entries = {256: [width], 257: [rows], 258: [8], 259: [layout.compression], 262: [1], 266: [layout.fill_order]}
    entries[277] = [1]
    counts = [len(block) for block in blocks]
    if layout.is_tiled:
        entries |= {322: [layout.row_bytes], 323: [layout.block[1]], 324: offsets, 325: counts}
    else:
        entries |= {273: offsets, 278: [layout.block[1]], 279: counts}
    start = head + ends[-1] + ends[-1] % 2
    body = b"".join(blocks).ljust(start - head, b"\0")
    image = Image.open(
        BytesIO(struct.pack("<2sHI", b"II", 42, start) + body + _directory(entries, start)), "r", ["TIFF"]
    )
    return np.asarray(image).reshape(rows, layout.across, layout.row_bytes)


def _directory(entries: dict[int, list[int]], start: int) -> bytes:
    """Return a little-endian TIFF directory of 32-bit integers at `start`, and the integers after it."""
    place = start + 2 + 12 * len(entries) + 4
    head, tail = struct.pack("<H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        head += struct.pack("<HHI", tag, 4, len(values))
        head += packed if len(values) == 1 else struct.pack("<I", place + len(tail))
        tail += packed if len(values) > 1 else b""
    return head + bytes(4) + tail


def _to_numbers(packed: NDArray[np.uint8], layout: Layout) -> NDArray[Any]:
    """Return the samples of bytes, in the machine's byte order, without their predictor.

    Args:
        packed: (rows, blocks across, bytes of a row).
    """
    rows, across, _ = packed.shape
    samples = layout.samples // layout.planes
    numbers = layout.block[0] * samples
    if layout.bits not in (8, 16, 32, 64):
        return _unpack_bits(packed, layout.bits, numbers)
    size = layout.bits // 8
    if layout.predictor == _FLOATING_POINT:  # differences of bytes; the first byte of all samples, then the second
        steps = np.cumsum(packed.reshape(rows, across, -1, samples), axis=2, dtype=np.uint8)
        shuffled = steps.reshape(rows, across, size, numbers).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(shuffled).view(f">f{size}")[..., 0].astype(f"=f{size}")
    values = np.ascontiguousarray(packed).view(f"{layout.order}u{size}")
    if layout.predictor == _HORIZONTAL:
        values = np.cumsum(values.reshape(rows, across, -1, samples), axis=2, dtype=f"=u{size}")
    else:
        values = values.astype(f"=u{size}", copy=False)
    return values.view({SIGNED: f"=i{size}", FLOAT: f"=f{size}"}.get(layout.format, f"=u{size}"))


def _unpack_bits(packed: NDArray[np.uint8], bits: int, numbers: int) -> NDArray[Any]:
    """Return unsigned samples of any depth; the first bit is the highest, and each row starts at a byte."""
    rows, across, _ = packed.shape
    digits = np.unpackbits(packed, axis=2)[..., : numbers * bits].reshape(rows, across, numbers, bits)
    kind = np.uint16 if bits <= 16 else np.uint64
    values = np.zeros((rows, across, numbers), kind)
    for place in range(bits):
        values = (values << kind(1)) | digits[..., place]
    return values
