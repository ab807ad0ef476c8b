"""Whether two photos have one picture in common: a transform brings many of their keypoints together.

Descriptors that are each other's nearest are matched. Of fixed draws of two matches each, a similarity is computed
(M. Fischler and R. Bolles, "Random sample consensus", CACM 24, 1981); the one that most matches agree with is refined
to an affine transform. Two photos give one answer in either order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from curation_features.fingerprints.products import product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.fingerprints import Keypoints

FARTHEST = 72
"""Bits by which the descriptors of a match differ at most, of 256."""

CLOSE = 32
"""Bits by which the descriptors of a close match differ at most: nearly always the same detail."""

DRAWS = 50, 450
"""Draws of two matches; the others only if no similarity of the first ones has most matches."""

LEAST_SPAN = 0.04
"""Distance of the two matches of a draw at least, in shares of the longer side: closer ones say nothing about turns."""

SCALES = 0.2, 5.0
"""Scales that are searched."""

ROUGH, FINE = 0.012, 0.008
"""Distance up to which a match agrees with the similarity and with the refined transform, shares of the longer side."""

STRETCH = 1.6
"""Ratio of the two scales of a transform at most."""

LEAST_MATCHES = 6
"""Matches under which no transform is searched; as many must agree with it."""

REACH = 0.1
"""Distance of a keypoint to an inlier near it, in shares of the longer side."""

SPOTS = 64
"""Places a side: inliers at one place count once."""


@dataclass(frozen=True, slots=True)
class Match:
    """A transform that brings keypoints of two photos together.

    Attributes:
        inliers: places, at least 1/64 of a side apart, whose keypoints it brings together. Different scenes reach
            about a dozen.
        transform: (2, 3) of float64: brings a position of the first photo to one of the second, both in shares of the
            longer side. Its determinant is negative if the second is mirrored.
        overlaps: share of the keypoints of the first photo that are inside the second, and the reverse: (0.8, 1.0) if
            the second is cut out of the first, (0.4, 0.4) for neighbours of a panorama.
        support: share of the keypoints in the common part that have a partner, of the photo with fewer: high for one
            picture.
        coverage: share of the keypoints in the common part with an inlier near them, of the photo with fewer: high for
            one picture, low if two photos share a logo only.
        agreement: share of the close matches that the transform brings together: 0.9 to 1 for one picture (0.6 after
            a change of 2 EV or a crop), less if something moved between two photos (0.5 for the two views of a stereo
            camera); 1 if there are none.
    """

    inliers: int
    transform: NDArray[np.float64]
    overlaps: tuple[float, float]
    support: float
    coverage: float
    agreement: float


def match(first: Keypoints, second: Keypoints, mirrored: bool) -> Match | None:
    """Search the transform between two photos, at any turn.

    Args:
        first: keypoints of a photo.
        second: of another one.
        mirrored: search for a mirrored copy instead.

    Returns:
        None if fewer than 6 matches agree on one.
    """
    if min(len(first.positions), len(second.positions)) < LEAST_MATCHES:
        return None
    if _order(first) <= _order(second):
        return _match(first, second, mirrored)
    found = _match(second, first, mirrored)
    if found is None:
        return None
    return replace(found, transform=inverse(found.transform), overlaps=found.overlaps[::-1])


def inverse(transform: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of an affine transform, (2, 3)."""
    linear = np.linalg.inv(transform[:, :2])
    return np.column_stack([linear, -linear @ transform[:, 2]])


def composed(first: NDArray[np.float64], then: NDArray[np.float64]) -> NDArray[np.float64]:
    """One affine transform for two, the second applied to the result of the first, (2, 3)."""
    return np.column_stack([then[:, :2] @ first[:, :2], then[:, :2] @ first[:, 2] + then[:, 2]])


def _order(points: Keypoints) -> bytes:
    return points.descriptors.tobytes() + points.positions.tobytes()


def _match(first: Keypoints, second: Keypoints, mirrored: bool) -> Match | None:
    descriptors = np.roll(first.descriptors, 16, axis=1) if mirrored else first.descriptors
    return fitted(first, second, *nearest(bits_between(descriptors, second.descriptors)), mirrored)


def fitted(
    first: Keypoints,
    second: Keypoints,
    ours: NDArray[np.intp],
    theirs: NDArray[np.intp],
    bits: NDArray[np.float32],
    mirrored: bool,
) -> Match | None:
    """The transform that most of the matched keypoints agree with."""
    if len(ours) < LEAST_MATCHES:
        return None
    start, end = first.positions[ours].astype(np.float64), second.positions[theirs].astype(np.float64)
    rough = _similarity(start, end, mirrored)
    transform = _refined(start, end, rough) if rough is not None else None
    if transform is None:
        return None
    agree = _distances(transform, start, end) <= FINE * max(1.0, _scale(transform))
    inliers = min(_spots(start[agree]), _spots(end[agree]))
    if inliers < LEAST_MATCHES:
        return None
    inside = _inside(apply(transform, first.positions), second.positions)
    inside_other = _inside(apply(inverse(transform), second.positions), first.positions)
    common = max(1, min(int(inside.sum()), int(inside_other.sum())))
    return Match(
        inliers=inliers,
        transform=transform,
        overlaps=(float(inside.mean()), float(inside_other.mean())),
        support=min(1.0, int(agree.sum()) / common),
        coverage=min(
            _covered(first.positions[inside], start[agree]), _covered(second.positions[inside_other], end[agree])
        ),
        agreement=float(agree[bits <= CLOSE].mean()) if bits[0] <= CLOSE else 1.0,
    )


