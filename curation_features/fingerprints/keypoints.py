"""Keypoints of a preview: ORB's, with a descriptor that a mirror only permutes.

Detector and direction are those of ORB (E. Rublee et al., "ORB: an efficient alternative to SIFT or SURF", ICCV 2011):
FAST corners of a pyramid, by Harris' measure, directed to the centroid of their surroundings. The descriptor is BRIEF,
turned into that direction (M. Calonder et al., ECCV 2010), whose pairs are symmetric about it: bit i + 128 compares the
places of bit i on the other side. So the descriptor of the mirrored photo has the two halves exchanged, and one
descriptor finds mirrored copies too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.fingerprints.fingerprint import Keypoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 256
"""Keypoints of a photo at most."""

DETECTED = 600
"""Keypoints that are detected; those of crowded places are not kept."""

CELLS = 8
"""Cells a side of the grid over which keypoints are spread."""

LEVELS, STEP = 5, 1.3
"""Levels of the pyramid, and the reduction of each."""

FAST_THRESHOLDS = 10, 4
"""Gray levels by which a corner differs from its circle; the second if the first finds fewer corners than are kept."""

RADIUS = 15
"""Radius of the surroundings of a keypoint that are compared, px of its level."""

SMOOTHING = 5
"""Side of the box filter before pixels are compared, px."""

DIRECTIONS = 64
"""Directions into which the pairs are turned beforehand."""

PAIRS = 128
"""Compared pairs of one half of the descriptor."""

LEAST_SIDE = 64
"""Shortest side of a photo with keypoints, px."""


def keypoints(luma: NDArray[np.uint8]) -> Keypoints:
    """Find the keypoints of a preview.

    Args:
        luma: (H, W), 0..255.

    Returns:
        At most 256, by strength in their cell; none for a photo under 64 px or without corners.
    """
    if min(luma.shape) < LEAST_SIDE:
        return _none()
    found = _corners(luma)
    if not found:
        return _none()
    x, y, degrees, strength, octave = np.array(
        [(*one.pt, one.angle, one.response, one.octave) for one in found], np.float32
    ).T
    x, y = (side + (STEP**octave - 1) / 2 for side in (x, y))  # ORB scales the corners of pixels, not their centers
    kept = _spread(x / luma.shape[1], y / luma.shape[0], strength, octave)
    positions = np.stack([x[kept], y[kept]], axis=1)
    descriptors = _descriptors(luma, positions, degrees[kept], octave[kept].astype(np.intp))
    return Keypoints(np.asarray((positions + 0.5) / max(luma.shape), np.float32), descriptors)


def mirrored(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The descriptors of the mirrored photo, (N, 32)."""
    return np.roll(descriptors, PAIRS // 8, axis=1)


def _corners(luma: NDArray[np.uint8]) -> Sequence[cv2.KeyPoint]:
    found: Sequence[cv2.KeyPoint] = ()
    for threshold in FAST_THRESHOLDS:
        if len(found) < MOST:
            detector = cv2.ORB.create(
                DETECTED, scaleFactor=STEP, nlevels=LEVELS, edgeThreshold=RADIUS + 4, fastThreshold=threshold
            )
            found = detector.detect(luma)
    return found


def _none() -> Keypoints:
    return Keypoints(np.zeros((0, 2), dtype=np.float32), np.zeros((0, 2 * PAIRS // 8), np.uint8))


def _spread(
    x: NDArray[np.float32], y: NDArray[np.float32], strength: NDArray[np.float32], octave: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Indices of the keypoints to keep: the strongest of each cell, then the second of each, and so on."""
    order = np.lexsort((x, y, octave, -strength))
    cell = (np.floor(CELLS * y) * CELLS + np.floor(CELLS * x))[order]
    by_cell = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[by_cell], prepend=-1))
    rank = np.empty(len(order), np.intp)
    rank[by_cell] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.asarray(order[np.argsort(rank, kind="stable")[:MOST]], np.intp)


def _descriptors(
    luma: NDArray[np.uint8], positions: NDArray[np.float32], degrees: NDArray[np.float32], octave: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Compare the pairs of each keypoint in its level of the pyramid, (N, 32)."""
    levels = _smoothed_levels(luma)
    stride = levels[0].shape[1]
    pyramid = np.concatenate([np.pad(image, ((0, 0), (0, stride - image.shape[1]))) for image in levels]).ravel()
    starts = np.cumsum([0, *(image.shape[0] for image in levels)])
    scale = (np.float32(STEP) ** -octave.astype(np.float32))[:, None]
    x, y = np.round((positions + np.float32(0.5)) * scale - np.float32(0.5)).astype(np.intp).T
    centers = ((y + RADIUS + starts[octave]) * stride + x + RADIUS).astype(np.int32)
    direction = np.round(degrees * (DIRECTIONS / 360)).astype(np.intp) % DIRECTIONS
    values = pyramid[_offsets(stride)[direction] + centers[:, None]]
    return np.packbits(values[:, : 2 * PAIRS] < values[:, 2 * PAIRS :], axis=1)


def _smoothed_levels(luma: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The levels of the pyramid, each smoothed and with a border of `RADIUS` px."""
    border = (RADIUS, RADIUS, RADIUS, RADIUS)
    levels, image = [], luma
    for level in range(LEVELS):
        if level:
            size = (round(luma.shape[1] * STEP**-level), round(luma.shape[0] * STEP**-level))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        smoothed = cv2.blur(image, (SMOOTHING, SMOOTHING))
        padded = cv2.copyMakeBorder(smoothed, *border, borderType=cv2.BORDER_REFLECT_101)
        levels.append(np.asarray(padded, np.uint8))
    return levels


@lru_cache(maxsize=8)
def _offsets(stride: int) -> NDArray[np.int32]:
    """Places of `_pairs` in an image of this width, (`DIRECTIONS`, 512): the first of each pair, then the second."""
    x, y = np.moveaxis(_pairs(), 3, 0)
    places = np.concatenate([y[..., 0] * stride + x[..., 0], y[..., 1] * stride + x[..., 1]], axis=1)
    return places.astype(np.int32)


@lru_cache(maxsize=1)
def _pairs() -> NDArray[np.intp]:
    """Offsets of the compared places in each direction, (`DIRECTIONS`, 256, 2, 2): pairs of (x, y), px.

    They are drawn from a normal distribution, as BRIEF's are; the generator's sequence is fixed by numpy's policy.
    """
    drawn = np.random.RandomState(0).normal(0, RADIUS / 2.5, (8 * PAIRS, 2, 2))
    inside = (np.hypot(*np.moveaxis(drawn, 2, 0)) <= RADIUS).all(1) & (np.hypot(*(drawn[:, 0] - drawn[:, 1]).T) > 4)
    half = drawn[inside][:PAIRS]
    along, across = np.moveaxis(np.concatenate([half, half * [1, -1]]), 2, 0)
    angle = (np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS)[:, None, None]
    x, y = along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)
    return np.stack([np.round(x), np.round(y)], axis=3).astype(np.intp)
