"""Frames of a panorama: of one exposure, each overlapping the one before in part, in one direction.

They may be taken half a minute apart, and neither time nor likeness finds them: only what neighbours have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curation_features.groups.look import Look
from curation_features.groups.pictures import Frame, gap, is_uniform

GAP = 60.0
"""Seconds between two frames, at most."""

LEAST_PAUSE = 0.5
"""Seconds between two frames, at least: a camera that follows a subject in a burst moves on, too."""

LEAST_FRAMES = 3

SHIFT = (0.12, 0.9)
"""Share of the frame's side by which a frame is moved on, least and most."""

LEAST_INLIERS = 12
"""Keypoints that a step brings together; different scenes reach 8, and no upright step of equal scale."""

SCALE, SKEW = 1.1, 0.1
"""Largest ratio of the sizes of one thing in two neighbours, and largest sine of the angle between them."""

TURN = math.radians(30)
"""Largest change of the direction from frame to frame."""


def find_panoramas(row: Sequence[Frame], look: Look) -> list[tuple[int, int]]:
    """Return begin and end of each panorama in a row of frames, which are in order of time."""
    spans: list[tuple[int, int]] = []
    begin, heading = 0, None
    for end in range(1, len(row) + 1):
        step = _step(row[end - 1], row[end], look) if end < len(row) else None
        if step is not None and (heading is None or _is_onward(heading, step)):
            heading = step
            continue
        if end - begin >= LEAST_FRAMES:
            spans.append((begin, end))
        # The frame at which a row turns may be the first of another one.
        begin, heading = (end - 1, step) if step is not None and end - begin < LEAST_FRAMES else (end, None)
    return spans


def _step(one: Frame, other: Frame, look: Look) -> complex | None:
    """Return by how much the second frame is moved on, in shares of the frame's sides. None if it is not."""
    if other.moment.seconds - one.moment.seconds < LEAST_PAUSE or gap(one, other) > GAP:
        return None
    if not is_uniform(one, other):
        return None
    found = look.match(*sorted((one.picture.best, other.picture.best)))
    if found is None or found.inliers < LEAST_INLIERS:
        return None
    linear, offset = found.transform[:, :2], found.transform[:, 2]
    scale = math.sqrt(abs(float(np.linalg.det(linear))))
    if not 1 / SCALE <= scale <= SCALE or linear[0, 0] < 0 or max(abs(linear[0, 1]), abs(linear[1, 0])) > SKEW:
        return None
    sides = look.sides(one.picture.best)
    middle = np.array(sides) / 2
    moved = (linear @ middle + offset - middle) / np.array(sides)
    if one.picture.best < other.picture.best:
        moved = -moved  # what moves to the left, shows that the camera turned to the right
    step = complex(float(moved[0]), float(moved[1]))
    return step if SHIFT[0] <= abs(step) <= SHIFT[1] else None


def _is_onward(heading: complex, step: complex) -> bool:
    turn = math.remainder(math.atan2(step.imag, step.real) - math.atan2(heading.imag, heading.real), math.tau)
    return abs(turn) <= TURN
