"""`FeatureStages`: the stages of a batch and their shared models, cache and vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.label_embeddings import file_name, stored_version
from curation_features.clip.vocabulary import Vocabulary, named_vocabulary
from curation_features.errors import WeightsError
from curation_features.manifest import Batch
from curation_features.pipeline.labels import with_labels
from curation_features.pipeline.observer import LogObserver, Observer
from curation_features.pipeline.pixels import Earlier, PixelPass
from curation_features.pipeline.plan import UNMEASURED, Models, Plan, make_plan, tolerated
from curation_features.pipeline.stats import RunStats
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache


class FeatureStages:
    """The stages of a batch, with shared models, cache and vocabulary.

    Args:
        settings: settings of the run.
        vocabulary: vocabulary of every batch; by default the one that the batch names, or else the project's.
        models: replaces the models that the settings name (see `curation_features.testing` for fakes). Their loading
            is reported only if they were created with the observer (`Models.from_settings`).
        cache: replaces the cache in the data folder.
        observer: receives the progress of the run; by default missing models are logged.

    Raises:
        SettingsError: labels or templates are unusable.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        vocabulary: Vocabulary | None = None,
        models: Models | None = None,
        cache: FeatureCache | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.settings = settings
        self.observer = observer or LogObserver()
        self.models = models or Models.from_settings(settings, self.observer)
        self.cache = cache or FeatureCache(settings.cache_path)
        self.classifier = self._create_classifier(vocabulary)
        self._is_fixed = vocabulary is not None
        self._named: dict[str, CLIPClassifier] = {}
        self._pixels = PixelPass(settings, self.models, self.cache, self.observer)
        self._reported: set[str] = set()

    def for_batch(self, batch: Batch) -> FeatureStages:
        """Return these stages with the batch's vocabulary, read again if its file has changed.

        Raises:
            SettingsError: the vocabulary is unknown or unusable.
        """
        if batch.vocabulary is None or self._is_fixed:
            return self
        vocabulary = named_vocabulary(self.settings, batch.vocabulary)
        classifier = self._named.get(batch.vocabulary)
        if classifier is None or classifier.vocabulary != vocabulary:
            classifier = self._named[batch.vocabulary] = self._create_classifier(vocabulary)
        bound = copy.copy(self)
        bound.classifier = classifier
        return bound

    def _create_classifier(self, vocabulary: Vocabulary | None) -> CLIPClassifier:
        return CLIPClassifier(
            self.settings,
            labels=vocabulary.labels if vocabulary else None,
            templates=vocabulary.templates if vocabulary else None,
            engine=self.models.clip,
            label_file=self.cache.folder / file_name(vocabulary) if vocabulary else self.cache.label_embeddings,
            building=self.observer.labels_embedding,
        )

    def plan(self, parts: Collection[str]) -> Plan:
        """Plan `parts`: versions and missing models. Raises `WeightsError` unless settings allow degraded runs."""
        plan = make_plan(self.settings, self.models, self.classifier.vocabulary, parts)
        for failure in plan.failures:
            if failure.summary not in self._reported:
                self._reported.add(failure.summary)
                self.observer.degraded(failure)
        return plan

    def measure(
        self, batch: Batch, plan: Plan, stats: RunStats, earlier: Earlier | None = None
    ) -> Iterator[PhotoRecord]:
        """Measure the distinct photos of a batch; see `PixelPass.records`."""
        return self._pixels.records(batch, plan, stats, earlier)

    def label(self, records: Iterable[PhotoRecord], plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        """Add labels to records, from the cache or from their embeddings."""
        return with_labels(records, self.classifier, self.cache, plan, stats)

    def ensure_label_embeddings(self, plan: Plan) -> str:
        """Compute the label embeddings if the stored ones are out of date.

        Returns:
            Their version; `UNMEASURED` without a model.
        """
        if "labels" in plan.missing:
            return UNMEASURED
        version = self.classifier.label_version
        if stored_version(self.classifier.label_file) != version:
            try:
                self.classifier.label_embeddings()
            except WeightsError as error:
                self.observer.degraded(tolerated(error, self.settings))
                return UNMEASURED
        return version
