"""Whether two frames show one view: the second, moved a little, explains all details of the first.

Miniatures are compared, of 64 px a side. Their details are what a smoothing by a sixteenth of the frame takes away: sky
above and ground below are alike in most photos. A defocus of some pixels of a photo does not change them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64
"""Pixels of a side of a miniature."""

FINE, COARSE = 1.0, 4.0
"""Standard deviations of the Gaussians between which details are, px of a miniature."""

LEAST_DETAIL = 1.0
"""Variance that is added to that of details, squared gray levels: noise has less."""

SHAKE = 8
"""Shift that is searched for frames of one view, px of a miniature: an eighth of the frame."""

_NEAR = (slice(SIDE - SHAKE, SIDE + SHAKE + 1),) * 2

STEPS = 4
"""Steps of the registration; the last one only measures."""

LARGEST_STEP = 2.0, 0.05
"""Shift in px, and turn or change of size, of a step of the registration at most."""

ZOOM = 0.06
"""Change of size up to which two frames are one view: focus breathing; a subject that comes near has more."""

PLACES = 8
"""Places a side in which what is not explained is averaged."""

WORST = 6
"""Places of the 64 that are averaged: a tenth."""

OVERLAP = 0.12
"""Least share of a frame that another one must have in common with it."""

AROUND = 0.12
"""Distance from a displacement from which another one is not the same, in shares of the frame's sides."""


class Displacement(NamedTuple):
    """The place of a frame relative to an earlier one.

    Attributes:
        shift: to the right and down, in shares of the frame's sides.
        correlation: of the details in the common part, in [-1, 1].
        lead: by how much it is over the correlation of each other displacement.
        overlap: common share of the frame.
        unmoved: correlation of the details if the second frame is only shaken.
    """

    shift: complex
    correlation: float
    lead: float
    overlap: float
    unmoved: float

    @property
    def is_moved_on(self) -> bool:
        """Whether the frames certainly share a strip only."""
        return self.correlation >= CORRELATION and self.lead >= LEAD and MOVED_ON[0] <= abs(self.shift) <= MOVED_ON[1]


CORRELATION, LEAD = 0.65, 0.05
"""Least correlation of the details in the strip that two frames share, and its least lead: one pair of 100 of different
scenes has both."""

MOVED_ON = 0.2, 0.9
"""Shift of two frames of two views of one scene, least and most, in shares of the frame's sides."""

UNLIKE = 0.3
"""Correlation of the details of two frames under which they show two views; 0.35 if a large subject moves."""


