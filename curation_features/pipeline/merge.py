"""Records become features, and features join the artifacts they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curation_features.clip.labels import fallback_prediction
from curation_features.manifest import Batch, distinct_photos, enrich
from curation_features.schema import (
    METRICS,
    RETRYABLE_REASONS,
    STATUSES,
    FeatureError,
    LabelPrediction,
    Measurement,
    PhotoRecord,
)
from curation_features.storage.tables import Row, feature_row


@dataclass(frozen=True, slots=True)
class EnrichedBatch:
    """The enriched document of a batch, with the records that it was made of.

    Attributes:
        document: the manifest with `features` on every artifact.
        records: one for each artifact, in order; artifacts of the same photo share one.
        version: the `version` of the features.
        labels: the vocabulary, in the order of the records' cosines.
    """

    document: dict[str, Any]
    records: Sequence[PhotoRecord]
    version: Mapping[str, str]
    labels: Sequence[str] = ()

    def rows(self) -> Iterator[Row]:
        """The rows of the features table."""
        batch_id = self.document["batch_id"]
        for position, (artifact, record) in enumerate(zip(self.document["artifacts"], self.records, strict=True)):
            yield feature_row(batch_id, position, artifact, record)

    def statuses(self) -> dict[str, int]:
        """How many artifacts are `ok`, `degraded` and `failed`."""
        found = Counter(artifact["features"]["status"] for artifact in self.document["artifacts"])
        return {status: found[status] for status in STATUSES}

    def retryable(self) -> int:
        """How many artifacts have an error that another run may not meet."""
        errors = (artifact["features"]["errors"] for artifact in self.document["artifacts"])
        return sum(any(error["reason"] in RETRYABLE_REASONS for error in found) for found in errors)

    def label_counts(self) -> dict[str, int]:
        """How many artifacts have each first label, most frequent first."""
        first = Counter(
            record.prediction.labels[0].label
            for record in self.records
            if record.prediction is not None and record.prediction.error is None and record.prediction.labels
        )
        return dict(first.most_common())


def merge(
    batch: Batch,
    records: Sequence[PhotoRecord],
    version: Mapping[str, str],
    labels: Sequence[str],
    fallback: Sequence[str],
) -> EnrichedBatch:
    """Put the features of each photo on its artifacts; every other field stays as it came.

    Args:
        records: one for each distinct photo of the batch, in order.
        version: the record's `version`: `{"technical": ..., "clip": ...}`.
        labels: the vocabulary, whose first labels stand in where none could be computed.
        fallback: labels that stand in instead, if any.
    """
    by_position: dict[int, PhotoRecord] = {}
    for record, positions in zip(records, distinct_photos(batch).values(), strict=True):
        by_position.update(dict.fromkeys(positions, record))
    ordered = [by_position[position] for position in range(len(batch.artifacts))]
    features = [features_of(record, version, labels, fallback) for record in ordered]
    return EnrichedBatch(enrich(batch, features), ordered, version, labels)


def features_of(
    record: PhotoRecord, version: Mapping[str, str], labels: Sequence[str], fallback: Sequence[str] = ()
) -> dict[str, Any]:
    """The feature record of one photo: what was measured, and defaults with an error where nothing was."""
    measured = {metric.name: record.measurements.get(metric.name, Measurement()) for metric in METRICS}
    prediction = record.prediction or LabelPrediction()
    if not prediction.labels:
        prediction = fallback_prediction(
            tuple(labels), prediction.error or _never_computed("clip_labels"), tuple(fallback)
        )
    errors = [record.failure] if record.failure else _errors(measured, prediction)
    scores = {name: measurement.score for name, measurement in measured.items()}
    anything = any(score is not None for score in scores.values()) or prediction.error is None
    return {
        "tech": {
            metric.name: metric.default if scores[metric.name] is None else scores[metric.name] for metric in METRICS
        },
        "clip_labels": [label._asdict() for label in prediction.labels],
        "status": "ok" if not errors else "degraded" if anything else "failed",
        "errors": [asdict(error) for error in errors],
        "version": dict(version),
    }


def _errors(measured: Mapping[str, Measurement], prediction: LabelPrediction) -> list[FeatureError]:
    found = [
        measurement.error or _never_computed(name)
        for name, measurement in measured.items()
        if measurement.score is None
    ]
    return [*found, prediction.error] if prediction.error else found


def _never_computed(stage: str) -> FeatureError:
    return FeatureError(stage, "not_computed", f"{stage} was not computed in this run")
