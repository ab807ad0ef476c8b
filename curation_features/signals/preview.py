"""Luma and preview: the reduced photo that metrics and signals measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB to 8-bit luma (ITU-R 601), equal to Pillow's mode `L`.

    Args:
        rgb: (H, W, 3).

    Returns:
        (H, W), 0..255.
    """
    return np.asarray(Image.fromarray(rgb).convert("L"))


def preview(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Downscale an image by area interpolation to a long side of at most `side`.

    The short side keeps the aspect ratio, rounded to whole pixels, at least 1.

    Args:
        image: (H, W) or (H, W, 3), upright.
        side: px.

    Returns:
        The downscaled image, or `image` itself if it is small enough.
    """
    height, width = image.shape[:2]
    long = max(height, width)
    if long <= side:
        return image
    size = (max(1, round(width * side / long)), max(1, round(height * side / long)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
