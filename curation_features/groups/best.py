"""The best frame of a burst, and the reason in words.

Only values rank that can be compared between frames of one moment: how wide edges are; then how many highlights are
clipped, and how dark the frame is; then CLIP-IQA. Noise never ranks: a sharp frame reads as noisier than a blurred one.
Each value has a margin, and frames within it share a rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curation_features.groups.photos import Photo
from curation_features.signals.ranking import sharpest

NO_WINNER = "no clear winner"
_ELSEWHERE = "sharp in different places"
_HIGHLIGHTS = "highlights kept"
_WHITE = 0.01
"""Difference in the share of clipped pixels up to which two frames are equal."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rank of a photo (1 is the best; equal photos share it), and why."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Criterion:
    """A measure that ranks.

    Attributes:
        margin: difference up to which two frames are equal; None for edges, see `signals.ranking`.
        alone: reason of a frame that is better than all others.
        among: reason of frames that share the best place.
        worse: reason of a worse frame, with `{value}` and `{best}`, both times `scale`.
        sign: 1 if low is best, -1 if high is.
    """

    name: str
    margin: float | None
    alone: str
    among: str
    worse: str
    sign: int = 1
    scale: float = 1

    def cost(self, photo: Photo) -> float:
        """Return a number whose low end is best; infinite if the measure is undefined."""
        value = photo.measures.get(self.name)
        return math.inf if value is None or math.isnan(value) else value * self.sign

    def places(self, costs: Sequence[float]) -> list[int]:
        """Return the rank of each cost: 1 for all within the margin of the best (1, 1, 3)."""
        if self.margin is None:
            return sharpest([cost if cost < math.inf else None for cost in costs])
        places: dict[float, int] = {}
        leader, place = -math.inf, 0
        for position, cost in enumerate(sorted(costs), 1):
            if cost > leader + self.margin:
                leader, place = cost, position
            places[cost] = place
        return [places[cost] for cost in costs]

    def loss(self, cost: float, best: float) -> str:
        """Return why a cost is worse than the best one."""
        if cost == math.inf:
            return f"{self.name} is not defined"
        factor = self.sign * self.scale
        return self.worse.format(value=cost * factor, best=best * factor)


_SHARPER, _SHARP = "sharper than the others", "as sharp as the sharpest"
_SOFTER = "softer: edges {value:.2f} px wide, the sharpest {best:.2f} px"
_FOCUS = _Criterion("focus_px", None, _SHARPER, _SHARP, _SOFTER)
_BLUR = _Criterion("blur_px", None, _SHARPER, _SHARP, _SOFTER + " at 512 px")
_CLIPPED = _Criterion(
    "clipped_centre",
    _WHITE,
    _HIGHLIGHTS,
    _HIGHLIGHTS,
    "highlights clipped: {value:.1f} % of the middle, at best {best:.1f} %",
    scale=100,
)
_DARK = _Criterion(
    "headroom_ev",
    0.5,
    "brighter than the others",
    "as bright as the brightest",
    "darker: highlights {value:.1f} EV below clipping, at best {best:.1f} EV",
)
_IQA = _Criterion(
    "clip_iqa",
    0.05,
    "rated higher by CLIP-IQA than the others",
    "rated highest by CLIP-IQA",
    "rated lower by CLIP-IQA: {value:.2f}, at best {best:.2f}",
    sign=-1,
)


def rank_frames(
    photos: Sequence[Photo], is_needed: Callable[[int, int], bool] = lambda sharpest, other: False
) -> list[Ranked]:
    """Rank the frames of one moment; the rank of a frame does not depend on their order.

    Args:
        photos: the frames.
        is_needed: whether the frame of the second index is sharp where that of the first one, the sharpest, is not:
            then sharpness does not rank it.

    Returns:
        For each photo, in the given order, its rank and the reason: why it is the best, or why it is not.
    """
    ranks, losses = [1] * len(photos), [""] * len(photos)
    decisive: list[_Criterion] = []
    spared: list[int] = []
    for criterion in (_sharpness(photos), _CLIPPED, _DARK, _IQA):
        if spared and criterion is _IQA:  # it rates sharpness, too
            break
        costs = [criterion.cost(photo) for photo in photos]
        top = [index for index, rank in enumerate(ranks) if rank == 1]
        best = min(costs[index] for index in top)
        ranks = _refine(ranks, costs, criterion)
        if criterion.margin is None:
            first = min(top, key=lambda index: (costs[index], photos[index].key))
            spared = [index for index in top if ranks[index] > 1 and is_needed(first, index)]
            ranks = _spare(ranks, spared)
        lost = [index for index in top if ranks[index] > 1]
        decisive += [criterion] if lost else []
        for index in lost:
            losses[index] = criterion.loss(costs[index], best)
    is_shared = bool(spared) and ranks.count(1) > 1
    praise = _elsewhere(ranks) if is_shared else _praise(photos, ranks, decisive)
    return [Ranked(rank, praise if rank == 1 else loss) for rank, loss in zip(ranks, losses, strict=True)]


def _sharpness(photos: Sequence[Photo]) -> _Criterion:
    """Return the measure of sharpness for all photos: in pixels of the originals if all have it, and one size."""
    sizes = {max(photo.width, photo.height) for photo in photos}
    return _FOCUS if len(sizes) == 1 and all(_FOCUS.cost(photo) < math.inf for photo in photos) else _BLUR


def _refine(ranks: Sequence[int], costs: Sequence[float], criterion: _Criterion) -> list[int]:
    """Rank the photos of each rank by one more measure."""
    refined = list(ranks)
    for rank in set(ranks):
        peers = [index for index, other in enumerate(ranks) if other == rank]
        for index, place in zip(peers, criterion.places([costs[i] for i in peers]), strict=True):
            refined[index] = rank + place - 1
    return refined


def _spare(ranks: Sequence[int], spared: Sequence[int]) -> list[int]:
    """Give some photos the first rank; the others keep their order."""
    raised = [1 if index in spared else rank for index, rank in enumerate(ranks)]
    return [1 + sum(other < rank for other in raised) for rank in raised]


def _elsewhere(ranks: Sequence[int]) -> str:
    """Return why frames share the first rank that are sharp in different places."""
    among = f" among {ranks.count(1)}" if max(ranks) > 1 else ""
    return f"{NO_WINNER}{among}: {_ELSEWHERE}"


def _praise(photos: Sequence[Photo], ranks: Sequence[int], decisive: Sequence[_Criterion]) -> str:
    """Return what sets the best apart; with more than one best, that none is clearly the best."""
    winners = ranks.count(1)
    if not decisive:
        return f"{NO_WINNER}: nothing measured tells them apart"
    words = [criterion.among for criterion in decisive[:-1]]
    words.append(decisive[-1].alone if winners == 1 else decisive[-1].among)
    if _HIGHLIGHTS not in words and _keeps_highlights(photos, ranks):
        words.append(_HIGHLIGHTS)
    text = "; ".join(words)
    return text if winners == 1 else f"{NO_WINNER} among {winners}: {text}"


def _keeps_highlights(photos: Sequence[Photo], ranks: Sequence[int]) -> bool:
    """Return whether the best clip as little as any, and some other photo clips more."""
    costs = [_CLIPPED.cost(photo) for photo in photos]
    best = [cost for cost, rank in zip(costs, ranks, strict=True) if rank == 1]
    known = [cost for cost in costs if cost < math.inf]
    return bool(known) and max(best) <= min(known) + _WHITE < max(known)
