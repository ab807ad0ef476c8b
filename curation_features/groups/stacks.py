"""Focus stacks: frames of one view and exposure in which the sharp region travels through the depths of the view.

A focus stack looks like a burst: seconds apart, and alike but for what is sharp. In a burst of a subject that moves,
the picture changes with the sharp region; in a blurred burst sharpness changes everywhere at once; a camera that
searches the focus comes back, or stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from curation_features.groups.focus import Travel, change, most_different, travel
from curation_features.groups.look import Look
from curation_features.groups.pictures import Frame, gap, is_apart, is_uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAP = 10.0
"""Seconds between two frames of a stack, at most."""

LEAST_FRAMES = 3

DISTANCE, AGREEMENT = 0.1, 0.55
"""Least travel of the focus through all depths, and least correlation of a tile's depth with the tiles around it."""

BACK = -0.12
"""Least step of the focus, as a share of its travel: frames far from the focus hardly differ."""

LARGEST_STEP = 0.6
"""Largest step of four frames or more: in a burst the focus moves once."""

OF_THREE = 0.2, 0.55, 0.1
"""`DISTANCE`, `AGREEMENT` and least step of three frames: noise puts them in order in a third of the cases."""

SHARPER = 1.12
"""Ratio by which a tenth of the tiles is sharper at least in the first frame, and another tenth in the last one."""

SAME_PLACES = 0.35
"""Least agreement of tiles next to each other about which of the two is sharper."""

STEADY = 0.85
"""Least share of tones that one frame explains of the next, and the first of the last one."""

TEXTURE = 150.0
"""Least variance of a thumbnail in the comparison of two such frames, squared gray levels: a wall of bricks has less,
and each shake changes it. A set asks for more."""

ELSEWHERE, IN_PLACES = 1.15, 0.5
"""`SHARPER` and `SAME_PLACES` of two frames of a burst that are sharp in different places."""


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
    if is_apart(row, begin, end) and _is_stack([frame.picture.best for frame in row[begin:end]], look):
        return [(begin, end)]
    gaps = [gap(one, other) for one, other in pairwise(row[begin:end])]
    longest = max(gaps)
    if gaps.count(longest) > 1:  # no gap divides the row
        return []
    middle = begin + gaps.index(longest) + 1
    return _split(row, begin, middle, look) + _split(row, middle, end, look)


def _is_stack(photos: Sequence[int], look: Look) -> bool:
    sharpness = _sharpness(photos, look)
    if sharpness is None:
        return False
    if not _is_onward(travel(sharpness), len(photos)):
        return False
    changed = change(sharpness[0], sharpness[-1])
    if min(changed.sharper, changed.softer) < SHARPER or changed.agreement < SAME_PLACES:
        return False
    return all(look.steadiness(*pair) >= STEADY for pair in (*pairwise(photos), (photos[0], photos[-1])))


def _is_onward(way: Travel, frames: int) -> bool:
    """Return whether the focus travels through the depths, step by step."""
    if frames == LEAST_FRAMES:
        distance, agreement, least = OF_THREE
        return way.distance >= distance and way.agreement >= agreement and way.least_step >= least
    return (
        way.distance >= DISTANCE
        and way.agreement >= AGREEMENT
        and way.least_step >= BACK
        and way.largest_step <= LARGEST_STEP
    )


def is_sharp_elsewhere(photos: Sequence[int], look: Look) -> bool:
    """Return whether two frames of a burst are sharp in different places of one view: each may be needed."""
    sharpness = _sharpness(photos, look)
    if sharpness is None:
        return False
    one, other = most_different(sharpness)
    found = change(sharpness[one], sharpness[other])
    if min(found.sharper, found.softer) < ELSEWHERE or found.agreement < IN_PLACES:
        return False
    return look.steadiness(photos[one], photos[other], TEXTURE) >= STEADY


def _sharpness(photos: Sequence[int], look: Look) -> NDArray[np.float32] | None:
    """Return the sharpness of the tiles of frames, (frames, 8, 8); None if one has no fingerprint."""
    fingerprints = [look.fingerprint(index) for index in photos]
    tiles = [fingerprint.sharpness for fingerprint in fingerprints if fingerprint is not None]
    return np.stack(tiles) if len(tiles) == len(photos) else None
