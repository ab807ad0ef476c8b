"""Exposure: midtone proximity, dynamic range and clipping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from curation_features.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def percentiles(counts: NDArray[np.intp], percents: Sequence[float]) -> list[float]:
    """Return `np.percentile(gray, percents)`, bit for bit, from a histogram: about 15 times as fast.

    Args:
        counts: (256,), pixels at each gray level.
        percents: 0..100.

    Returns:
        Gray levels, interpolated linearly between the two nearest pixels in rank.
    """
    ranks = np.cumsum(counts)
    last = int(ranks[-1]) - 1
    return [_interpolate(ranks, last * (percent / 100), last) for percent in percents]


def _interpolate(ranks: NDArray[np.intp], rank: float, last: int) -> float:
    """Gray level at a fractional rank in [0, last]; `ranks` are cumulative counts."""
    below = math.floor(rank)
    fraction = rank - below
    low, high = (int(np.searchsorted(ranks, min(index, last), side="right")) for index in (below, below + 1))
    # Like np.percentile, interpolate from the nearer end: the last bit depends on it.
    return high - (high - low) * (1 - fraction) if fraction >= 0.5 else low + (high - low) * fraction


def exposure(preview: NDArray[np.uint8], *, clip_low: int, clip_high: int) -> Measurement:
    """Score exposure as `clamp(0.5 M + 0.5 D - C)`.

    `M = 1 - 2 |p50 - 0.5|` is the midtone proximity, `D = p99 - p1` the dynamic range and `C` the fraction of clipped
    pixels. Percentiles are fractions of full scale. 1: mid-gray median, full range, no clipping.

    Args:
        preview: (H, W), 0..255.
        clip_low: highest gray level that counts as clipped shadow.
        clip_high: lowest gray level that counts as clipped highlight.
    """
    counts = np.bincount(preview.ravel(), minlength=256)
    p1, p50, p99 = (level / 255 for level in percentiles(counts, (1, 50, 99)))
    low = float(counts[: clip_low + 1].sum()) / preview.size
    high = float(counts[clip_high:].sum()) / preview.size
    midtone, dynamic_range = 1 - 2 * abs(p50 - 0.5), p99 - p1
    return Measurement(
        score=min(max(0.5 * midtone + 0.5 * dynamic_range - (low + high), 0.0), 1.0),
        raw={"p1": p1, "p50": p50, "p99": p99, "clipped_low": low, "clipped_high": high},
    )
