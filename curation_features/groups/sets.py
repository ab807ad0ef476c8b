"""Sets: frames that are made to be used together, so that all are kept.

A set is a row of frames of one camera without another frame between them. Each kind asks for more than likeness: an
exposure bracket for a regular pattern of exposures, a focus stack for a sharp region that travels, a panorama for parts
that overlap in one direction. Frames that fail are left to bursts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from curation_features.groups.brackets import find_brackets, likeness_of_framing
from curation_features.groups.look import Look
from curation_features.groups.panoramas import common_strip, find_panoramas
from curation_features.groups.pictures import Found, Frame
from curation_features.groups.stacks import find_stacks

Spans = Sequence[tuple[int, int]]
"""Begin and end of sets in a row of frames, in order."""

_FINDERS: Mapping[str, tuple[Callable[[Sequence[Frame], Look], Spans], Callable[[Look, int, int], float]]] = {
    "bracket": (find_brackets, likeness_of_framing),
    "focus stack": (find_stacks, lambda look, one, other: look.likeness(one, other) or 0.0),
    "panorama": (find_panoramas, common_strip),
}
"""Kind of set -> function that finds it in a row of frames, and the similarity of two neighbours."""


def find_sets(frames: Sequence[Frame], look: Look) -> tuple[list[Found], list[Frame]]:
    """Find the sets among frames of one camera, in order of time.

    Returns:
        The sets, and the frames that are in none. A frame is in one set at most.
    """
    found: list[Found] = []
    rows = [list(frames)]
    for what, (find, similarity) in _FINDERS.items():
        rest: list[list[Frame]] = []
        for row in rows:
            end_before = 0
            for begin, end in find(row, look):
                pictures = tuple(frame.picture for frame in row[begin:end])
                least = min(similarity(look, one.best, other.best) for one, other in pairwise(pictures))
                found.append(Found("set", what, pictures, least))
                rest.append(row[end_before:begin])
                end_before = end
            rest.append(row[end_before:])
        rows = [row for row in rest if row]
    return found, [frame for row in rows for frame in row]