def details(miniature: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a miniature without its broad tones and without noise, (64, 64) in gray levels."""
    return _smoothed(miniature, FINE) - _smoothed(miniature, COARSE)


def displacement(first: NDArray[np.float32], second: NDArray[np.float32]) -> Displacement:
    """Return the displacement at which the details of two frames correlate most.

    All displacements are compared, each over its common part (D. Padfield, "Masked object registration in the Fourier
    domain", IEEE Transactions on Image Processing 21, 2012).
    """
    correlation, overlap = _correlations(first, second)
    correlation = np.where(overlap >= OVERLAP, correlation, -1)
    row, column = divmod(int(correlation.argmax()), correlation.shape[1])
    places = (np.arange(2 * SIDE) - SIDE) / SIDE
    away = np.hypot(places - places[column], (places - places[row])[:, None])
    best = float(correlation[row, column])
    return Displacement(
        complex(places[column], places[row]),
        best,
        best - float(correlation[away > AROUND].max()),
        float(overlap[row, column]),
        float(correlation[_NEAR].max()),
    )


def unexplained(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return which share of the details the second miniature has that the first one does not explain, where most.

    The first one is moved, turned, enlarged a little, made brighter and blurred so that it is most like the second (B.
    Lucas and T. Kanade, "An iterative image registration technique", IJCAI 1981). What is left in the tenth of the
    frame that differs most is compared with the details of the whole frame.

    Returns:
        0 for one view; a subject that moves leaves over 1; infinite for frames of other sizes of the subject.
    """
    source, target = (_smoothed(miniature, FINE) for miniature in (first, second))
    aim = target.ravel().astype(np.float64)
    motion = np.array([*_shake(details(first), details(second)), 0.0, 0.0])
    limits = np.repeat(LARGEST_STEP, 2)
    for step in range(STEPS):
        moved, inside = _moved(source, motion)
        terms = _terms(moved)
        counted = terms * inside
        weights = np.linalg.lstsq(counted @ terms.T, counted @ aim, rcond=None)[0]
        if step < STEPS - 1:
            motion += np.clip(weights[2:6] / max(weights[0], 0.2), -limits, limits)
    if abs(motion[2]) > ZOOM:
        return float("inf")
    left = _by_place(np.square(aim - weights @ terms) * inside) / np.maximum(_by_place(inside), 1 / PLACES**2)
    whole = float(np.square(details(second).ravel()) @ inside) / max(float(inside.sum()), 1.0) + LEAST_DETAIL
    return float(np.sort(left, axis=None)[-WORST:].mean()) / whole


def _shake(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[int, int]:
    """Return the shift of a shake, to the right and down in px, at which two frames correlate most."""
    product = np.fft.irfft2(np.fft.rfft2(first) * np.fft.rfft2(second).conj(), (SIDE, SIDE))
    near = np.roll(product, (SHAKE, SHAKE), (0, 1))[: 2 * SHAKE + 1, : 2 * SHAKE + 1]
    row, column = divmod(int(near.argmax()), near.shape[1])
    return column - SHAKE, row - SHAKE


def _correlations(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return correlation and common share at each displacement of the second frame, (128, 128): down, to the right."""
    size = (2 * SIDE, 2 * SIDE)
    one, one_squared, other, other_squared = (
        np.fft.rfft2(values, size) for values in (first, first * first, second, second * second)
    )
    frame, count = _frame()

    def over_common(ours: NDArray[np.complex128], theirs: NDArray[np.complex128]) -> NDArray[np.float64]:
        return np.asarray(np.fft.fftshift(np.fft.irfft2(ours * theirs.conj(), size)), np.float64)

    sums = over_common(one, frame), over_common(frame, other)
    squares = over_common(one_squared, frame), over_common(frame, other_squared)
    covariance = over_common(one, other) - sums[0] * sums[1] / count
    energy = (
        np.maximum(square - total**2 / count, 0) + count * LEAST_DETAIL
        for square, total in zip(squares, sums, strict=True)
    )
    return covariance / np.sqrt(np.multiply(*energy)), count / SIDE**2


@lru_cache(maxsize=1)
def _frame() -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Return the transform of a frame of ones, and the pixels, at least 1, that two frames share at a displacement."""
    common = np.maximum(SIDE - np.abs(np.arange(2 * SIDE) - SIDE), 0)
    frame = np.fft.rfft2(np.ones((SIDE, SIDE)), (2 * SIDE, 2 * SIDE))
    return frame, np.maximum(np.multiply.outer(common, common), 1).astype(np.float64)


@lru_cache(maxsize=2)
def _gaussian(sigma: float) -> NDArray[np.float32]:
    places = np.arange(SIDE)
    weights = np.exp(-np.square((places[:, None] - places) / sigma) / 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _smoothed(miniature: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    smoothing = _gaussian(sigma)
    return np.asarray(smoothing @ miniature.astype(np.float32) @ smoothing.T, np.float32)


@lru_cache(maxsize=1)
def _places() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return x and y of each pixel from the middle of a miniature, px."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - np.float32((SIDE - 1) / 2)
    return x, y


def _moved(source: NDArray[np.float32], motion: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return a miniature shifted by px, enlarged and turned; and 1 for each pixel inside of it, with a margin, or 0."""
    x, y = _places()
    right, down, larger, turned = motion
    columns = x * (1 + larger) - y * turned + right + (SIDE - 1) / 2
    rows = y * (1 + larger) + x * turned + down + (SIDE - 1) / 2
    inside = (columns >= 1) & (columns <= SIDE - 2) & (rows >= 1) & (rows <= SIDE - 2)
    columns, rows = (np.clip(values, 0, SIDE - 1.001) for values in (columns, rows))
    left, top = columns.astype(np.intp), rows.astype(np.intp)
    across, along = columns - left, rows - top
    upper = source[top, left] * (1 - across) + source[top, left + 1] * across
    lower = source[top + 1, left] * (1 - across) + source[top + 1, left + 1] * across
    moved = upper * (1 - along) + lower * along
    return np.asarray(moved, np.float32), inside.ravel().astype(np.float64)


def _terms(moved: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what a small motion, light and blur add to a frame, (7, 4096)."""
    x, y = _places()
    down, across = np.gradient(moved)
    blur = np.gradient(down, axis=0) + np.gradient(across, axis=1)
    parts = moved, np.ones_like(moved), across, down, x * across + y * down, x * down - y * across, blur
    return np.stack(parts).reshape(len(parts), -1).astype(np.float64)


def _by_place(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of 8 x 8 parts of a miniature."""
    side = SIDE // PLACES
    return np.asarray(values.reshape(PLACES, side, PLACES, side).mean((1, 3)), np.float64)
