"""ICC profiles made by hand (ICC.1:2001-04 and ICC.1:2022), and the published spaces that they describe."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Curve = Callable[[np.ndarray], np.ndarray]

D50 = (0.9642, 1.0, 0.8249)
"""White of the profile connection space (ICC.1, 6.3.4.3)."""

D65, D50_XY = (0.3127, 0.3290), (0.3457, 0.3585)

BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""Cone response (ICC.1, annex E)."""


def srgb_curve(code: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: code values to linear light, both 0..1."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def srgb_code(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light to code values; light outside 0..1 is clipped."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class Space:
    """An RGB space: chromaticities of red, green, blue and white, and code value to linear light.

    Attributes:
        gamma: the curve as one exponent; None: sRGB's curve.
    """

    primaries: tuple[tuple[float, float], ...]
    white: tuple[float, float] = D65
    gamma: float | None = None

    def curve(self, code: np.ndarray) -> np.ndarray:
        return srgb_curve(code) if self.gamma is None else code**self.gamma

    def code(self, light: np.ndarray) -> np.ndarray:
        return srgb_code(light) if self.gamma is None else np.clip(light, 0, 1) ** (1 / self.gamma)

    @property
    def to_pcs(self) -> np.ndarray:
        """Matrix of linear RGB to XYZ, adapted to D50 (SMPTE RP 177, and Bradford)."""
        columns = np.array([_xyz(xy) for xy in self.primaries]).T
        white = _xyz(self.white)
        adaptation = np.diag(BRADFORD @ np.array(D50) / (BRADFORD @ white))
        return np.linalg.inv(BRADFORD) @ adaptation @ BRADFORD @ columns * np.linalg.solve(columns, white)


def _xyz(xy: tuple[float, float]) -> np.ndarray:
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


SRGB = Space(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))
DISPLAY_P3 = Space(((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)))  # SMPTE EG 432-1 with D65, curve of sRGB
ADOBE_RGB = Space(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=563 / 256)  # Adobe RGB (1998), 4.3
PROPHOTO = Space(((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50_XY, 1.8)  # without ROMM's linear toe

SPACES: Mapping[str, Space] = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "ProPhoto": PROPHOTO}


def to_space(rgb: np.ndarray, space: Space) -> np.ndarray:
    """Return sRGB levels as levels of a wider space, rounded."""
    return _converted(rgb, SRGB, space)


def from_space(levels: np.ndarray, space: Space) -> np.ndarray:
    """Return levels of a space as sRGB levels, clipped and rounded: relative colorimetric."""
    return _converted(levels, space, SRGB)


def _converted(levels: np.ndarray, source: Space, target: Space) -> np.ndarray:
    light = source.curve(levels / 255) @ (np.linalg.inv(target.to_pcs) @ source.to_pcs).T
    return np.rint(target.code(light) * 255).astype(np.uint8)


def lab_of(xyz: np.ndarray) -> np.ndarray:
    """Return CIELAB (D50) of XYZ (CIE 15)."""
    ratio = xyz / np.array(D50)
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def xyz_of(lab: np.ndarray) -> np.ndarray:
    """Return XYZ (D50) of CIELAB."""
    y = (lab[..., 0] + 16) / 116
    root = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    return np.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29)) * np.array(D50)


# Profiles -------------------------------------------------------------------------------------------------------------


