"""Exposure: how near the median is to mid-gray, how much of the range is used, how much is clipped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from curation_features.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def histogram(gray: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Pixels at each of the 256 gray levels."""
    return np.bincount(gray.ravel(), minlength=256)


def percentiles(counts: NDArray[np.intp], percents: Sequence[float]) -> list[float]:
    """Percentiles of the pixels in a histogram, equal to the last bit to `np.percentile(gray, percents)`.

    Args:
        counts: pixels at each gray level.
        percents: 0..100.

    Returns:
        Gray levels, interpolated linearly between the two nearest pixels in rank.
    """
    ranks = np.cumsum(counts)
    return [_at_rank(ranks, (int(ranks[-1]) - 1) * (percent / 100)) for percent in percents]


def _at_rank(ranks: NDArray[np.intp], rank: float) -> float:
    """Gray level at a fractional rank; `ranks` are cumulated counts."""
    below = math.floor(rank)
    share = rank - below
    last = int(ranks[-1]) - 1
    low, high = (int(np.searchsorted(ranks, min(place, last), side="right")) for place in (below, below + 1))
    # np.percentile interpolates from the nearer end; rounding differs otherwise.
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def exposure(preview: NDArray[np.uint8], *, clip_low: int, clip_high: int) -> Measurement:
    """Score `clamp(0.5 M + 0.5 D - C)`: 1 is a mid-gray median, the whole range used and nothing clipped.

    `M = 1 - 2 |p50 - 0.5|` is the midtone proximity, `D = p99 - p1` the dynamic range, with percentiles as shares
    of full scale, and `C` the share of pixels clipped at either end.

    Args:
        preview: (H, W), 0..255.
        clip_low: gray levels at or under this are clipped.
        clip_high: gray levels at or over this are clipped.
    """
    counts = histogram(preview)
    p1, p50, p99 = (level / 255 for level in percentiles(counts, (1, 50, 99)))
    low = float(counts[: clip_low + 1].sum()) / preview.size
    high = float(counts[clip_high:].sum()) / preview.size
    midtone, dynamic_range = 1 - 2 * abs(p50 - 0.5), p99 - p1
    return Measurement(
        score=min(max(0.5 * midtone + 0.5 * dynamic_range - (low + high), 0.0), 1.0),
        raw={"p1": p1, "p50": p50, "p99": p99, "clipped_low": low, "clipped_high": high},
    )
