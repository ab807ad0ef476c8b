"""ICC profiles of matrix and curves, evaluated in Python: is a profile sRGB?

Most photos are tagged as sRGB, by dozens of different profiles. They are recognised by their numbers, without a C
library, so that any process may ask about bytes that it does not trust. Sections are those of ICC.1:2022.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_PROFILE_BYTES = 4_000_000
"""A larger profile is ignored. Tables of printing conditions have up to 2.7 MB (PSO Coated v3), of cameras about 1."""

MAX_TAGS = 100
"""Tags of a profile that are read, as in littlecms."""

_SRGB_TO_PCS = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
_TABLES = frozenset({b"A2B0", b"A2B1", b"D2B0", b"D2B1"})  # take precedence over matrix and curves
_CLASSES = frozenset({b"scnr", b"mntr", b"spac"})
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}  # function type of a parametric curve -> its parameters
_GRID = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(-1, 3)
_LEVELS = np.concatenate([np.repeat(np.arange(256), 3).reshape(-1, 3), _GRID])  # all grays, and colours


@lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Return whether a profile changes no level of 0..255 by more than 1 on the way to sRGB.

    A profile of gray is compared with sRGB's curve. False for profiles with tables, and for broken ones.
    """
    tags = read_tags(profile)
    if profile[12:16] not in _CLASSES or profile[20:24] != b"XYZ " or _TABLES & tags.keys():
        return False
    with (
        suppress(KeyError, IndexError, ValueError, struct.error, FloatingPointError),
        np.errstate(all="raise", under="ignore"),
    ):
        if profile[16:20] == b"GRAY":
            levels = _encode(_linearise(tags[b"kTRC"], np.arange(256) / 255))
            return bool(np.abs(levels - np.arange(256)).max() <= 1)
        if profile[16:20] == b"RGB ":
            curves = (tags[name] for name in (b"rTRC", b"gTRC", b"bTRC"))
            light = np.stack([_linearise(curve, _LEVELS[:, n] / 255) for n, curve in enumerate(curves)], axis=-1)
            columns = np.stack([_fixed(tags[name], 8, 3) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=-1)
            levels = _encode(light @ (np.linalg.inv(_SRGB_TO_PCS) @ columns).T)
            return bool(np.abs(levels - _LEVELS).max() <= 1)
    return False


def read_tags(profile: bytes) -> Mapping[bytes, bytes]:
    """Return the tags of a profile, each up to the first 64 kB (section 7.3)."""
    number = min(int.from_bytes(profile[128:132], "big"), MAX_TAGS, max(0, len(profile) - 132) // 12)
    entries = struct.iter_unpack(">4sII", profile[132 : 132 + 12 * number])
    return {name: profile[start : start + min(size, 1 << 16)] for name, start, size in entries}


def _linearise(tag: bytes, code: Numbers) -> Numbers:
    """Apply a curve (sections 10.6 and 10.18) to values of 0..1."""
    if tag[:4] == b"curv":
        (number,) = struct.unpack_from(">I", tag, 8)
        if number == 0:
            return code
        if number == 1:
            exponent: int = struct.unpack_from(">H", tag, 12)[0]
            return np.power(code, exponent / 256)
        table = np.frombuffer(tag, ">u2", number, 12) / 65535  # raises if `number` exceeds the tag
        return np.interp(code, np.linspace(0, 1, number), table)
    if tag[:4] != b"para":
        raise ValueError("neither a table nor a parametric curve")
    (kind,) = struct.unpack_from(">H", tag, 8)
    values = [float(value) for value in _fixed(tag, 12, _PARAMETERS[kind])]
    g, a, b, c, d, e, f = (*values, *(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(values) - 1 :])
    power = np.power(np.maximum(a * code + b, 0), g)
    if kind < 3:
        return np.where(a * code + b >= 0, power, 0.0) + c
    return np.where(code >= d, power + e, c * code + f)


def _encode(light: Numbers) -> Numbers:
    """Return linear light as levels of sRGB (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1 / 2.4) - 0.055)
    levels: Numbers = np.rint(255 * code)
    return levels


def _fixed(tag: bytes, start: int, number: int) -> Numbers:
    """Return numbers of type s15Fixed16 (section 4.6)."""
    numbers: Numbers = np.frombuffer(tag, ">i4", number, start) / 65536
    return numbers
