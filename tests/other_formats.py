"""Files of the formats that Pillow does not write: HEIC with transforms, JPEG XL and camera raw."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
import pylibjxl
import tifffile
from pictures import encoded
from PIL import Image

TRANSFORMS = {
    **{1: b"", 2: b"m\1", 3: b"r\2", 4: b"m\0"},
    **{5: b"r\1m\0", 6: b"r\3", 7: b"r\3m\0", 8: b"r\1"},
}
"""EXIF orientation -> `irot` (quarter turns to the left) and `imir` (0: top to bottom), as libavif writes them."""


def heic(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    """Return a HEIC with as little loss as possible. `mode` is one of pillow-heif, such as `RGB;16`."""
    buffer = BytesIO()
    size = (pixels.shape[1], pixels.shape[0])
    file = pillow_heif.from_bytes(mode=mode, size=size, data=pixels.tobytes())
    for other in options.pop("others", ()):
        file.add_from_pillow(Image.fromarray(other))
    exif = Image.Exif()
    exif[274] = 1
    file.save(buffer, quality=-1, chroma=444, **{"exif": exif.tobytes(), **options})
    return buffer.getvalue()


def with_exif_orientation(data: bytes, orientation: int) -> bytes:
    """Write an orientation into the EXIF of a HEIC that `heic` made, and nothing else."""
    entry = struct.pack(">HHIH", 274, 3, 1, 1)
    assert data.count(entry) == 1
    return data.replace(entry, entry[:-2] + struct.pack(">H", orientation))


def with_transforms(data: bytes, orientation: int, *, properties: bytes = b"") -> bytes:
    """Add `irot` and `imir` to the first item of a HEIC. `properties`: more boxes, of no item."""
    boxes = [(b"irot" if kind == ord("r") else b"imir", bytes([value])) for kind, value in _pairs(orientation)]
    added = b"".join(struct.pack(">I4s", 8 + len(value), kind) + value for kind, value in boxes) + properties
    meta, ipco, ipma = (data.index(name) - 4 for name in (b"meta", b"ipco", b"ipma"))
    known, more = _count_boxes(data, ipco), len(boxes)
    assert data[ipma + 8 : ipma + 12] == bytes(4)  # version 0: short item numbers, 7 bits per property
    first = ipma + 16  # of the entries: item, number of properties, properties
    number = data[first + 2]
    indices = bytes(0x80 | index for index in range(known + 1, known + 1 + more))
    entry = data[first : first + 2] + bytes([number + more]) + data[first + 3 : first + 3 + number] + indices
    changed = bytearray(data[:first] + entry + data[first + 3 + number :])
    _grow(changed, ipma, more)
    changed[ipma:ipma] = added
    _grow(changed, ipco, len(added))
    delta = len(added) + more
    for box in (meta, data.index(b"iprp") - 4):
        _grow(changed, box, delta)
    _move_extents(changed, delta)
    return bytes(changed)


def _pairs(orientation: int) -> Sequence[tuple[int, int]]:
    codes = TRANSFORMS[orientation]
    return [(codes[i], codes[i + 1]) for i in range(0, len(codes), 2)]


def _count_boxes(data: bytes, start: int) -> int:
    end, count, start = start + struct.unpack_from(">I", data, start)[0], 0, start + 8
    while start < end:
        start, count = start + struct.unpack_from(">I", data, start)[0], count + 1
    return count


def _grow(data: bytearray, start: int, by: int) -> None:
    struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + by)


def _move_extents(data: bytearray, by: int) -> None:
    """Add to every offset of `iloc` (as libheif writes it: version 0 or 1, 4-byte offsets)."""
    at = data.index(b"iloc") + 4
    version, sizes, (items,) = data[at], data[at + 4], struct.unpack_from(">H", data, at + 6)
    assert version in (0, 1)
    assert sizes == 0x44
    assert data[at + 5] in (0, 0x40)
    base, at = data[at + 5] >> 4, at + 8
    for _ in range(items):
        method = struct.unpack_from(">H", data, at + 2)[0] if version else 0
        at += (6 if version else 4) + base
        (extents,) = struct.unpack_from(">H", data, at)
        at += 2
        for _ in range(extents):
            if not method:
                _grow(data, at, by)
            at += 8


def jxl(pixels: np.ndarray, orientation: int = 1, **options: Any) -> bytes:
    """Return a JPEG XL: without loss; or, with an orientation, the transcoded JPEG of the stored pixels."""
    if orientation == 1:
        return bytes(pylibjxl.encode(pixels, lossless=True, **options))
    exif = Image.Exif()
    exif[274] = orientation
    return bytes(pylibjxl.jpeg_to_jxl(encoded(pixels, "JPEG", quality=100, subsampling=0, exif=exif)))


# From XYZ to linear sRGB (IEC 61966-2-1): the colours of the drawn camera.
_COLOUR_MATRIX = (32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572)


def dng(
    pixels: np.ndarray, orientation: int = 1, previews: Sequence[bytes] = (), make: str = "Drawn", is_dng: bool = True
) -> bytes:
    """Return the DNG of a camera whose colours are those of sRGB: a Bayer mosaic of 16 bits and JPEG previews.

    Args:
        pixels: sRGB.
        is_dng: False: without the tags of DNG.
    """
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    rows, columns = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]]
    channel = rows % 2 + columns % 2  # RGGB
    mosaic = np.rint(np.take_along_axis(linear, channel[..., None], axis=2)[..., 0] * 65535).astype(np.uint16)
    matrix = tuple(number for entry in _COLOUR_MATRIX for number in (entry, 10000))
    tags = [(274, 3, 1, orientation), (271, 2, 0, make), (272, 2, 0, "Camera"), (33421, 3, 2, (2, 2))]
    tags += [(33422, 1, 4, bytes([0, 1, 1, 2]))]
    if is_dng:
        tags += [(50706, 1, 4, bytes([1, 4, 0, 0])), (50708, 2, 0, "Drawn Camera"), (50721, 10, 9, matrix)]
        tags += [(50728, 5, 3, (1,) * 6), (50778, 3, 1, 21), (50714, 3, 1, 0), (50717, 4, 1, 65535)]
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer, byteorder="<") as file:
        options: dict[str, Any] = {"metadata": None, "software": False}
        file.write(mosaic, photometric=32803, extratags=tags, subifds=len(previews) or None, **options)
        for data in previews:
            shape = (*Image.open(BytesIO(data)).size[::-1], 3)
            jpeg: dict[str, Any] = {"compression": "jpeg", "photometric": "ycbcr", "rowsperstrip": shape[0]}
            file.write(iter([data]), shape=shape, dtype=np.uint8, subfiletype=1, **jpeg, **options)
    return buffer.getvalue()
