"""Test images: their pixels, their encoding and decoding, and small files made by hand."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.photos.decode import Photo, decode
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoFile
from curation_features.schema import PHOTO_REASONS

CAT_PIXELS = np.ascontiguousarray(bundled.chelsea()[60:156, 100:164])
"""(96, 64, 3): eyes, whiskers, no symmetry."""
CAT = Image.fromarray(CAT_PIXELS)


def encoded(image: Image.Image | np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def file_of(data: bytes) -> PhotoFile:
    return PhotoFile(data, hashlib.sha256(data).hexdigest())


def decoded(data: bytes, **limits: float) -> Photo:
    return decode(file_of(data), DecodeLimits(**{"max_pixels": 100_000_000, **limits}))


def rgb_of(data: bytes) -> np.ndarray:
    return decoded(data).rgb


def pillows(data: bytes) -> np.ndarray:
    """The pixels that Pillow decodes."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def refusal(action: Callable[[], object]) -> PhotoError:
    with pytest.raises(PhotoError) as caught:
        action()
    assert caught.value.reason in PHOTO_REASONS
    return caught.value


def reason_of(data: bytes, **limits: float) -> str:
    """The reason why bytes are not a photo."""
    return refusal(lambda: decoded(data, **limits)).reason


def reason_or_none(data: bytes) -> str | None:
    """The reason why bytes are not a photo; None if they are one."""
    try:
        decoded(data)
    except PhotoError as error:
        return error.reason
    return None


def with_empty_scans(number: int, side: int = 64) -> bytes:
    """Return a progressive JPEG with empty scans, each a pass over all blocks."""
    data = encoded(Image.new("L", (side, side), 128), progressive=True)
    start = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    end = data.index(b"\xff\xc4", start)
    return data[:end] + data[start : start + 10] * number + data[end:]


def png(*chunks: bytes) -> bytes:
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes, *, order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF: a directory of (tag, type, count, value), and `tail` at 256."""
    start, size = {"<": b"II", ">": b"MM"}[order], "Q" if big else "I"
    first = (43, 8, 0, 16) if big else (42, 8)
    head = start + struct.pack(f"{order}{'HHHQQ' if big else 'HIH'}", *first, len(entries))
    for tag, kind, count, value in sorted(entries):
        is_short = kind == 3 and count == 1  # the value is at the start of its field
        head += struct.pack(f"{order}HH{size}", tag, kind, count)
        head += struct.pack(f"{order}{'H' if is_short else size}", value).ljust(8 if big else 4, b"\0")
    return head.ljust(256, b"\0") + tail