def icc(
    space: bytes, tags: Mapping[bytes, bytes], *, kind: bytes = b"mntr", major: int = 2, pcs: bytes = b"XYZ "
) -> bytes:
    """Return an ICC profile: header, tag table and tags."""
    common = {b"desc": _text(b"desc", b"test", major), b"cprt": _text(b"text", b"none", major), b"wtpt": xyz(D50)}
    table, body = b"", b""
    start = 128 + 4 + 12 * len({**common, **tags})
    for name, content in {**common, **tags}.items():
        table += name + struct.pack(">2I", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", major << 24, kind, space, pcs)
    head += struct.pack(">6H4s4s", 2000, 1, 1, 0, 0, 0, b"acsp", b"").ljust(44, b"\0") + _s15(D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len({**common, **tags})) + table + body


def rgb_profile(space: Space, major: int = 2, kind: bytes = b"mntr") -> bytes:
    """Return a profile of matrix and curves; a parametric curve in version 4."""
    columns = {
        name: xyz(tuple(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), space.to_pcs.T, strict=True)
    }
    if space.gamma is not None:
        curve = b"curv" + struct.pack(">3H", 0, 0, 0) + struct.pack(">HH", 1, round(space.gamma * 256))
    elif major == 4:
        curve = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    else:
        curve = table_curve(srgb_curve(np.linspace(0, 1, 1024)))
    return icc(b"RGB ", {**columns, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}, major=major, kind=kind)


def gray_profile(curve: Curve) -> bytes:
    """Return a profile of gray whose curve gives linear light."""
    return icc(b"GRAY", {b"kTRC": table_curve(curve(np.linspace(0, 1, 4096)))})


def lut_profile(
    space: bytes, channels: int, to_lab: Curve, grid: int = 9, from_lab: Curve | None = None, **options: Any
) -> bytes:
    """Return a profile of tables (lut16), one for all intents.

    Args:
        to_lab: device values, (nodes, channels), 0..1, to Lab, (nodes, 3), L 0..100.
        from_lab: the inverse; a printing profile needs it for the black point.
        options: see `icc`; `tags` are more tags.
    """
    lab = to_lab(_nodes(channels, grid))
    coded = (lab + np.array([0, 128, 128])) * np.array([65280 / 100, 256, 256])  # ICC.1:2001-04, table 34
    to_pcs = _lut16(channels, coded)
    tags = {b"A2B0": to_pcs, b"A2B1": to_pcs, **options.pop("tags", {})}
    if from_lab is not None:
        coded_nodes = _nodes(3, 17) * 65535
        tags[b"B2A0"] = _lut16(
            3, from_lab(coded_nodes / np.array([65280 / 100, 256, 256]) - np.array([0, 128, 128])) * 65535
        )
    return icc(space, tags, pcs=b"Lab ", **{"kind": b"prtr", **options})


def _nodes(channels: int, grid: int) -> np.ndarray:
    """Return the nodes of a table, (nodes, channels), 0..1; the first channel varies least."""
    return np.stack(np.meshgrid(*[np.linspace(0, 1, grid)] * channels, indexing="ij"), -1).reshape(-1, channels)


def _lut16(channels: int, values: np.ndarray) -> bytes:
    outputs, grid = values.shape[1], round(len(values) ** (1 / channels))
    head = b"mft2" + struct.pack(">I4B", 0, channels, outputs, grid, 0) + _s15(np.eye(3).ravel())
    line = struct.pack(">2H", 0, 65535)
    table = np.clip(np.rint(values), 0, 65535).astype(">u2").tobytes()
    return head + struct.pack(">2H", 2, 2) + line * channels + table + line * outputs


def cicp(primaries: int, transfer: int) -> bytes:
    """Return the tag of coding-independent code points (ICC.1:2022, 10.3; ITU-T H.273)."""
    return b"cicp" + struct.pack(">I4B", 0, primaries, transfer, 0, 1)


def table_curve(values: Sequence[float] | np.ndarray) -> bytes:
    return b"curv" + struct.pack(">2I", 0, len(values)) + np.rint(np.asarray(values) * 65535).astype(">u2").tobytes()


def parametric(kind: int, *parameters: float) -> bytes:
    """Return a parametric curve (ICC.1:2022, 10.18)."""
    return b"para" + struct.pack(">IHH", 0, kind, 0) + _s15(parameters)


def xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _s15(values)


def _s15(values: Sequence[float] | np.ndarray) -> bytes:
    """Return numbers as s15Fixed16."""
    return np.rint(np.asarray(values) * 65536).astype(">i4").tobytes()


def _text(kind: bytes, text: bytes, major: int) -> bytes:
    if major == 4:
        return (
            b"mluc"
            + struct.pack(">4I", 0, 1, 12, 0x656E5553)
            + struct.pack(">2I", 2 * len(text), 28)
            + text.decode().encode("utf-16-be")
        )
    if kind == b"text":
        return b"text" + bytes(4) + text + b"\0"
    return b"desc" + struct.pack(">2I", 0, len(text) + 1) + text + bytes(1 + 8 + 3 + 67)
