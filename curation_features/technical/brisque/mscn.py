"""Sums over the MSCN coefficients of an image, from which BRISQUE's features are computed.

Mean-subtracted contrast-normalised (MSCN) coefficients are `(luma - mean) / (deviation + 1)`, with the Gaussian-
weighted mean and standard deviation of the pixel's neighbourhood. The image is processed in strips of rows that fit the
CPU cache; only sums are kept. Sums of products are dot products of single rows, which no BLAS splits between
threads, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Gray: TypeAlias = NDArray[np.uint8 | np.float32]

    Weigh: TypeAlias = Callable[[Gray], NDArray[np.float64]]
    """Maps neighbourhoods (N, 49) to their weighted means (N,)."""

WINDOW = 7
"""px; side of the neighbourhood."""

REACH = WINDOW // 2

SIGMA = 7 / 6
"""px; sigma of the Gaussian window."""

STRIP = 32
"""Rows per strip."""

ROUNDING = 1e-9
"""Gray levels; a smaller difference from the mean is rounding error."""

ONE_SIDED = 1e-6
"""Fraction of a strip's energy; a smaller energy of one sign is not computed by subtraction (cancellation)."""

_PIXELS = (slice(1, None), slice(1, -1))
_NEIGHBOURS = (
    (slice(1, None), slice(None, -2)),
    (slice(None, -1), slice(1, -1)),
    (slice(None, -1), slice(None, -2)),
    (slice(None, -1), slice(2, None)),
)
"""Slices of the pixels and of their neighbours, in piq's order; rows are padded by one above, columns on both sides.

piq's last neighbour, below left, gives the same products as the one above right.
"""

GAUSSIAN = np.exp(-((np.arange(WINDOW) - REACH) ** 2) / (2 * SIGMA**2))
GAUSSIAN /= GAUSSIAN.sum()
"""(7,), weights of a row or column of a neighbourhood."""


class ProductSums(NamedTuple):
    """Sums over the products of each coefficient with that of one neighbour.

    Attributes:
        magnitude: sum of absolute values.
        left_energy: sum of squares of the negative products.
        right_energy: sum of squares of the positive products.
        left_count: number of negative products.
        right_count: number of positive products.
    """

    magnitude: float
    left_energy: float
    right_energy: float
    left_count: float
    right_count: float


class MscnSums(NamedTuple):
    """Sums over the MSCN coefficients of an image.

    Attributes:
        size: number of pixels.
        magnitude: sum of absolute values.
        energy: sum of squares.
        products: by neighbour: left, above, above left, below left; the image wraps around.
    """

    size: int
    magnitude: float
    energy: float
    products: list[ProductSums]


def mscn_sums(gray: Gray, weigh: Weigh) -> MscnSums:
    """Compute the sums over the MSCN coefficients. Pixels outside the image are 0.

    Args:
        gray: (H, W).
        weigh: exact means, used if a coefficient is only rounding error: counts of signs depend on its last bit.
    """
    import cv2

    height, width = gray.shape
    padded = np.asarray(cv2.copyMakeBorder(gray, REACH, REACH, REACH, REACH, cv2.BORDER_CONSTANT), gray.dtype)
    # Padded by one row above and one column on either side, wrapped around.
    rows = np.empty((STRIP + 1, width + 2))
    _coefficients(padded, slice(height - 1, height), weigh, rows[-1:])
    strip, sums = rows, np.zeros((1 + len(_NEIGHBOURS), len(ProductSums._fields)))
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        rows[0] = strip[-1]
        strip = rows[: bottom - top + 1]
        _coefficients(padded, slice(top, bottom), weigh, strip[1:])
        sums += _strip_sums(strip)
    (magnitude, energy, *_), *products = sums.tolist()
    return MscnSums(gray.size, magnitude, energy, [ProductSums(*of_neighbour) for of_neighbour in products])


def _coefficients(padded: Gray, rows: slice, weigh: Weigh, out: NDArray[np.float64]) -> None:
    """Compute the coefficients of some rows into `out`, padded by one column on either side."""
    around = padded[rows.start : rows.stop + 2 * REACH]
    values = around[:, REACH:-REACH].astype(np.float64)
    mean = _blur(values)
    difference = values[REACH:-REACH] - mean
    distance = np.abs(difference)
    if distance.min() < ROUNDING:
        uncertain = np.nonzero(distance < ROUNDING)
        difference[uncertain] = values[REACH:-REACH][uncertain] - _exact_means(around, uncertain, weigh)
    deviation = _blur(np.multiply(values, values, out=values))
    deviation -= np.multiply(mean, mean, out=mean)
    np.sqrt(np.abs(deviation, out=deviation), out=deviation)
    deviation += 1
    np.divide(difference, deviation, out=out[:, 1:-1])
    out[:, 0], out[:, -1] = out[:, -2], out[:, 1]


def _exact_means(around: Gray, indices: tuple[NDArray[np.intp], ...], weigh: Weigh) -> NDArray[np.float64]:
    """Return the means of some neighbourhoods by `weigh`; constant ones, frequent in skies, once per level."""
    neighbourhoods = np.lib.stride_tricks.sliding_window_view(around, (WINDOW, WINDOW))[indices].reshape(-1, WINDOW**2)
    constant = (neighbourhoods == neighbourhoods[:, :1]).all(axis=1)
    levels, level = np.unique(neighbourhoods[constant, 0], return_inverse=True)
    means = np.empty(len(neighbourhoods))
    means[constant] = weigh(np.repeat(levels[:, np.newaxis], WINDOW**2, axis=1))[level]
    means[~constant] = weigh(neighbourhoods[~constant])
    return means


def _blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean of each neighbourhood, without the padding rows."""
    import cv2

    blurred = cv2.sepFilter2D(values, cv2.CV_64F, GAUSSIAN, GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float64)[REACH:-REACH]


def _strip_sums(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum a strip: a row of magnitude and energy, then the `ProductSums` of each neighbour."""
    import cv2

    pixels, signs = coefficients[_PIXELS], np.sign(coefficients).astype(np.int8)
    size = np.abs(coefficients)
    factors = (size, size * size, size * coefficients)
    sums: list[tuple[Any, ...]] = [(cv2.norm(pixels, cv2.NORM_L1), cv2.norm(pixels, cv2.NORM_L2SQR), 0, 0, 0)]
    for neighbour in _NEIGHBOURS:
        magnitude, energy, skew = (np.vecdot(factor[_PIXELS], factor[neighbour]).sum() for factor in factors)
        left, right = (energy - skew) / 2, (energy + skew) / 2
        if min(left, right) < ONE_SIDED * energy:
            products = pixels * coefficients[neighbour]
            left, right = (np.square(limit(products, 0)).sum() for limit in (np.minimum, np.maximum))
        sign = signs[_PIXELS] * signs[neighbour]
        sums.append((magnitude, left, right, np.count_nonzero(sign < 0), np.count_nonzero(sign > 0)))
    return np.array(sums)
