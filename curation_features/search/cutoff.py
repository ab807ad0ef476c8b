"""How many of the first results show what was asked for: an estimate.

A cosine has no meaning in itself: 0.2 may be a good match of one query and noise of another. Most photos of a library
show something else, so the lower half of all scores is noise. Scores that clearly exceed it are likely results, up to
the first large gap between two of them.

Source of the rule: the relevance filter of LrGeniusAI; here with another number of interquartile ranges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 20
"""Smallest number of photos with an estimate."""
RANGES = 4.5
"""Interquartile ranges above the median of the lower half; of normal noise, 3 standard deviations above its mean."""
GAP = 0.15
"""The first gap of this share of the distance from the best score to the noise ends the likely results."""
SAMPLED = 100_000
"""Number of scores from which the noise of a larger library is estimated: each second, third, ... one."""
SEARCHED = 100
"""Number of results in which a gap is searched."""


def noise_limit(scores: NDArray[np.floating]) -> float | None:
    """Return the score that noise rarely exceeds; None for fewer than `FEWEST` scores."""
    if len(scores) < FEWEST:
        return None
    scores = scores[:: max(1, len(scores) // SAMPLED)]
    quarter = len(scores) // 8  # of the lower half
    parts = np.partition(scores, [quarter, 2 * quarter, 3 * quarter])
    lower, middle, upper = (float(parts[place * quarter]) for place in (1, 2, 3))
    return middle + RANGES * (upper - lower)


def count_likely(best: NDArray[np.floating], limit: float | None) -> int | None:
    """Return how many of the best scores are likely results; None without a limit.

    Args:
        best: scores in descending order.
        limit: see `noise_limit`.
    """
    if limit is None:
        return None
    above = best[best > limit]
    if len(above) < 2:
        return len(above)
    gaps = (above[:-1] - above[1:])[:SEARCHED]
    large = np.flatnonzero(gaps >= GAP * (above[0] - limit))
    return int(large[0]) + 1 if large.size else len(above)
