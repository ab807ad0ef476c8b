"""Numbers that cause a warning beyond a threshold of the settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

MIN_PHOTOS = 10  # with labels, for a comparison of labels
MIN_HISTORY = 30


def degraded_share(statuses: Mapping[str, int]) -> float:
    """Fraction of photos that are `degraded` or `failed`; 0 for an empty batch.

    Args:
        statuses: numbers of photos by status (`ok`, `degraded`, `failed`).
    """
    return (statuses.get("degraded", 0) + statuses.get("failed", 0)) / max(sum(statuses.values()), 1)


def label_shift(counts: Mapping[str, int], history: Sequence[Mapping[str, int]]) -> float | None:
    """Distance of a batch's first labels from the last batches', 0 to 1.

    The total variation distance (half the sum of absolute differences of frequencies), minus its expectation for
    random batches of this size (the mean absolute deviation of each frequency in the normal approximation). None if the
    batch has fewer than `MIN_PHOTOS` photos with labels, or the history fewer than `MIN_HISTORY`.

    Args:
        counts: number of photos by first label.
        history: the same for the last batches; pooled, so that large batches weigh more.
    """
    before: Counter[str] = Counter()
    for batch in history:
        before.update(batch)
    photos, pooled = sum(counts.values()), before.total()
    if photos < MIN_PHOTOS or pooled < MIN_HISTORY:
        return None
    labels = sorted({*counts, *before})
    distance = sum(abs(counts.get(label, 0) / photos - before[label] / pooled) for label in labels) / 2
    fractions = ((counts.get(label, 0) + before[label]) / (photos + pooled) for label in labels)
    variances = (fraction * (1 - fraction) * (1 / photos + 1 / pooled) for fraction in fractions)
    return max(0.0, distance - sum(math.sqrt(2 / math.pi * variance) for variance in variances) / 2)


def flag_shift(flagged: int, photos: int, history: Sequence[tuple[int, int]]) -> float | None:
    """Difference of a batch's share of flagged photos from the last batches', 0 to 1.

    In either direction, minus its expectation for random batches of this size; None for few photos (see `label_shift`).

    Args:
        flagged: photos of the batch with a flag, of `photos` that were measured.
        history: the same two numbers for the last batches; pooled, so that large batches weigh more.
    """
    counts, *before = ({"flagged": some, "clear": every - some} for some, every in ((flagged, photos), *history))
    return label_shift(counts, before)


def cached_share(cached: int, photos: int, comparable: bool) -> float | None:
    """Fraction of photos that came from the cache; None if not comparable.

    Args:
        cached: photos for which nothing was computed.
        photos: all photos of the batch.
        comparable: whether all of them could come from the cache: not in a first run, nor under new versions.
    """
    return cached / photos if comparable and photos else None
