"""Reduction of images by area: each new pixel is the mean of the pixels that it covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import cv2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def reduced_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the width and height of an image whose long side is reduced to `side` px; never enlarged."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def reduce(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Reduce an image so that its long side is at most `side` px.

    The largest whole factor is taken out first, since means of whole blocks take a tenth of the time.

    Args:
        pixels: (height, width, channels), uint8.

    Returns:
        (height, width, channels), uint8, rounded to nearest; `pixels` itself if it is small enough.
    """
    height, width = pixels.shape[:2]
    size = reduced_size(width, height, side)
    if size == (width, height):
        return pixels
    factor = max(width, height) // side
    if factor > 1 and min(width, height) >= factor:
        pixels = _reduce_by(factor, pixels)
    return cast("NDArray[np.uint8]", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def reduce_by_halves(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Reduce an image by area to a width and height, in a third of the time of `reduce`.

    Each halving rounds, and repeats the last row or column of an odd number: in fine texture levels differ from exact
    means by one to three on average.

    Args:
        pixels: (height, width, channels), uint8.
        size: from `reduced_size`, so not larger than the image.
    """
    while max(pixels.shape[:2]) >= 2 * max(size) and min(pixels.shape[:2]) > 1:
        pixels = _reduce_by(2, pixels)
    if pixels.shape[1::-1] == size:
        return pixels
    return cast("NDArray[np.uint8]", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _reduce_by(factor: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace each block of `factor` x `factor` px by its mean. Blocks at the end are filled with their last pixel."""
    height, width = pixels.shape[:2]
    below, right = -height % factor, -width % factor
    if below or right:
        pixels = cast("NDArray[np.uint8]", cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE))
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return cast("NDArray[np.uint8]", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
