"""The two input images of BRISQUE, rounded like in piq 0.8: luma, and luma at half size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from typing import Any

    import torch
    from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""

_THOUSANDTHS = np.array([[299, 587, 114]], np.float32)

STRIP = 64
"""Rows of luma per pass, so that the intermediate values fit the CPU cache."""

HALF_STRIP = 30000
"""Pixels per addition; from 32768 on torch would use several threads."""


def piq_luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB to luma (H, W), 0..255, rounded like piq; Pillow sometimes rounds differently.

    In thousandths, luma is an exact integer. Half-way between two levels, piq's rounding error decides, so these pixels
    use piq's sum.

    Args:
        rgb: (H, W, 3).
    """
    levels = np.empty(rgb.shape[:2], np.uint8)
    for top in range(0, len(rgb), STRIP):
        strip, out = rgb[top : top + STRIP], levels[top : top + STRIP]
        thousandths = cv2.transform(strip.astype(np.float32), _THOUSANDTHS)
        cv2.convertScaleAbs(thousandths, out, alpha=1 / 1000)
        half_way = np.abs(cv2.addWeighted(thousandths, 1, out, -1000, 0, dtype=cv2.CV_32F)) == 500
        red, green, blue = (weight * channel for weight, channel in zip(LUMA, strip[half_way].T, strict=True))
        out[half_way] = np.rint(red + green + blue)
    return levels


def half_size(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Downscale to half size with the antialiased bicubic filter of piq and MATLAB.

    Args:
        luma: (H, W); both sides at least 2.
    """
    columns = np.asarray(cv2.transpose(_half_rows(luma)), np.float32)
    return np.asarray(cv2.transpose(_half_rows(columns)), np.float32)


class HalfTaps(NamedTuple):
    """Filter taps for halving a side: each output pixel is a weighted sum of neighbouring pixels.

    Attributes:
        first: (side // 2,), index of the first tap; outside the image, pixels are mirrored.
        weights: (taps, side // 2).
    """

    first: NDArray[np.int64]
    weights: torch.Tensor


def half_taps(side: int) -> HalfTaps:
    """Compute the antialiased bicubic taps of piq and MATLAB for a side of `side` px."""
    import torch
    from piq.functional.resize import get_weight

    halves = side // 2
    taps = math.ceil(4 * side / halves) + 2
    centres = (torch.linspace(0, halves - 1, steps=halves) + 0.5) / (halves / side) - 0.5
    base = centres.floor() - taps // 2 + 1
    weights: torch.Tensor = get_weight(centres - base, taps, antialiasing_factor=halves / side)
    return HalfTaps(base.long().numpy(), weights)


def _half_rows(image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Halve the rows of an image."""
    import torch

    side, width = image.shape
    first, weights = half_taps(side)
    halves, taps = len(first), len(weights)
    before, after = max(-int(first[0]), 0), max(int(first[-1]) + taps - side, 0)
    padded = np.asarray(cv2.copyMakeBorder(image, before, after, 0, 0, cv2.BORDER_REFLECT))
    first = first + before
    reduced = np.zeros((halves, width), np.float32)
    at_a_time = max(1, HALF_STRIP // width)
    # For an odd side, the first tap once advances by three rows instead of two.
    jumps = (np.flatnonzero(np.diff(first) != 2) + 1).tolist()
    for top, bottom in pairwise(sorted({*range(0, halves, at_a_time), *jumps, halves})):
        rows = padded[first[top] : first[bottom - 1] + taps]
        _add_taps(rows, weights[:, top:bottom, None], torch.from_numpy(reduced[top:bottom]))
    return reduced


def _add_taps(rows: NDArray[Any], weights: torch.Tensor, out: torch.Tensor) -> None:
    """Add the weighted rows tap by tap: the order of the sum decides the last bit."""
    import torch

    lanes = [torch.from_numpy(rows[parity::2].astype(np.float32)) for parity in (0, 1)]
    product = torch.empty_like(out)
    for tap in torch.nonzero(weights.any(dim=1).flatten()).flatten().tolist():
        shifted = lanes[tap % 2][tap // 2 : tap // 2 + len(out)]
        out += torch.mul(shifted, weights[tap], out=product)
