"""Local contrast of an image, and the sums over it that BRISQUE's features are made of.

Local contrast is `(luma - mean) / (deviation + 1)`, mean and deviation being those of the pixel's neighbourhood. All of
it is done in strips of rows that stay in the cache, and nothing is kept of a strip but its sums and its signs. Sums of
products are dot products of single rows, which no BLAS splits among threads: they are the same on any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Gray: TypeAlias = NDArray[np.uint8 | np.float32]

    Weigh: TypeAlias = Callable[[Gray], NDArray[np.float64]]
    """Weighted means (N,) of neighbourhoods (N, 49)."""

WINDOW = 7
"""px; side of the neighbourhood that local contrast is taken over."""

REACH = WINDOW // 2

SIGMA = 7 / 6
"""px; of the Gaussian that weighs a neighbourhood."""

STRIP = 32
"""Rows that are looked at at a time."""

ROUNDING = 1e-9
"""Gray levels; a difference from the mean this small is rounding error."""

SKY = 2000
"""Neighbourhoods from which on it pays to look for those of one value."""

ONE_SIDED = 1e-6
"""Share of a strip's energy; below it subtraction leaves too few digits of the products of one sign."""

_HERE = (slice(1, None), slice(1, -1))
_NEIGHBOURS = (
    (slice(1, None), slice(None, -2)),
    (slice(None, -1), slice(1, -1)),
    (slice(None, -1), slice(None, -2)),
    (slice(None, -1), slice(2, None)),
)
"""Pixels, in rows that have one more above and a column more on either side; and their neighbours, piq's in its order.

Its last one, below on the left, makes the same products as that above on the right.
"""

GAUSSIAN = np.exp(-((np.arange(WINDOW) - REACH) ** 2) / (2 * SIGMA**2))
GAUSSIAN /= GAUSSIAN.sum()
"""(7,), what the pixels of a row or column of a neighbourhood weigh."""


class ProductSums(NamedTuple):
    """Sums over the products of each pixel's local contrast with that of one neighbour.

    Attributes:
        magnitude: of their absolute values.
        left_energy: of the squares of those under 0.
        right_energy: of the squares of those over 0.
        left_count: how many are under 0.
        right_count: how many are over 0.
    """

    magnitude: float
    left_energy: float
    right_energy: float
    left_count: int
    right_count: int


class ContrastSums(NamedTuple):
    """Sums over an image's local contrast.

    Attributes:
        size: how many pixels.
        magnitude: of the absolute values.
        energy: of the squares.
        products: with the neighbour on the left, above, above on the left, and below on the left; the image goes round.
    """

    size: int
    magnitude: float
    energy: float
    products: list[ProductSums]


def contrast_sums(gray: Gray, weigh: Weigh) -> ContrastSums:
    """The sums that BRISQUE needs of an image's local contrast. Outside the image is 0.

    Args:
        gray: (H, W).
        weigh: asked where nothing but rounding is left of the contrast, as counts of signs depend on its last bit.
    """
    height, width = gray.shape
    padded = np.asarray(cv2.copyMakeBorder(gray, REACH, REACH, REACH, REACH, cv2.BORDER_CONSTANT), gray.dtype)
    # With the row above the first, and a column on either side, of an image that goes round.
    signs = np.empty((height + 1, width + 2), np.uint8)
    rows = np.empty((STRIP + 1, width + 2))
    _contrast(padded, slice(height - 1, height), weigh, rows[-1:])
    filled, sums = rows, np.zeros((1 + len(_NEIGHBOURS), 3))
    signs[:1] = _signs(rows[-1:])
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        rows[0] = filled[-1]
        filled = rows[: bottom - top + 1]
        _contrast(padded, slice(top, bottom), weigh, filled[1:])
        signs[top + 1 : bottom + 1] = _signs(filled[1:])
        sums += _strip_sums(filled)
    (magnitude, energy, _), *of_products = sums.tolist()
    products = [
        ProductSums(product_magnitude, left, right, *counts)
        for (product_magnitude, left, right), counts in zip(of_products, _sign_counts(signs), strict=True)
    ]
    return ContrastSums(gray.size, magnitude, energy, products)


