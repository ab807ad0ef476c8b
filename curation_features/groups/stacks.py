"""Focus stacks: frames of one view and exposure in which the sharp region travels in one direction.

A focus stack looks like a burst: seconds apart, and alike but for what is sharp. In a burst of a subject that moves,
the picture changes with the sharp region; in a blurred burst sharpness changes everywhere at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curation_features.groups.look import Look
from curation_features.groups.pictures import Frame, gap, is_uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAP = 10.0
"""Seconds between two frames of a stack, at most."""

LEAST_FRAMES = 3

CHANGED = 1.5
"""Ratio of its sharpness in two frames by which a tile changes."""

ALIKE = 0.93
"""Least correlation of thumbnails with the first frame on a tripod: defocus does not change them, a subject does."""

SHAKEN_ALIKE, SHAKEN_COMMON = 0.85, 0.6
"""Least correlation of neighbours that were held by hand, or least share in common by geometry."""


class Travel(NamedTuple):
    """How the sharp region travels from the first to the last frame.

    Attributes:
        distance: in shares of the frame's side.
        back: movement backwards in between, as a share of the distance.
        changed: share of the tiles whose sharpness changes.
        swapped: share of these in which the first frame is sharper, or in which the last one is: the smaller one.
    """

    distance: float
    back: float
    changed: float
    swapped: float

    def reaches(self, limit: Travel) -> bool:
        """Return whether the region travels as far, as steadily and in as many tiles as a limit says."""
        return (
            self.distance >= limit.distance
            and self.back <= limit.back
            and self.changed >= limit.changed
            and self.swapped >= limit.swapped
        )


STILL, SHAKEN = Travel(0.2, 0.15, 0.35, 0.1), Travel(0.35, 0.1, 0.45, 0.1)
"""Travel of a stack on a tripod, and held by hand. In bursts it reaches 0.16, and 0.31 if a large subject crosses."""


def find_stacks(row: Sequence[Frame], look: Look) -> list[tuple[int, int]]:
    """Return begin and end of each focus stack in a row of frames, which are in order of time."""
    spans: list[tuple[int, int]] = []
    begin = 0
    for end in range(1, len(row) + 1):
        if end == len(row) or gap(row[end - 1], row[end]) > GAP or not is_uniform(row[end - 1], row[end]):
            spans += _split(row, begin, end, look)
            begin = end
    return spans


def _split(row: Sequence[Frame], begin: int, end: int, look: Look) -> list[tuple[int, int]]:
    """Try a row as one stack, then the parts before and after its longest gap."""
    if end - begin < LEAST_FRAMES:
        return []
    if _is_stack([frame.picture.best for frame in row[begin:end]], look):
        return [(begin, end)]
    gaps = [gap(one, other) for one, other in pairwise(row[begin:end])]
    longest = max(gaps)
    if gaps.count(longest) > 1:  # no gap divides the row
        return []
    middle = begin + gaps.index(longest) + 1
    return _split(row, begin, middle, look) + _split(row, middle, end, look)


def _is_stack(photos: Sequence[int], look: Look) -> bool:
    fingerprints = [look.fingerprint(index) for index in photos]
    sharpness = [fingerprint.sharpness for fingerprint in fingerprints if fingerprint is not None]
    if len(sharpness) < len(photos):
        return False
    way = travel(np.stack(sharpness))
    if not way.reaches(STILL):
        return False
    if all((look.correlation(photos[0], other) or 0.0) >= ALIKE for other in photos[1:]):
        return True
    return way.reaches(SHAKEN) and all(
        (look.correlation(one, other) or 0.0) >= SHAKEN_ALIKE or look.common(one, other) >= SHAKEN_COMMON
        for one, other in pairwise(photos)
    )


def travel(sharpness: NDArray[np.float32]) -> Travel:
    """Return how the sharp region travels from the first to the last frame.

    A tile's weight in a frame is the square of its sharpness relative to the frame in which it is sharpest.

    Args:
        sharpness: (frames, 8, 8).
    """
    highest, lowest = sharpness.max(0), sharpness.min(0)
    is_changed = highest > CHANGED * np.maximum(lowest, 1e-6)
    if not is_changed.any():
        return Travel(0.0, 0.0, 0.0, 0.0)
    weights = np.square(sharpness / np.maximum(highest, 1e-6)) * is_changed
    total = np.maximum(weights.sum((1, 2)), 1e-9)
    rows, columns = ((np.arange(side) + 0.5) / side for side in sharpness.shape[1:])
    centres = np.stack([weights.sum(1) @ columns, weights.sum(2) @ rows], axis=1) / total[:, None]
    way = centres[-1] - centres[0]
    distance = float(np.linalg.norm(way))
    if distance < 1e-6:
        return Travel(0.0, 0.0, float(is_changed.mean()), 0.0)
    steps = np.diff(centres @ way / distance)
    is_first = (sharpness[0] > sharpness[-1])[is_changed].mean()
    back = float(-steps[steps < 0].sum() / distance)
    return Travel(distance, back, float(is_changed.mean()), float(min(is_first, 1 - is_first)))
