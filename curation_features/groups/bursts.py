"""Bursts: frames of one moment, close in time by one camera's clock and alike.

Time alone collapses a party, and likeness alone merges two visits: both are needed. Time links neighbours, and bounds a
whole burst as well, so that a burst does not chain over minutes; likeness holds for every pair of a burst.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from curation_features.groups.linking import link
from curation_features.groups.look import Look
from curation_features.groups.pictures import Found, Frame, gap, split_by_gap

GAP = 2.0
"""Seconds between neighbours of a burst, at most; a second for frames without decimals and file numbers."""

SPAN = 15.0
"""Seconds between any two frames of a burst, at most."""

ALIKE = 0.85
"""Least cosine of two frames of a burst, if the photos around are as alike as `USUAL`."""

USUAL = 0.7
"""Cosine of photos of one place that do not show one moment, if the photos around do not say it."""

LEAST_ALIKE = 0.75
"""Least cosine, however different the photos around are."""

ALIKE_THUMBNAILS = 0.65
"""Least correlation of thumbnails, or common share, of two frames of a burst without embeddings; of 350 pairs of
different scenes one has more."""


def find_bursts(frames: Sequence[Frame], look: Look) -> list[Found]:
    """Find the bursts among frames of one camera, in order of time.

    Args:
        frames: a run of one clock; its frames are the photos around each other.
        look: compares them.
    """
    limit = _limit(frames, look)
    runs = (run for part in split_by_gap(frames, GAP) for run in _split_by_number(part))
    return [found for run in runs if len(run) > 1 for found in _link(run, limit, look)]


def _limit(frames: Sequence[Frame], look: Look) -> float:
    """Return the least likeness of a burst: half way from the photos around to identity, and at most `ALIKE`."""
    if not look.has_vectors:
        return ALIKE_THUMBNAILS
    firsts = [run[0] for run in split_by_gap(frames, GAP)]
    pairs = pairwise(firsts)
    around = [look.likeness(a.picture.best, b.picture.best) for a, b in pairs if not _is_close(a, b)]
    known = [value for value in around if value is not None]
    usual = median(known) if len(known) > 2 else USUAL
    return min(ALIKE, max(LEAST_ALIKE, (1 + usual) / 2))


def _split_by_number(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split frames that have no decimals and no neighbouring file numbers, or no numbers and a gap of over 1 s."""
    runs: list[list[Frame]] = []
    for frame in frames:
        if runs and _are_neighbours(runs[-1][-1], frame):
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs


def _are_neighbours(earlier: Frame, later: Frame) -> bool:
    if earlier.burst and earlier.burst == later.burst:
        return True
    if max(earlier.moment.resolution, later.moment.resolution) < 1:
        return True
    if earlier.number and later.number and earlier.number[0] == later.number[0]:
        return later.number[1] - earlier.number[1] <= 1
    return gap(earlier, later) <= 1


def _is_close(earlier: Frame, later: Frame) -> bool:
    return abs(later.moment.seconds - earlier.moment.seconds) <= SPAN


def _link(run: Sequence[Frame], limit: float, look: Look) -> list[Found]:
    pairs: dict[tuple[int, int], float] = {}
    for first, one in enumerate(run):
        for second in range(first + 1, len(run)):
            other = run[second]
            is_named = bool(one.burst) and one.burst == other.burst
            if not is_named and not _is_close(one, other):
                break
            alike = look.likeness(one.picture.best, other.picture.best)
            if is_named or (alike is not None and alike >= limit):
                pairs[first, second] = alike or 0.0
    return [
        Found("burst", "", tuple(run[index].picture for index in linked.members), linked.similarity)
        for linked in link(pairs, [str(frame.picture.best).zfill(12) for frame in run])
    ]
