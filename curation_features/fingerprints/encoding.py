"""Bytes of a fingerprint: a header with a version and a checksum, the hashes, and the rest in a fixed order."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from curation_features.fingerprints.fingerprint import ORIENTATIONS, Fingerprint, Keypoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"FPR2"
"""The digit is the version of the encoding."""

HEADER = struct.Struct("<4sIBxH")
"""Magic, CRC-32 of all that follows the CRC, quality, number of keypoints; little-endian."""

_HASHES = slice(HEADER.size, HEADER.size + ORIENTATIONS * 32)
_THUMBNAIL = slice(_HASHES.stop, _HASHES.stop + 16 * 16 * 3)
_MINIATURE = slice(_THUMBNAIL.stop, _THUMBNAIL.stop + 64 * 64)
_SHARPNESS = slice(_MINIATURE.stop, _MINIATURE.stop + 8 * 8 * 4)
_KEYPOINT = 2 * 2 + 32
_UNIT = 65535
"""Positions are kept in steps of 1 / 65535 of the longer side."""


def to_bytes(fingerprint: Fingerprint) -> bytes:
    """Encode a fingerprint; at most 15 kB."""
    points = fingerprint.keypoints
    positions = np.round(np.clip(points.positions, 0, 1) * _UNIT).astype("<u2")
    body = b"".join(
        (
            struct.pack("<BxH", fingerprint.quality, len(positions)),
            np.ascontiguousarray(fingerprint.hashes, np.uint8).tobytes(),
            np.ascontiguousarray(fingerprint.thumbnail, np.uint8).tobytes(),
            np.ascontiguousarray(fingerprint.miniature, np.uint8).tobytes(),
            np.ascontiguousarray(fingerprint.sharpness, "<f4").tobytes(),
            positions.tobytes(),
            np.ascontiguousarray(points.descriptors, np.uint8).tobytes(),
        )
    )
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def from_bytes(data: bytes) -> Fingerprint:
    """Decode a fingerprint. Raises ValueError for bytes that `to_bytes` of this version did not write."""
    quality, number = _checked(data)
    positions = slice(_SHARPNESS.stop, _SHARPNESS.stop + 4 * number)
    descriptors = np.frombuffer(data[positions.stop :], np.uint8).reshape(number, 32)
    shares = np.frombuffer(data[positions], "<u2").reshape(number, 2).astype(np.float32) / np.float32(_UNIT)
    return Fingerprint(
        _hashes(data),
        quality,
        np.frombuffer(data[_THUMBNAIL], np.uint8).reshape(16, 16, 3),
        np.frombuffer(data[_MINIATURE], np.uint8).reshape(64, 64),
        np.frombuffer(data[_SHARPNESS], "<f4").reshape(8, 8).astype(np.float32),
        Keypoints(shares, descriptors),
    )


def hashes_of(data: bytes) -> NDArray[np.uint8]:
    """Decode the hashes alone, (8, 32). Raises ValueError as `from_bytes` does."""
    _checked(data)
    return _hashes(data)


def _hashes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data[_HASHES], np.uint8).reshape(ORIENTATIONS, 32)


def _checked(data: bytes) -> tuple[int, int]:
    """Quality and number of keypoints, after a test of all bytes."""
    if len(data) < _SHARPNESS.stop:
        raise ValueError(f"A fingerprint has at least {_SHARPNESS.stop} bytes, not {len(data)}.")
    magic, checksum, quality, number = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"The bytes begin with {magic!r}, not with {MAGIC!r}: not a fingerprint of this version.")
    if len(data) != _SHARPNESS.stop + _KEYPOINT * number or zlib.crc32(data[8:]) != checksum:
        raise ValueError("The fingerprint is damaged: its length or checksum is wrong. Measure it again.")
    return quality, number
