"""The part that two neighbours of a panorama have in common: a strip, upright and of one size.

A third of the frame has a third of the keypoints, and half of these are found again: too few to stand out among all
matches of two photos. But the camera was only turned, so that all of them moved by nearly one vector. Close descriptors
vote for it (P. Hough, US patent 3,069,654, 1962); then only keypoints near the place that it gives are matched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from curation_features.groups.geometry import Match, bits_between, fitted, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.fingerprints import Keypoints

SHIFT = (0.2, 0.9)
"""Share of the frame's sides by which the second frame is moved on, least and most."""

VOTING = 36
"""Bits by which descriptors that vote differ at most, of 256."""

CELL = 1 / 32
"""Side of the cells that count votes, in shares of the longer side; four of them count together."""

SPOTS = 32
"""Places a side of which each has one vote for a cell: a repeated detail counts once."""

LEAST_VOTES = 4
MOST_SHIFTS = 3
"""Votes of a shift at least, and shifts that are tried."""

WINDOW = 0.05
"""Distance from the expected place in which a keypoint is searched, in shares of the longer side: a turn distorts."""

LEAST_INLIERS, LEAST_SUPPORT = 6, 0.25
"""Keypoints that the shift brings together at least, and their share of those in the common part; photos of different
scenes reach a share of 0.2."""

SCALE, SKEW = 1.12, 0.12
"""Largest ratio of the sizes of one thing in two neighbours, and largest sine of the angle between them."""

_REACH = math.ceil(2 / CELL)


def find_shift(first: Keypoints, second: Keypoints, sides: tuple[float, float]) -> Match | None:
    """Search the strip that a photo shares with the next one of a panorama.

    Args:
        first: keypoints of the earlier photo.
        second: of the later one.
        sides: width and height of both, in shares of the longer side.
    """
    if min(len(first.positions), len(second.positions)) < LEAST_INLIERS:
        return None
    bits = bits_between(first.descriptors, second.descriptors)
    offsets = first.positions[:, None] - second.positions
    found = (
        fitted(first, second, *nearest(np.where(is_near, bits, np.inf)), mirrored=False)
        for shift in _shifts(first, bits, offsets, sides)
        if (is_near := (np.abs(offsets - shift) <= WINDOW).all(2)).any()
    )
    shifted = (match for match in found if match is not None and is_shift(match, sides))
    return max(shifted, key=lambda match: match.inliers, default=None)


def shift_of(match: Match, sides: tuple[float, float]) -> complex:
    """Return by how much the second photo is moved on, to the right and down, in shares of its sides."""
    middle = np.array(sides) / 2
    moved = (middle - match.transform[:, :2] @ middle - match.transform[:, 2]) / np.array(sides)
    return complex(float(moved[0]), float(moved[1]))


def is_shift(match: Match, sides: tuple[float, float]) -> bool:
    """Return whether a transform is one of two neighbours of a panorama, beyond chance."""
    linear = match.transform[:, :2]
    scale = math.sqrt(abs(float(np.linalg.det(linear))))
    return (
        match.inliers >= LEAST_INLIERS
        and match.support >= LEAST_SUPPORT
        and 1 / SCALE <= scale <= SCALE
        and linear[0, 0] > 0
        and max(abs(linear[0, 1]), abs(linear[1, 0])) <= SKEW
        and SHIFT[0] <= abs(shift_of(match, sides)) <= SHIFT[1]
    )


def _shifts(
    first: Keypoints, bits: NDArray[np.float32], offsets: NDArray[np.float32], sides: tuple[float, float]
) -> Iterator[NDArray[np.float32]]:
    """Yield the shifts with most votes, (2,) each."""
    ours, theirs = np.nonzero(bits <= VOTING)
    voted = offsets[ours, theirs]
    size = np.hypot(voted[:, 0] / sides[0], voted[:, 1] / sides[1])
    is_possible = (size >= SHIFT[0]) & (size <= SHIFT[1])
    cells = np.floor(voted[is_possible] / CELL).astype(np.intp) + _REACH
    spots = np.floor(first.positions[ours[is_possible]] * SPOTS).astype(np.intp)
    ballots = np.unique(np.column_stack([cells, spots]), axis=0)
    votes = np.zeros((2 * _REACH + 1, 2 * _REACH + 1), np.intp)
    np.add.at(votes, (ballots[:, 0], ballots[:, 1]), 1)
    sums = votes[:-1, :-1] + votes[1:, :-1] + votes[:-1, 1:] + votes[1:, 1:]
    for _ in range(MOST_SHIFTS):
        row, column = divmod(int(sums.argmax()), sums.shape[1])
        if sums[row, column] < LEAST_VOTES:
            return
        yield (np.array([row, column], np.float32) + 1 - _REACH) * np.float32(CELL)
        sums[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 0
