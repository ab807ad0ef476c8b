"""The two input images of BRISQUE, rounded like in piq 0.8: luma, and luma at half size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""

_THOUSANDTHS = np.array([[299, 587, 114]], np.float32)


def piq_luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB to luma (H, W), 0..255, rounded like piq; Pillow sometimes rounds differently.

    In thousandths, luma is an exact integer. Half-way between two levels, piq's rounding error decides, so these pixels
    use piq's sum.

    Args:
        rgb: (H, W, 3).
    """
    import cv2

    thousandths = cv2.transform(rgb.astype(np.float32), _THOUSANDTHS)
    levels = np.asarray(cv2.convertScaleAbs(thousandths, alpha=1 / 1000), np.uint8)
    half_way = np.abs(cv2.addWeighted(thousandths, 1, levels, -1000, 0, dtype=cv2.CV_32F)) == 500
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, rgb[half_way].T, strict=True))
    levels[half_way] = np.rint(red + green + blue)
    return levels


def half_size(images: Any, convert: Callable[[Any], Any] = np.ascontiguousarray) -> Any:
    """Downscale (..., H, W) to float32 of half size with the antialiased bicubic filter of piq and MATLAB.

    Args:
        images: array or tensor of uint8; both sides at least 12.
        convert: converts an array to the type and device of `images`.
    """
    for _ in ("rows", "columns"):
        reduced: Any = 0.0
        # The order of the sum decides the last bit.
        for rows, weights in _half_taps(images.shape[-2]):
            reduced = reduced + images[..., convert(rows), :] * convert(weights[:, np.newaxis])
        images = convert(reduced.swapaxes(-2, -1))
    return images


def _half_taps(side: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Compute the taps that halve a side: for each, the pixels and their weights, (side // 2,).

    Outside the image, pixels are mirrored.
    """
    import torch
    from piq.functional.resize import get_weight

    halves = side // 2
    taps = math.ceil(4 * side / halves) + 2
    centres = (torch.linspace(0, halves - 1, steps=halves) + 0.5) / (halves / side) - 0.5
    first = centres.floor() - taps // 2 + 1
    weights = get_weight(centres - first, taps, antialiasing_factor=halves / side).numpy()
    mirrored = np.pad(np.arange(side), taps, mode="symmetric")
    pixels = mirrored[first.long().numpy() + np.arange(taps)[:, np.newaxis] + taps]
    return [tap for tap in zip(pixels, weights, strict=True) if tap[1].any()]
