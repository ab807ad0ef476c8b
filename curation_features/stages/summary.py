"""What a finished batch looks like at a glance: percentiles of its scores, its labels, its errors, its best and worst.

Pure functions over `Merged`. Artifacts of one photo count one by one, as they do in the artifacts that are written;
only `picks` shows a photo once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation_features.schema import METRICS, PhotoRecord
from curation_features.stages.merge import Merged

PERCENTILES = (5, 50, 95)


@dataclass(frozen=True, slots=True)
class LabelShare:
    """How many photos have a label as their first one; `share` is of all photos with labels, in [0, 1]."""

    label: str
    photos: int
    share: float


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """How many photos have an error of one kind, and the message of the first of them."""

    stage: str
    reason: str
    photos: int
    message: str


@dataclass(frozen=True, slots=True)
class Pick:
    """One photo of a batch: its enriched artifact, its record and its `overall` score."""

    artifact: Mapping[str, Any]
    record: PhotoRecord
    overall: float | None


@dataclass(frozen=True, slots=True)
class Picks:
    """Photos worth a look; none of them is in two of the three.

    Attributes:
        best: complete measurements only, best first.
        worst: the lowest of all that were measured, lowest first.
        failed: nothing was measured; in the order of the batch.
    """

    best: tuple[Pick, ...]
    worst: tuple[Pick, ...]
    failed: tuple[Pick, ...]


Percentiles = dict[str, dict[int, float]]
"""For each metric its percentiles, by rank."""


def score_percentiles(merged: Merged) -> Percentiles:
    """The `PERCENTILES` of each metric over what was measured, interpolated linearly; absent where nothing was."""
    found: Percentiles = {}
    for metric in METRICS:
        scores = [score for record in merged.records if (score := _score(record, metric.name)) is not None]
        if scores:
            values = np.percentile(scores, PERCENTILES)
            found[metric.name] = {rank: float(value) for rank, value in zip(PERCENTILES, values, strict=True)}
    return found


def label_distribution(merged: Merged) -> list[LabelShare]:
    """The first labels, most frequent first; ties in the order of the batch."""
    counts = merged.label_counts()
    total = sum(counts.values())
    return [LabelShare(label, photos, photos / total) for label, photos in counts.items()]


def error_counts(merged: Merged) -> list[ErrorCount]:
    """The errors by stage and reason, most frequent first; ties by name."""
    photos: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    for artifact in merged.document["artifacts"]:
        errors = {(error["stage"], error["reason"]): error["message"] for error in artifact["features"]["errors"]}
        photos.update(errors.keys())
        messages = errors | messages
    ordered = sorted(photos.items(), key=lambda item: (-item[1], item[0]))
    return [ErrorCount(*kind, count, messages[kind]) for kind, count in ordered]


def overall(record: PhotoRecord) -> float | None:
    """The mean of the measured scores, each turned so that 1 is best, in [0, 1]; None where nothing was measured.

    It only puts photos in an order to look at them; it is no judgement of their worth.
    """
    turned = [
        score if metric.best else 1.0 - score
        for metric in METRICS
        if (score := _score(record, metric.name)) is not None
    ]
    return math.fsum(turned) / len(turned) if turned else None


def picks(merged: Merged, n: int = 3) -> Picks:
    """The best and the worst `n` photos by `overall`, and all that failed.

    Ties go by the order of the batch. Of a batch with less than `2 n` measured photos, the best get the larger half.
    Only `ok` photos are among the best: a mean over fewer scores says less.
    """
    photos = list(_distinct(merged))
    measured = [(pick.overall, place, pick) for place, pick in enumerate(photos) if pick.overall is not None]
    falling = [pick for _, _, pick in sorted(measured, key=lambda entry: (-entry[0], entry[1]))]
    rising = [pick for _, _, pick in sorted(measured, key=lambda entry: entry[:2])]
    best = [pick for pick in falling if _status(pick) == "ok"][: min(n, (len(measured) + 1) // 2)]
    worst = [pick for pick in rising if pick not in best][:n]
    failed = [pick for pick in photos if _status(pick) == "failed"]
    return Picks(tuple(best), tuple(worst), tuple(failed))


def _distinct(merged: Merged) -> Iterator[Pick]:
    """The photos of a batch in order, each once, under whatever ids its bytes go."""
    seen: set[tuple[str, ...]] = set()
    for artifact, record in zip(merged.document["artifacts"], merged.records, strict=True):
        identity = (record.info.sha256,) if record.info else (record.photo_id, record.image_uri)
        if identity not in seen:
            seen.add(identity)
            yield Pick(artifact, record, overall(record))


def _status(pick: Pick) -> str:
    return str(pick.artifact["features"]["status"])


def _score(record: PhotoRecord, metric: str) -> float | None:
    measurement = record.measurements.get(metric)
    return None if measurement is None else measurement.score
