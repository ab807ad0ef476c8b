"""`FeaturesService`: one batch, dict in, dict out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from curation_features.manifest import Batch, batch_from
from curation_features.pipeline import EnrichedBatch, FeatureStages, RunStats, log_batch, merge
from curation_features.pipeline.plan import ALL_PARTS
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings, load_settings


class FeaturesService:
    """Adds `features` to every artifact of a batch from the preprocess service.

    >>> service = FeaturesService()            # cheap: models load on first need, once
    >>> result = service.process(batch)        # doctest: +SKIP
    >>> result["artifacts"][0]["features"]["clip_labels"][0]   # doctest: +SKIP
    {'label': 'landscape', 'confidence': 0.91, 'cosine_score': 0.27}

    One service may be called from several threads. A photo that cannot be read, or a metric that has no value for it,
    costs that value only: it becomes a default with an entry in `errors`, and `status` says so.

    Args:
        settings: by default those of the current project (see `load_settings`).
        stages: replaces the steps and the models behind them:
            `FeatureStages(settings, models=...)`, with fakes from `curation_features.testing`, say.
    """

    def __init__(self, settings: Settings | None = None, *, stages: FeatureStages | None = None) -> None:
        if settings is not None and stages is not None:
            raise ValueError("give settings, or stages that have settings of their own; not both")
        self._settings = settings
        self._stages = stages
        self._lock = threading.Lock()

    def process(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with `features` on every artifact; every other field comes out as it came in.

        Args:
            batch: `{"batch_id": ..., "artifacts": [...]}`, or a CloudEvents 1.0 `preprocess.completed` event
                that has it as its `data`. A `"vocabulary": NAME` in it names the labels that it is to have.

        Raises:
            ManifestError: the batch can never be processed; names the field and its position.
            SettingsError: settings, labels or templates cannot be used, or there is no such vocabulary.
            WeightsError: a model cannot be used (`MissingWeightsError`, `InvalidWeightsError`), and settings do not
                permit a degraded run.
            ResourceError: the machine has run out of something that every photo needs.
        """
        return self.run(batch_from(batch)).document

    def run(self, batch: Batch, each: Callable[[PhotoRecord], None] | None = None) -> EnrichedBatch:
        """Like `process`, for a batch that is parsed already; also gives the records behind the document.

        Args:
            each: takes each photo's record when it is finished, while it has its image vector still.
        """
        stages = self._feature_stages().for_batch(batch)
        stats = RunStats()
        plan = stages.plan(ALL_PARTS)
        records = []
        for record in stats.counted(stages.label(stages.measure(batch, plan, stats), plan, stats)):
            if each is not None:
                each(record)
            record.embedding = None  # labels are made, and vectors are large: a long batch need not hold them
            records.append(record)
        with stats.timing("merge"):
            version = {"technical": plan.technical_version, "clip": plan.clip_version}
            labels = stages.classifier.vocabulary.labels
            merged = merge(batch, records, version, labels, stages.settings.fallback_labels)
        log_batch(batch, merged, stats)
        return merged

    def _feature_stages(self) -> FeatureStages:
        with self._lock:
            if self._stages is None:
                self._stages = FeatureStages(self._settings or load_settings())
            return self._stages
