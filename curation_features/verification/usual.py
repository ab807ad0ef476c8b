"""Is a batch as batches usually are? Numbers that are worth a warning beyond a threshold of the settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

MIN_PHOTOS = 10  # with labels, for a comparison of labels
MIN_HISTORY = 30


def degraded_share(statuses: Mapping[str, int]) -> float:
    """Share of a batch's photos that are `degraded` or `failed`, 0 to 1; 0 for a batch without photos.

    Args:
        statuses: how many photos are `ok`, `degraded` and `failed`.
    """
    return (statuses.get("degraded", 0) + statuses.get("failed", 0)) / max(sum(statuses.values()), 1)


def label_shift(counts: Mapping[str, int], history: Sequence[Mapping[str, int]]) -> float | None:
    """How far a batch's first labels are from those of the last batches: 0 (the same shares) to 1 (none in common).

    The total variation distance, half the sum of absolute differences of shares, less the distance that a batch of
    this size has by chance alone (the mean absolute deviation of each share, by the normal approximation). None for
    fewer than `MIN_PHOTOS` photos with labels in the batch or `MIN_HISTORY` before it, which say too little.

    Args:
        counts: how many photos of the batch have each first label.
        history: the same of the last batches; they are pooled, so that large batches count for more.
    """
    before: Counter[str] = Counter()
    for batch in history:
        before.update(batch)
    photos, pooled = sum(counts.values()), before.total()
    if photos < MIN_PHOTOS or pooled < MIN_HISTORY:
        return None
    labels = sorted({*counts, *before})
    distance = sum(abs(counts.get(label, 0) / photos - before[label] / pooled) for label in labels) / 2
    shares = ((counts.get(label, 0) + before[label]) / (photos + pooled) for label in labels)
    variances = (share * (1 - share) * (1 / photos + 1 / pooled) for share in shares)
    return max(0.0, distance - sum(math.sqrt(2 / math.pi * variance) for variance in variances) / 2)


def cached_share(cached: int, photos: int, comparable: bool) -> float | None:
    """Share of a batch's photos that came out of the cache, 0 to 1; None where that says nothing.

    Args:
        cached: photos for which nothing was computed.
        photos: all photos of the batch.
        comparable: whether all of them could come out of the cache: not the first time, nor under new versions.
    """
    return cached / photos if comparable and photos else None
