"""Merge: records become features, which are added to their artifacts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curation_features.clip.labels import fallback_prediction
from curation_features.manifest import Batch, distinct_photos, enrich
from curation_features.photos.locations import Locations
from curation_features.pipeline.grouped import Compared, Kept, group_batch
from curation_features.pipeline.signals_of_photo import signals_of_photo
from curation_features.schema import (
    METRICS,
    RETRYABLE_REASONS,
    SIGNAL_PARTS,
    STATUSES,
    FeatureError,
    LabelPrediction,
    Measurement,
    PhotoRecord,
    Signals,
)
from curation_features.settings import Settings
from curation_features.signals.flags import Limits, flags, limits_of
from curation_features.storage.tables import Row, feature_row

_MISSING = Signals()


@dataclass(frozen=True, slots=True)
class EnrichedBatch:
    """The enriched document of a batch, and its records.

    Attributes:
        document: the manifest with `features` on every artifact.
        records: one per artifact, in order; artifacts of one photo share a record.
        version: `version` of the features.
        labels: the vocabulary, in the order of the records' cosines.
        groups: digest of all that the groups depend on; empty: unknown, or there are none.
    """

    document: dict[str, Any]
    records: Sequence[PhotoRecord]
    version: Mapping[str, str]
    labels: Sequence[str] = ()
    groups: str = ""

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the features table."""
        batch_id = self.document["batch_id"]
        for position, (artifact, record) in enumerate(zip(self.document["artifacts"], self.records, strict=True)):
            yield feature_row(batch_id, position, artifact, record)

    def statuses(self) -> dict[str, int]:
        """Count the artifacts by status: `ok`, `degraded`, `failed`."""
        counts = Counter(artifact["features"]["status"] for artifact in self.document["artifacts"])
        return {status: counts[status] for status in STATUSES}

    def retryable(self) -> int:
        """Count the artifacts with an error that may be gone in another run."""
        return sum(
            any(error["reason"] in RETRYABLE_REASONS for error in artifact["features"]["errors"])
            for artifact in self.document["artifacts"]
        )

    def label_counts(self) -> dict[str, int]:
        """Count the artifacts by first label, most frequent first."""
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
    settings: Settings,
    compared: Compared | None = None,
    kept: Kept = lambda digest: None,
) -> EnrichedBatch:
    """Add the features of each photo to its artifacts; all other fields stay unchanged.

    Args:
        records: one per distinct photo of the batch, in order.
        version: `{"technical": ..., "clip": ..., "signals": ..., "groups": ...}`.
        labels: the vocabulary; its first labels are the default labels.
        settings: the limits of the flags, and other default labels, if any.
        compared: the fingerprints and vectors of the records, for groups; None: no photo gets a group.
        kept: finds groups that were made before.
    """
    by_position: dict[int, int] = {}
    for number, (_, positions) in enumerate(zip(records, distinct_photos(batch).values(), strict=True)):
        by_position.update(dict.fromkeys(positions, number))
    numbers = [by_position[position] for position in range(len(batch.artifacts))]
    ordered = [records[number] for number in numbers]
    limits = limits_of(settings)
    features = [
        features_of(record, artifact, version, labels, limits, settings.fallback_labels)
        for record, artifact in zip(ordered, batch.document["artifacts"], strict=True)
    ]
    digest = ""
    if compared is not None:
        artifacts, signals = batch.document["artifacts"], [found["signals"] for found in features]
        locations, rules = Locations(settings.root), version.get("groups")
        groups = group_batch(ordered, artifacts, signals, numbers, compared, locations, rules, kept)
        for position, group in groups.by_place.items():
            features[position]["group"] = group
        digest = groups.digest
    return EnrichedBatch(enrich(batch, features), ordered, version, labels, digest)


def features_of(
    record: PhotoRecord,
    artifact: Mapping[str, Any],
    version: Mapping[str, str],
    labels: Sequence[str],
    limits: Limits,
    fallback: Sequence[str],
) -> dict[str, Any]:
    """Build the feature record of a photo: measurements, or defaults with an error; `group` is None."""
    measured = {metric.name: record.measurements.get(metric.name, Measurement()) for metric in METRICS}
    prediction = record.prediction or LabelPrediction()
    if not prediction.labels:
        prediction = fallback_prediction(
            tuple(labels), prediction.error or _not_computed("clip_labels"), tuple(fallback)
        )
    errors = [record.failure] if record.failure else _collect_errors(measured, record, prediction)
    signals = signals_of_photo(record, artifact)
    scores = {name: measurement.score for name, measurement in measured.items()}
    is_measured = any(score is not None for score in scores.values()) or prediction.error is None
    return {
        "tech": {
            metric.name: metric.default if scores[metric.name] is None else scores[metric.name] for metric in METRICS
        },
        "clip_labels": [label._asdict() for label in prediction.labels],
        "status": "ok" if not errors else "degraded" if is_measured else "failed",
        "errors": [asdict(error) for error in errors],
        "version": dict(version),
        "signals": signals,
        "flags": [asdict(flag) for flag in flags(signals, limits)],
        "embedding_norm": record.embedding.norm if record.embedding else None,
        "group": None,
    }


def _collect_errors(
    measured: Mapping[str, Measurement], record: PhotoRecord, prediction: LabelPrediction
) -> list[FeatureError]:
    errors = [
        measurement.error or _not_computed(name) for name, measurement in measured.items() if measurement.score is None
    ]
    missing = ((part, record.signals.get(part, _MISSING)) for part in SIGNAL_PARTS)
    errors += [found.error or _not_computed(part) for part, found in missing if not found.values]
    if record.fingerprint is not None and record.fingerprint.error is not None:
        errors.append(record.fingerprint.error)
    return [*errors, prediction.error] if prediction.error else errors


def _not_computed(stage: str) -> FeatureError:
    return FeatureError(stage, "not_computed", f"{stage} was not computed in this run")