def _contrast(padded: Gray, rows: slice, weigh: Weigh, out: NDArray[np.float64]) -> None:
    """Local contrast of some rows, written to `out` with one more column on either side."""
    around = padded[rows.start : rows.stop + 2 * REACH]
    values = around[:, REACH:-REACH].astype(np.float64)
    mean = _blurred(values)
    difference = values[REACH:-REACH] - mean
    distance = np.abs(difference)
    if distance.min() < ROUNDING:
        doubtful = np.nonzero(distance < ROUNDING)
        difference[doubtful] = values[REACH:-REACH][doubtful] - _exact_means(around, doubtful, weigh)
    deviation = _blurred(np.multiply(values, values, out=values))
    deviation -= np.multiply(mean, mean, out=mean)
    np.sqrt(np.abs(deviation, out=deviation), out=deviation)
    deviation += 1
    np.divide(difference, deviation, out=out[:, 1:-1])
    out[:, 0], out[:, -1] = out[:, -2], out[:, 1]


def _exact_means(around: Gray, places: tuple[NDArray[np.intp], ...], weigh: Weigh) -> NDArray[np.float64]:
    """The means of some neighbourhoods, by the very sums of `weigh`; of even ones, which skies are full of, once."""
    neighbourhoods = np.lib.stride_tricks.sliding_window_view(around, (WINDOW, WINDOW))[places].reshape(-1, WINDOW**2)
    if len(neighbourhoods) < SKY:
        return weigh(neighbourhoods)
    even = (neighbourhoods == neighbourhoods[:, :1]).all(axis=1)
    levels, level = np.unique(neighbourhoods[even, 0], return_inverse=True)
    means = np.empty(len(neighbourhoods))
    means[even] = weigh(np.repeat(levels[:, np.newaxis], WINDOW**2, axis=1))[level]
    means[~even] = weigh(neighbourhoods[~even])
    return means


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of each neighbourhood, without the first and the last rows, whose neighbours are not there."""
    blurred = cv2.sepFilter2D(values, cv2.CV_64F, GAUSSIAN, GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float64)[REACH:-REACH]


def _strip_sums(contrast: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5, 3): magnitude and energy of a strip; then, per neighbour, magnitude, left and right energy of products."""
    size = np.abs(contrast)
    square = size * size
    signed = size * contrast
    sums = [(cv2.norm(contrast[_HERE], cv2.NORM_L1), cv2.norm(contrast[_HERE], cv2.NORM_L2SQR), 0.0)]
    for there in _NEIGHBOURS:
        magnitude, energy, skew = (np.vecdot(values[_HERE], values[there]).sum() for values in (size, square, signed))
        left, right = (energy - skew) / 2, (energy + skew) / 2
        if min(left, right) < ONE_SIDED * energy:
            products = contrast[_HERE] * contrast[there]
            left, right = (np.square(limit(products, 0)).sum() for limit in (np.minimum, np.maximum))
        sums.append((magnitude, left, right))
    return np.array(sums)


def _signs(contrast: NDArray[np.float64]) -> NDArray[np.uint8]:
    """1 where contrast is over 0, 2 where it is under it, 0 where it is 0."""
    return (contrast > 0).view(np.uint8) + 2 * (contrast < 0).view(np.uint8)


def _sign_counts(signs: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """For each neighbour, how many products are under 0, and how many over 0.

    Two opposite signs differ in two bits, a sign and 0 in one. The image goes round: each zero is once the pixel and
    once the neighbour.
    """
    here = signs[_HERE]
    size = int(np.count_nonzero(here))
    any_sign = np.minimum(signs, 1) if size < here.size else np.zeros_like(signs)
    counts = []
    for there in _NEIGHBOURS:
        one_zero = int(cv2.norm(any_sign[_HERE], any_sign[there], cv2.NORM_HAMMING))
        opposite = (int(cv2.norm(here, signs[there], cv2.NORM_HAMMING)) - one_zero) // 2
        counts.append((opposite, size - one_zero // 2 - opposite))
    return counts
