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

from curation_features.groups.focus import Travel, change, is_softer, travel
from curation_features.groups.look import Look
from curation_features.groups.pictures import Frame, gap, is_apart, is_uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAP = 10.0
"""Seconds between two frames of a stack, at most."""

LEAST_FRAMES = 3

DISTANCE, AGREEMENT = 0.1, 0.55
"""Least travel of the focus through all depths, and least correlation of a tile's depth with the tiles around it."""

ORDER = 0.9
"""Least correlation of the focused depth with the number of the frame: a single step may be backwards, as between two
frames that are far from the focus. In a burst the focus moves once (0.9 at most), or comes back."""

LARGEST_STEP = 0.75
"""Largest step of four frames or more, as a share of the way."""

OF_THREE = 0.2
"""`DISTANCE` of three frames: noise puts them in order in a third of the cases."""

SHARPER = 1.12, 1.05
"""Ratio by which a tenth of the tiles is sharper at least in the first frame, and another tenth in the last one: of
three frames, and of more."""

SAME_PLACES = 0.35
"""Least agreement of tiles next to each other about which of the two is sharper."""

ENDS = 1.0
"""Largest share of details that the first frame does not explain of the last one: much defocus changes details."""


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
    least = SHARPER[len(photos) > LEAST_FRAMES]
    if min(changed.sharper, changed.softer) < least or changed.agreement < SAME_PLACES:
        return False
    return all(look.is_one_view(*pair) for pair in pairwise(photos)) and look.is_one_view(photos[0], photos[-1], ENDS)


def _is_onward(way: Travel, frames: int) -> bool:
    """Return whether the focus travels through the depths, step by step."""
    if frames == LEAST_FRAMES:
        is_stepwise, distance = True, OF_THREE  # two steps in order are of one length, nearly
    else:
        is_stepwise, distance = way.largest_step <= LARGEST_STEP, DISTANCE
    return is_stepwise and way.distance >= distance and way.order >= ORDER and way.agreement >= AGREEMENT


def is_needed(sharpest: int, other: int, look: Look) -> bool:
    """Return whether a frame shows the view of a sharper one, and is sharp in places where that one is not."""
    sharpness = _sharpness((sharpest, other), look)
    return sharpness is not None and not is_softer(*sharpness) and look.is_one_view(sharpest, other)


def _sharpness(photos: Sequence[int], look: Look) -> NDArray[np.float32] | None:
    """Return the sharpness of the tiles of frames, (frames, 8, 8); None if one has no fingerprint."""
    fingerprints = [look.fingerprint(index) for index in photos]
    tiles = [fingerprint.sharpness for fingerprint in fingerprints if fingerprint is not None]
    return np.stack(tiles) if len(tiles) == len(photos) else None
