"""Frames of a panorama: each overlaps the one before in part, in one direction.

They may be taken half a minute apart, and neither time nor likeness finds them: only what neighbours have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from curation_features.groups.brackets import light
from curation_features.groups.look import Look
from curation_features.groups.pictures import Frame, gap

GAP = 60.0
"""Seconds between two frames, at most."""

LEAST_PAUSE = 0.5
"""Seconds between two frames, at least: a camera that follows a subject in a burst moves on, too."""

LEAST_FRAMES = 3

EXPOSURE = 1.1
"""EV between neighbours at most: automatic exposure changes a little while the camera turns."""

TURN = math.radians(30)
"""Largest change of the direction from frame to frame."""

LENGTHS = 2.0
"""Largest ratio of two steps of one panorama."""

WIDTH = 0.6
"""Way from the first to the last frame at least, in shares of the frame's sides: a subject that is framed again is in
all frames."""


def find_panoramas(row: Sequence[Frame], look: Look) -> list[tuple[int, int]]:
    """Return begin and end of each panorama in a row of frames, which are in order of time."""
    if len(row) < LEAST_FRAMES:
        return []
    steps = [_step(one, other, look) for one, other in pairwise(row)]
    spans: list[tuple[int, int]] = []
    begin, heading = 0, None
    for end in range(1, len(row) + 1):
        step = steps[end - 1] if end < len(row) else None
        if step is not None and (heading is None or _is_onward(heading, step)):
            heading = step
            continue
        if heading is not None and end + 1 < len(row) and _is_bridged(row[end - 1 : end + 2], heading, steps[end]):
            continue
        if end - begin >= LEAST_FRAMES and _is_wide(steps[begin : end - 1]):
            spans.append((begin, end))
        # The frame at which a row turns may be the first of another one.
        begin, heading = (end - 1, step) if step is not None and end - begin < LEAST_FRAMES else (end, None)
    return spans


def _is_possible(one: Frame, other: Frame) -> bool:
    """Return whether two frames may be neighbours, by their times and exposures."""
    if other.moment.seconds - one.moment.seconds < LEAST_PAUSE or gap(one, other) > GAP:
        return False
    lights = light([one.exposure, other.exposure])
    return one.exposure == other.exposure or (lights is not None and abs(lights[1] - lights[0]) <= EXPOSURE)


def _step(one: Frame, other: Frame, look: Look) -> complex | None:
    """Return by how much the second frame is moved on, in shares of the frame's sides. None if it is not."""
    if not _is_possible(one, other):
        return None
    sides = look.sides(one.picture.best)
    if sides != look.sides(other.picture.best):
        return None
    found = look.displacement(one.picture.best, other.picture.best)
    return found.shift if found is not None and found.is_moved_on else None


def _is_wide(steps: Sequence[complex | None]) -> bool:
    """Return whether all frames together are much larger than one; a step without detail is as long as the others."""
    known = [step for step in steps if step is not None]
    return abs(sum(known)) * len(steps) / len(known) >= WIDTH


def _is_onward(heading: complex, step: complex) -> bool:
    turn = math.remainder(math.atan2(step.imag, step.real) - math.atan2(heading.imag, heading.real), math.tau)
    return abs(turn) <= TURN and 1 / LENGTHS <= abs(step) / abs(heading) <= LENGTHS


def _is_bridged(frames: Sequence[Frame], heading: complex, after: complex | None) -> bool:
    """Return whether one step without a common part that can be seen, like sky, is between two of one panorama."""
    return after is not None and _is_onward(heading, after) and all(_is_possible(a, b) for a, b in pairwise(frames))


def common_strip(look: Look, one: int, other: int) -> float:
    """Return the share that a frame has in common with the next one; 0 if no strip is found."""
    found = look.displacement(one, other)
    return found.overlap if found is not None and found.is_moved_on else 0.0
