"""Sharpness: Tenengrad energy of the preview.

J. M. Tenenbaum, "Accommodation in Computer Vision" (1970); E. Krotkov, "Focusing", IJCV 1 (1987).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2

from curation_features.schema import Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def tenengrad(gray: NDArray[np.uint8]) -> float:
    """Compute the mean of `Gx^2 + Gy^2` with 3x3 Sobel kernels.

    The border mirrors the image without repeating its edge. The result is exact: gradients of 8-bit values are within
    +-1020 and fit 16 bits; their squares are summed in float64.

    Args:
        gray: (H, W), 0..255.

    Returns:
        Energy in gray levels squared, at least 0; higher is sharper.
    """
    energy = sum(
        cv2.norm(cv2.Sobel(gray, cv2.CV_16S, dx, dy, ksize=3, borderType=cv2.BORDER_REFLECT_101), cv2.NORM_L2SQR)
        for dx, dy in ((1, 0), (0, 1))
    )
    return float(energy) / gray.size


def sharpness(preview: NDArray[np.uint8], *, scale: float) -> Measurement:
    """Score sharpness as `tanh(T / scale)` of the Tenengrad energy `T`: 1 is sharp.

    Args:
        preview: (H, W), 0..255.
        scale: energy that scores tanh(1) = 0.76, in gray levels squared.
    """
    energy = tenengrad(preview)
    return Measurement(score=math.tanh(energy / scale), raw={"tenengrad": energy})
