"""CIE L*a*b* to sRGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_D50 = np.array([0.9642, 1.0, 0.8249], np.float32)  # white point of the ICC profile connection space
_XYZ_TO_RGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)
"""XYZ of D50 to linear sRGB, adapted to D65 after Bradford (Lindbloom, "RGB/XYZ matrices", sRGB of D50)."""


def lab_to_srgb(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert CIE L*a*b* of D50 (ISO 13655, as in TIFF and ICC) to 8-bit sRGB; colours outside sRGB are clipped.

    Args:
        lab: (..., 3): L* of 0..100, a* and b* of about -128..127.
    """
    middle = (lab[..., 0] + 16) / 116
    roots = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * (3 * (6 / 29) ** 2)) * _D50
    linear = np.clip(xyz @ _XYZ_TO_RGB.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), np.uint8)
