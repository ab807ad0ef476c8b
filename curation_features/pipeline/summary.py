"""What a finished batch looks like at a glance: percentiles of its scores, its labels, its errors, what to look at.

Pure functions over `EnrichedBatch`. Artifacts of one photo count one by one, as they do in the result; only
`extremes` and `failed_photos` name a photo once.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation_features.pipeline.merge import EnrichedBatch
from curation_features.schema import METRICS, Measurement, PhotoRecord

PERCENTILES = {"p05": 5, "p50": 50, "p95": 95}


@dataclass(frozen=True, slots=True)
class LabelShare:
    """How many artifacts have a label as their first one; `share` is of all that have labels, in [0, 1]."""

    label: str
    artifacts: int
    share: float


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """How many artifacts have an error of one kind, and the message of the first of them."""

    stage: str
    reason: str
    artifacts: int
    message: str


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a batch: its place in it, its enriched artifact and its record."""

    position: int
    artifact: Mapping[str, Any]
    record: PhotoRecord


@dataclass(frozen=True, slots=True)
class Extreme:
    """A photo at the bad end of one metric, among the photos of its batch.

    Attributes:
        metric: name of the metric.
        cause: why it stands there, in a few words: "least sharp", "dark".
        measure: what was measured: the name of a raw measurement, or of the metric.
        value: the number that was measured, in the unit of `measure`.
    """

    metric: str
    cause: str
    measure: str
    value: float
    photo: Photo

    @property
    def told(self) -> str:
        """Cause and number: "least sharp (tenengrad 24.3)"."""
        number = f"{self.value:.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{self.cause} ({self.measure} {number})"


Percentiles = dict[str, dict[str, float]]
"""For each metric its percentiles, by name."""


def score_percentiles(merged: EnrichedBatch) -> Percentiles:
    """The `PERCENTILES` of each metric over what was measured, interpolated linearly; absent where nothing was."""
    found: Percentiles = {}
    for metric in METRICS:
        scores = [score for record in merged.records if (score := _score(record, metric.name)) is not None]
        if scores:
            values = np.percentile(scores, [*PERCENTILES.values()])
            found[metric.name] = {name: float(value) for name, value in zip(PERCENTILES, values, strict=True)}
    return found


def label_distribution(merged: EnrichedBatch) -> list[LabelShare]:
    """The first labels, most frequent first; ties in the order of the batch."""
    counts = merged.label_counts()
    total = sum(counts.values())
    return [LabelShare(label, count, count / total) for label, count in counts.items()]


def error_counts(merged: EnrichedBatch) -> list[ErrorCount]:
    """The errors by stage and reason, most frequent first; ties by name."""
    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    for artifact in merged.document["artifacts"]:
        errors = {(error["stage"], error["reason"]): error["message"] for error in artifact["features"]["errors"]}
        counts.update(errors.keys())
        messages = errors | messages
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [ErrorCount(*kind, count, messages[kind]) for kind, count in ordered]


def extremes(merged: EnrichedBatch, n: int = 3) -> list[Extreme]:
    """For each metric, in the order of `METRICS`, the `n` photos at its bad end in this batch, and the cause.

    They are what to look at first, and no judgement: the darkest photo of a good batch may be a good photo. The raw
    measurement decides, as scores saturate; ties go by the order of the batch. Absent are metrics that nothing
    measured, and photos that lose nothing.
    """
    photos = list(_distinct(merged))
    found = []
    for metric, finding in _FINDINGS.items():
        measured = [photo for photo in photos if _score(photo.record, metric) is not None]
        ranked = ((finding(photo.record.measurements[metric]), photo) for photo in measured)
        worst = heapq.nsmallest(
            n, (entry for entry in ranked if math.isfinite(entry[0][0])), key=lambda entry: entry[0][0]
        )
        found += [Extreme(metric, cause, measure, value, photo) for (_, cause, measure, value), photo in worst]
    return found


def failed_photos(merged: EnrichedBatch) -> list[Photo]:
    """The photos of which nothing was measured, in the order of the batch."""
    return [photo for photo in _distinct(merged) if photo.artifact["features"]["status"] == "failed"]


def _distinct(merged: EnrichedBatch) -> Iterator[Photo]:
    """The photos of a batch in order, each once, under whatever ids its bytes go."""
    seen: set[tuple[str, ...]] = set()
    for position, (artifact, record) in enumerate(zip(merged.document["artifacts"], merged.records, strict=True)):
        identity = (record.info.sha256,) if record.info else (record.photo_id, record.image_uri)
        if identity not in seen:
            seen.add(identity)
            yield Photo(position, artifact, record)


def _score(record: PhotoRecord, metric: str) -> float | None:
    measurement = record.measurements.get(metric)
    return None if measurement is None else measurement.score


# The bad end of each metric ------------------------------------------------------------------------------------------

_Finding = tuple[float, str, str, float]
"""Rank (lowest first; NaN: not among them), cause, measure and value."""

_NOTHING: _Finding = (math.nan, "", "", math.nan)


def _by_raw(name: str, cause: str, sign: int) -> Callable[[Measurement], _Finding]:
    """By a raw measurement; `sign` is 1 where low is bad, and -1 where high is."""

    def finding(measurement: Measurement) -> _Finding:
        value = measurement.raw.get(name, math.nan)
        return sign * value, cause, name, value

    return finding


def _by_clip_iqa(measurement: Measurement) -> _Finding:
    """By the score, as it has no raw measurement."""
    value = math.nan if measurement.score is None else measurement.score
    return value, "a bad photo to CLIP", "clip_iqa", value


def _by_exposure(measurement: Measurement) -> _Finding:
    """By the score before it is limited, `0.5 M + 0.5 D - C`; the cause is the part that costs most of it."""
    names = ("p1", "p50", "p99", "clipped_low", "clipped_high")
    p1, p50, p99, low, high = (measurement.raw.get(name, math.nan) for name in names)
    costs = [
        (abs(p50 - 0.5), "dark" if p50 < 0.5 else "bright", "p50", p50),
        ((1 - (p99 - p1)) / 2, "little contrast", "p99 - p1", p99 - p1),
        (low, "shadows clipped", "clipped_low", low),
        (high, "highlights clipped", "clipped_high", high),
    ]
    lost = math.fsum(cost for cost, *_ in costs)
    if not lost > 0:  # NaN, too
        return _NOTHING
    return (-lost, *max(costs, key=lambda cost: cost[0])[1:])


_FINDINGS: Mapping[str, Callable[[Measurement], _Finding]] = {
    "sharpness": _by_raw("tenengrad", "least sharp", 1),
    "exposure": _by_exposure,
    "noise": _by_raw("noise_sigma", "noisiest", -1),
    "clip_iqa": _by_clip_iqa,
    "brisque": _by_raw("brisque_raw", "least natural", -1),
}
