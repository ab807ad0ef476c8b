"""Summary of a finished batch: percentiles, flags, labels, errors and photos to review.

Pure functions of an `EnrichedBatch`. Each artifact counts; only `extremes` and `failed_photos` list a photo once.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from curation_features.groups.photos import Kind
from curation_features.pipeline.merge import EnrichedBatch
from curation_features.schema import METRIC_NAMES, Measurement, PhotoRecord
from curation_features.signals.flags import FlagCount, count_flags

PERCENTILES = {"p05": 5, "p50": 50, "p95": 95}
MAIN_SIGNALS = ("blur_px", "noise_luma", "headroom_ev", "focus_px")
"""The signals of which percentiles are shown."""


@dataclass(frozen=True, slots=True)
class LabelShare:
    """Number of artifacts with this first label; `share` is their fraction of all labelled artifacts."""

    label: str
    artifacts: int
    share: float


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Number of artifacts with an error of one kind, and the first message."""

    stage: str
    reason: str
    artifacts: int
    message: str


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a batch: its position, enriched artifact and record."""

    position: int
    artifact: Mapping[str, Any]
    record: PhotoRecord


@dataclass(frozen=True, slots=True)
class Extreme:
    """One of the worst photos of a batch by one metric.

    Attributes:
        metric: name of the metric.
        cause: in a few words: "least sharp", "dark".
        measure: name of the raw measurement, or of the metric.
        value: its value, in the unit of `measure`.
    """

    metric: str
    cause: str
    measure: str
    value: float
    photo: Photo

    @property
    def description(self) -> str:
        """Cause and value: "least sharp (tenengrad 24.3)"."""
        number = f"{self.value:.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{self.cause} ({self.measure} {number})"


Percentiles = dict[str, dict[str, float]]
"""Percentiles by metric or signal, and name."""


def score_percentiles(merged: EnrichedBatch) -> Percentiles:
    """Compute the `PERCENTILES` of each metric that has scores, with linear interpolation."""
    scores = {metric: [_score(record, metric) for record in merged.records] for metric in METRIC_NAMES}
    return _percentiles(scores)


def signal_values(merged: EnrichedBatch, name: str) -> list[float | None]:
    """The values of a signal, of each artifact in order; None where undefined."""
    return [artifact["features"]["signals"][name] for artifact in merged.document["artifacts"]]


def signal_percentiles(merged: EnrichedBatch) -> Percentiles:
    """Compute the `PERCENTILES` of each of `MAIN_SIGNALS` that was measured, with linear interpolation."""
    return _percentiles({name: signal_values(merged, name) for name in MAIN_SIGNALS})


def _percentiles(values: Mapping[str, Sequence[float | None]]) -> Percentiles:
    percentiles: Percentiles = {}
    for name, given in values.items():
        if known := [value for value in given if value is not None]:
            found = np.percentile(known, [*PERCENTILES.values()])
            percentiles[name] = {key: float(value) for key, value in zip(PERCENTILES, found, strict=True)}
    return percentiles


def flagged_count(merged: EnrichedBatch) -> int:
    """Count the artifacts with at least one flag; hints do not count."""
    artifacts = merged.document["artifacts"]
    return sum(any(flag["kind"] == "flag" for flag in artifact["features"]["flags"]) for artifact in artifacts)


def label_distribution(merged: EnrichedBatch) -> list[LabelShare]:
    """Count the first labels, most frequent first, ties in batch order."""
    counts = merged.label_counts()
    total = sum(counts.values())
    return [LabelShare(label, count, count / total) for label, count in counts.items()]


def error_counts(merged: EnrichedBatch) -> list[ErrorCount]:
    """Count the errors by stage and reason, most frequent first, ties by name."""
    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    for artifact in merged.document["artifacts"]:
        errors = {(error["stage"], error["reason"]): error["message"] for error in artifact["features"]["errors"]}
        counts.update(errors.keys())
        messages = errors | messages
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [ErrorCount(*kind, count, messages[kind]) for kind, count in ordered]


def flag_counts(merged: EnrichedBatch) -> list[FlagCount]:
    """Count the flags and hints, flags first."""
    artifacts = merged.document["artifacts"]
    return count_flags((flag["name"], flag["kind"]) for artifact in artifacts for flag in artifact["features"]["flags"])


def group_counts(merged: EnrichedBatch) -> dict[str, int]:
    """Count the groups by kind: copies, bursts and sets."""
    groups = (artifact["features"]["group"] for artifact in merged.document["artifacts"])
    kinds = {group["id"]: group["kind"] for group in groups if group}
    return {kind: count for kind in get_args(Kind) if (count := [*kinds.values()].count(kind))}


def extremes(merged: EnrichedBatch, n: int = 3) -> list[Extreme]:
    """Find the `n` worst photos of the batch by each metric, in the order of `METRICS`, and the cause.

    These are photos to review first, not bad photos: the darkest photo of a good batch may be good. Photos are ordered
    by the raw measurement, because scores saturate; ties in batch order. Metrics without measurements, and photos with
    a perfect exposure, are skipped.
    """
    photos = list(_distinct(merged))
    selected = []
    for metric in METRIC_NAMES:
        measured = [photo for photo in photos if _score(photo.record, metric) is not None]
        ranked = [(_rank(metric, photo.record.measurements[metric]), photo) for photo in measured]
        finite = [(rank, photo) for rank, photo in ranked if math.isfinite(rank[0])]
        worst = heapq.nsmallest(n, finite, key=lambda entry: entry[0][0])
        selected += [Extreme(metric, cause, measure, value, photo) for (_, cause, measure, value), photo in worst]
    return selected


def failed_photos(merged: EnrichedBatch) -> list[Photo]:
    """List the photos without any measurement, in batch order."""
    return [photo for photo in _distinct(merged) if photo.artifact["features"]["status"] == "failed"]


def _distinct(merged: EnrichedBatch) -> Iterator[Photo]:
    """Yield the photos of a batch in order, each once; photos with the same bytes count as one."""
    seen: set[tuple[str, ...]] = set()
    for position, (artifact, record) in enumerate(zip(merged.document["artifacts"], merged.records, strict=True)):
        identity = (record.info.sha256,) if record.info else (record.photo_id, record.image_uri)
        if identity not in seen:
            seen.add(identity)
            yield Photo(position, artifact, record)


def _score(record: PhotoRecord, metric: str) -> float | None:
    measurement = record.measurements.get(metric)
    return None if measurement is None else measurement.score


# Ranking by metric --------------------------------------------------------------------------------------------------

_Ranking = tuple[float, str, str, float]
"""Rank (lowest first; NaN: skipped), cause, measure and value."""

_MEASURES = {
    "sharpness": ("least sharp", "tenengrad", 1),
    "noise": ("noisiest", "noise_sigma", -1),
    "clip_iqa": ("a bad photo to CLIP", "clip_iqa", 1),
    "brisque": ("least natural", "brisque_raw", -1),
}
"""Cause, measure, and 1 if its low values are bad, otherwise -1. CLIP-IQA has no raw measurement, but its score."""


def _rank(metric: str, measurement: Measurement) -> _Ranking:
    if metric == "exposure":
        return _rank_exposure(measurement)
    cause, measure, sign = _MEASURES[metric]
    value = {metric: measurement.score, **measurement.raw}.get(measure)
    value = math.nan if value is None else value
    return sign * value, cause, measure, value


def _rank_exposure(measurement: Measurement) -> _Ranking:
    """Rank by the unclamped score `0.5 M + 0.5 D - C`; the cause is its largest loss."""
    names = ("p1", "p50", "p99", "clipped_low", "clipped_high")
    p1, p50, p99, low, high = (measurement.raw.get(name, math.nan) for name in names)
    losses = [
        (abs(p50 - 0.5), "dark" if p50 < 0.5 else "bright", "p50", p50),
        ((1 - (p99 - p1)) / 2, "little contrast", "p99 - p1", p99 - p1),
        (low, "shadows clipped", "clipped_low", low),
        (high, "highlights clipped", "clipped_high", high),
    ]
    total = math.fsum(loss for loss, *_ in losses)
    _, cause, measure, value = max(losses, key=lambda loss: loss[0])
    return -total if total > 0 else math.nan, cause, measure, value
