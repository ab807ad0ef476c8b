"""`FeaturesService`: one batch, dict in, dict out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from curation_features.manifest import Batch, batch_from
from curation_features.pipeline import EnrichedBatch, FeatureStages, RunStats, log_batch, merge
from curation_features.pipeline.grouped import Compared
from curation_features.pipeline.plan import ALL_PARTS, feature_versions
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings, load_settings


class FeaturesService:
    """Adds `features` to every artifact of a batch from the preprocess service.

    >>> service = FeaturesService()            # cheap: models load on first need, once
    >>> result = service.process(batch)        # doctest: +SKIP
    >>> result["artifacts"][0]["features"]["clip_labels"][0]   # doctest: +SKIP
    {'label': 'landscape', 'confidence': 0.91, 'cosine_score': 0.27}

    A service is thread-safe. If a photo cannot be read, or a metric is undefined for it, only that value is missing: it
    becomes a default with an entry in `errors`, and `status` reports it.

    Args:
        settings: by default those of the current project (see `load_settings`).
        stages: replaces the stages and their models: `FeatureStages(settings, models=...)`, for example with fakes from
            `curation_features.testing`.
    """

    def __init__(self, settings: Settings | None = None, *, stages: FeatureStages | None = None) -> None:
        if settings is not None and stages is not None:
            raise ValueError("give either settings or stages (stages have their own settings), not both")
        self._settings = settings
        self._stages = stages
        self._lock = threading.Lock()

    def process(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Add `features` to every artifact of a batch; all other fields stay unchanged.

        Args:
            batch: `{"batch_id": ..., "artifacts": [...]}`, or a CloudEvents 1.0 `preprocess.completed` event with it as
                its `data`. `"vocabulary": NAME` selects the labels.

        Raises:
            ManifestError: the batch is invalid; names the field and its position.
            SettingsError: settings, labels or templates are invalid, or the vocabulary does not exist.
            WeightsError: a model cannot be used (`MissingWeightsError`, `InvalidWeightsError`), and settings do not
                permit a degraded run.
            ResourceError: the machine ran out of memory, disk or file descriptors.
        """
        return self.run(batch_from(batch)).document

    def run(self, batch: Batch, each: Callable[[PhotoRecord], None] | None = None) -> EnrichedBatch:
        """Process a parsed batch; the result also contains the photos' records.

        Args:
            each: called with each photo's finished record, which still has its embedding and fingerprint.
        """
        stages = self._feature_stages().for_batch(batch)
        stats = RunStats()
        plan = stages.plan(ALL_PARTS)
        records = []
        with Compared() as compared:
            for record in stats.counted(stages.label(stages.measure(batch, plan, stats), plan, stats)):
                if each is not None:
                    each(record)
                compared.add(record)
                # Labelled and noted: frees memory in long batches.
                if record.embedding is not None:
                    record.embedding = replace(record.embedding, vector=None)
                if record.fingerprint is not None:
                    record.fingerprint = replace(record.fingerprint, data=None)
                records.append(record)
            with stats.timing("merge"):
                version = feature_versions(plan, stages.settings)
                labels = stages.classifier.vocabulary.labels
                merged = merge(batch, records, version, labels, stages.settings, compared)
        log_batch(batch, merged, stats)
        return merged

    def _feature_stages(self) -> FeatureStages:
        with self._lock:
            if self._stages is None:
                self._stages = FeatureStages(self._settings or load_settings())
            return self._stages
