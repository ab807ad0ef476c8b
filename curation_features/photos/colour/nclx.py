"""Colours by code points (`nclx`, ITU-T H.273) as an ICC profile, since HEIC and AVIF may have no other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_D65 = (0.3127, 0.3290)
_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of profiles (ICC.1:2010, 6.3.4.2), XYZ
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

_PRIMARIES: Mapping[int, tuple[tuple[float, float], ...]] = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),  # BT.709, sRGB
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),  # BT.601, 625 lines
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # BT.601, 525 lines
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),  # BT.2020
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI-P3
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),  # Display P3
}
"""ColourPrimaries -> red, green, blue and white, x and y (H.273, table 2)."""

_UNSPECIFIED, _SRGB_PRIMARIES = 2, 1
_DIFFUSE_WHITE = 203.0  # cd/m2, the white of paper in HDR (ITU-R BT.2408)
_HDR = frozenset({16, 18})
_POINTS = 4096


def to_profile(primaries: int | None, transfer: int | None) -> tuple[bytes | None, tuple[str, ...]]:
    """Return an ICC profile for code points, and notes.

    The transfer of video (BT.709 and its relatives) is read as that of sRGB, as browsers do. HDR (PQ, HLG) is scaled
    so that diffuse white, 203 cd/m2, is white; brighter values are clipped. Noted as `hdr_transfer`.

    Args:
        primaries: ColourPrimaries of H.273; None or 2: not specified, which is read as sRGB.
        transfer: TransferCharacteristics of H.273; likewise.

    Returns:
        The profile, None for sRGB, and notes: `hdr_transfer`; `colour_unknown`: the code points are not known, and read
        as sRGB.
    """
    primaries = _SRGB_PRIMARIES if primaries in (None, _UNSPECIFIED) else primaries
    transfer = 13 if transfer in (None, _UNSPECIFIED) else transfer
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None, ("colour_unknown",)
    notes = ("hdr_transfer",) if transfer in _HDR else ()
    if primaries == _SRGB_PRIMARIES and _TRANSFERS[transfer] is _linear_of_srgb:
        return None, notes
    return _build(primaries, transfer), notes


def _linear_of_srgb(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert the transfer of sRGB (IEC 61966-2-1)."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _linear_of_pq(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert PQ (SMPTE ST 2084), relative to diffuse white."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    return 10000 / _DIFFUSE_WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _linear_of_hlg(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert HLG (ITU-R BT.2100) for a display of 1000 cd/m2, relative to diffuse white; gamma 1.2 per channel."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    return 1000 / _DIFFUSE_WHITE * scene**1.2


_TRANSFERS: Mapping[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    **dict.fromkeys((1, 6, 13, 14, 15), _linear_of_srgb),
    4: lambda code: code**2.2,
    5: lambda code: code**2.8,
    8: lambda code: code,
    16: _linear_of_pq,
    18: _linear_of_hlg,
}
"""TransferCharacteristics -> function from code values to linear light, 0..1 (H.273, table 3)."""


@cache
def _build(primaries: int, transfer: int) -> bytes:
    """Return a matrix profile (ICC.1:2010, version 4.3)."""
    red, green, blue = colorants(primaries).T
    curve = _TRANSFERS[transfer](np.linspace(0, 1, _POINTS))
    samples = np.rint(np.clip(curve, 0, 1) * 65535).astype(">u2").tobytes()
    text = "H.273 colours".encode("utf-16-be")
    words = b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {b"desc": words, b"cprt": words, b"wtpt": _xyz(_D50)}
    tags |= {b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv" + struct.pack(">4xI", _POINTS) + samples)
    table, content, start = b"", b"", 128 + 4 + 12 * len(tags)
    offsets: dict[bytes, int] = {}
    for name, value in tags.items():  # equal values are stored once
        if value not in offsets:
            offsets[value] = start + len(content)
            content += value.ljust(-(-len(value) // 4) * 4, b"\0")
        table += struct.pack(">4sII", name, offsets[value], len(value))
    date = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head = struct.pack(">I4sI4s4s4s", start + len(content), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    white = struct.pack(">3i", *(round(value * 65536) for value in _D50))
    rest = head + date + b"acsp" + bytes(24) + struct.pack(">I", 1) + white  # intent: relative colorimetric
    return rest.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def colorants(primaries: int) -> NDArray[np.float64]:
    """Return the XYZ of red, green and blue as columns, adapted to D50 (Bradford)."""
    *corners, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in _PRIMARIES[primaries])
    matrix = np.array(corners).T
    cones, target = _BRADFORD @ white, _BRADFORD @ _D50
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(target / cones) @ _BRADFORD
    adapted: NDArray[np.float64] = adapt @ (matrix * np.linalg.solve(matrix, white))
    return adapted


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(float(value) * 65536) for value in values))
