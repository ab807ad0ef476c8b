"""Sharp places of frames of one view, which change with the focus.

A lens that focuses nearer or farther sharpens some places and softens others, and neighbouring places are mostly as
far away. So two things tell focus from noise and shake: the change has both signs, and neighbouring tiles agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOOR = 0.01
"""Least sharpness that counts; sharp texture has 0.05 to 0.5, a plain tile 0."""

_CHANGED = 1.15
"""Ratio of its sharpness in two frames from which a tile takes part in a travel."""

_LEAST_TILES = 8
"""Tiles that take part at least."""

_SHARPER, _FEW = 1.05, 0.1
"""Ratio from which a tile is sharper, as for the rank of a frame, and the share of such tiles in a softer frame."""


_CLEARLY_SOFTER, _SCATTERED = 0.9, 0.3
"""Ratio of most tiles in a clearly softer frame, and least agreement of neighbouring tiles that is not by chance."""


class Travel(NamedTuple):
    """How the sharp region moves from the first to the last frame.

    Attributes:
        distance: part of the way through all depths, in [-1, 1]; in a burst about 0.
        order: correlation of the focused depth with the number of the frame, in [-1, 1].
        largest_step: largest movement between two neighbours, as a share of the distance; 1 if the focus moves once.
        agreement: correlation of the depths of tiles with those of the tiles around them.
    """

    distance: float
    order: float
    largest_step: float
    agreement: float


_NO_TRAVEL = Travel(0.0, 0.0, 1.0, 0.0)


def travel(sharpness: NDArray[np.float32]) -> Travel:
    """Return how the sharp region moves through the depths of a view.

    The depth of a tile is the place, from first to last frame, at which it is sharpest. A frame is focused at the mean
    depth of the tiles that are sharp in it, each with the depth of the tiles around it, so that noise has none.

    Args:
        sharpness: (frames, 8, 8), at least three frames.
    """
    values = np.log(np.maximum(sharpness, _FLOOR))
    low, high = values.min(0), values.max(0)
    is_changed = high - low > np.log(_CHANGED)
    if is_changed.sum() < _LEAST_TILES:
        return _NO_TRAVEL
    weights = np.square((values - low) / np.maximum(high - low, 1e-6)) * is_changed
    places = np.linspace(0, 1, len(values))[:, None, None]
    depth = (weights * places).sum(0) / np.maximum(weights.sum(0), 1e-9)
    around, count = _around(depth * is_changed), _around(is_changed.astype(np.float64))
    has_depth = is_changed & (count > 0)
    if has_depth.sum() < _LEAST_TILES:
        return _NO_TRAVEL
    expected = around / np.maximum(count, 1)
    weights = weights * has_depth
    focused = (weights * expected).sum((1, 2)) / np.maximum(weights.sum((1, 2)), 1e-9)
    distance = float(focused[-1] - focused[0])
    largest = float(np.diff(focused).max()) / (distance or 1e-9)
    order = _correlation(focused, np.arange(len(focused), dtype=np.float64))
    return Travel(distance, order, largest, _correlation(depth[has_depth], expected[has_depth]))


class Change(NamedTuple):
    """How the sharpness of two frames differs.

    Attributes:
        sharper: ratio by which a tenth of the tiles is sharper at least in the second frame; under 1 if none is.
        softer: likewise in the first one.
        agreement: correlation of the change in a tile with that in the tiles next to it (P. Moran, "Notes on continuous
            stochastic phenomena", Biometrika 37, 1950).
    """

    sharper: float
    softer: float
    agreement: float


_NO_CHANGE = Change(1.0, 1.0, 0.0)


def change(first: NDArray[np.float32], second: NDArray[np.float32]) -> Change:
    """Return how the sharpness of two frames differs, (8, 8) each. Tiles that are plain in both do not count."""
    ratio, is_plain = _ratios(first, second)
    if ratio.size - is_plain.sum() < _LEAST_TILES:
        return _NO_CHANGE
    deviation = np.where(is_plain, 0, ratio - ratio[~is_plain].mean())
    products = deviation[1:] * deviation[:-1], deviation[:, 1:] * deviation[:, :-1]
    count = (~is_plain[1:] & ~is_plain[:-1]).sum() + (~is_plain[:, 1:] & ~is_plain[:, :-1]).sum()
    covariance = sum(float(product.sum()) for product in products) / max(int(count), 1)
    agreement = covariance / max(float(np.square(deviation[~is_plain]).mean()), 1e-9)
    low, high = np.quantile(ratio[~is_plain], (0.1, 0.9))
    return Change(float(np.exp(high)), float(np.exp(-low)), agreement)


def is_softer(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Return whether the second of two frames of one view is softer everywhere, so that no place needs it.

    Hardly any place is sharper than in the first; or most are clearly softer, and the others are scattered: a shake
    moves details between tiles, and blurs edges in one direction only.

    Args:
        first: (8, 8).
        second: likewise.
    """
    ratio, is_plain = _ratios(first, second)
    if is_plain.all() or (ratio[~is_plain] > np.log(_SHARPER)).mean() <= _FEW:
        return True
    is_scattered = change(first, second).agreement < _SCATTERED
    return is_scattered and bool(np.median(ratio[~is_plain]) < np.log(_CLEARLY_SOFTER))


def _ratios(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the logarithm of the ratio of sharpness in each tile, and which tiles are plain in both frames."""
    ratio = np.log(np.maximum(second, _FLOOR)) - np.log(np.maximum(first, _FLOOR))
    return ratio, np.maximum(first, second) <= _FLOOR


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the up to eight tiles around each tile."""
    padded = np.pad(values, 1)
    rows, columns = values.shape
    total = sum(padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3))
    return np.asarray(total - values, np.float64)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    deviations = first - first.mean(), second - second.mean()
    norms = float(np.linalg.norm(deviations[0]) * np.linalg.norm(deviations[1]))
    return float(deviations[0] @ deviations[1]) / norms if norms > 1e-9 else 0.0