def apply(transform: NDArray[np.float64], positions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Positions, (N, 2), after an affine transform."""
    return np.asarray(positions @ transform[:, :2].T + transform[:, 2], np.float64)


def bits_between(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bits by which each two descriptors differ, (N, M)."""
    ones, others = (2 * np.unpackbits(descriptors, axis=1).astype(np.float32) - 1 for descriptors in (first, second))
    return np.asarray((ones.shape[1] - product(ones, others)) / 2, np.float32)  # exact: small whole numbers


def nearest(
    distances: NDArray[np.float32],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Indices of descriptors that are each other's nearest, and by how many bits they differ; the closest first."""
    if not distances.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.float32)
    ahead, back = distances.argmin(1), distances.argmin(0)
    ours = np.flatnonzero(back[ahead] == np.arange(len(distances)))
    bits = distances[ours, ahead[ours]]
    order = np.argsort(bits, kind="stable")[: np.count_nonzero(bits <= FARTHEST)]
    ours = ours[order]
    return ours, np.asarray(ahead[ours], np.intp), np.asarray(bits[order], np.float32)


def _similarity(start: NDArray[np.float64], end: NDArray[np.float64], mirrored: bool) -> NDArray[np.float64] | None:
    """The similarity that most matches agree with, (2, 3). Points are complex numbers: w = a z + b."""
    sign = -1 if mirrored else 1
    z, w = sign * start[:, 0] + 1j * start[:, 1], end[:, 0] + 1j * end[:, 1]
    found = _best(z, w, _draws()[: DRAWS[0]])
    if found is None or found[0] <= len(z) / 2:
        found = max(found or (0, 0j, 0j), _best(z, w, _draws()[DRAWS[0] :]) or (0, 0j, 0j), key=lambda one: one[0])
    agree, a, b = found
    if agree < LEAST_MATCHES:
        return None
    return np.array([[sign * a.real, -a.imag, b.real], [sign * a.imag, a.real, b.imag]])


def _best(
    z: NDArray[np.complex128], w: NDArray[np.complex128], draws: NDArray[np.float64]
) -> tuple[int, complex, complex] | None:
    """The similarity with most matches that agree, their number first; None if no draw gives one."""
    one, other = (draws * len(z)).astype(np.intp).T
    usable = (np.abs(z[other] - z[one]) >= LEAST_SPAN) & (np.abs(w[other] - w[one]) >= LEAST_SPAN)
    one, other = one[usable], other[usable]
    turn = (w[other] - w[one]) / (z[other] - z[one])
    sane = (np.abs(turn) >= SCALES[0]) & (np.abs(turn) <= SCALES[1])
    turn, one = turn[sane], one[sane]
    if not len(turn):
        return None
    shift = w[one] - turn * z[one]
    distance = np.abs(turn[:, None] * z + shift[:, None] - w)
    agree = (distance <= ROUGH * np.maximum(1, np.abs(turn))[:, None]).sum(1)
    best = int(agree.argmax())
    return int(agree[best]), complex(turn[best]), complex(shift[best])


def _refined(
    start: NDArray[np.float64], end: NDArray[np.float64], transform: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """An affine transform by least squares of the matches that agree; None if it is degenerate."""
    is_mirrored = _area(transform) < 0
    for limit in (ROUGH, FINE, FINE):
        agree = _distances(transform, start, end) <= limit * max(1.0, _scale(transform))
        if agree.sum() < LEAST_MATCHES:
            return None
        places = np.column_stack([start[agree], np.ones(int(agree.sum()))])
        try:
            transform = np.linalg.solve(places.T @ places, places.T @ end[agree]).T
        except np.linalg.LinAlgError:  # all on one line
            return None
        (a, b), (c, d) = transform[:, :2].tolist()
        turn, stretch = math.hypot(a + d, b - c), math.hypot(a - d, b + c)  # sum and difference of the two scales
        if is_mirrored != (turn < stretch) or turn + stretch > STRETCH * abs(turn - stretch):
            return None
    return np.asarray(transform, np.float64)


def _distances(
    transform: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.hypot(*(apply(transform, start) - end).T), np.float64)


def _scale(transform: NDArray[np.float64]) -> float:
    return math.sqrt(abs(_area(transform)))


def _area(transform: NDArray[np.float64]) -> float:
    """Area of a unit square after a transform, negative if it is mirrored."""
    (a, b), (c, d) = transform[:, :2].tolist()
    return float(a * d - b * c)


def _spots(positions: NDArray[np.float64]) -> int:
    x, y = np.floor(positions * SPOTS).astype(int).T
    return len(np.unique(x * 4 * SPOTS + y))


def _inside(positions: NDArray[np.float64], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether positions are within the extent of others."""
    return np.asarray(((positions >= others.min(0) - FINE) & (positions <= others.max(0) + FINE)).all(1), np.bool_)


def _covered(positions: NDArray[np.float32], inliers: NDArray[np.float64]) -> float:
    """Share of positions with an inlier near them."""
    x, y = (np.abs(positions[:, None, axis] - inliers[:, axis]) <= REACH for axis in (0, 1))
    return float((x & y).any(1).mean()) if len(positions) else 0.0


@lru_cache(maxsize=1)
def _draws() -> NDArray[np.float64]:
    """Two matches of each draw, in shares of their number; close descriptors are drawn more often."""
    return np.square(np.random.RandomState(0).random_sample((sum(DRAWS), 2))) * (1 - 1e-9)
