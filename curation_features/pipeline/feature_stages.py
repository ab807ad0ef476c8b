"""`FeatureStages`: the steps over one batch, with everything that they share."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.label_embeddings import file_name, stored_version
from curation_features.clip.vocabulary import Vocabulary, named_vocabulary
from curation_features.errors import WeightsError
from curation_features.manifest import Batch
from curation_features.pipeline.labels import with_labels
from curation_features.pipeline.pixels import Earlier, PixelPass
from curation_features.pipeline.plan import UNMEASURED, Models, Plan, make_plan, tolerated
from curation_features.pipeline.stats import RunStats
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

log = logging.getLogger(__name__)


class FeatureStages:
    """The steps over one batch, with the models, the cache and the vocabulary that they share.

    Args:
        settings: the run's settings.
        vocabulary: what every batch is labelled with, whatever it asks for; by default what it asks for, or else the
            project's.
        models: replaces the models that the settings name (see `curation_features.testing` for fakes).
        cache: replaces the cache in the settings' data folder.
        progress: called with the record of each distinct photo that is measured.
        shown: called with 1 for each photo that is put on the batch's contact sheet.
        announce: called once with each error that makes a run a degraded one; by default it goes to the log.

    Raises:
        SettingsError: labels or templates that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        vocabulary: Vocabulary | None = None,
        models: Models | None = None,
        cache: FeatureCache | None = None,
        progress: Callable[[PhotoRecord], None] | None = None,
        shown: Callable[[int], None] | None = None,
        announce: Callable[[WeightsError], None] | None = None,
    ) -> None:
        self.settings = settings
        self.models = models or Models.from_settings(settings)
        self.cache = cache or FeatureCache(settings.cache_path)
        self.classifier = self._classifier(vocabulary)
        self._is_fixed = vocabulary is not None
        self._named: dict[str, CLIPClassifier] = {}
        self.progress = progress
        self.shown = shown
        technical = TechnicalQualityAnalyzer(settings, brisque=self.models.brisque, clip_iqa=self.models.clip_iqa)
        self._pixels = PixelPass(settings, self.models, self.cache, technical)
        self._announce = announce or _log_missing
        self._announced: set[str] = set()

    def for_batch(self, batch: Batch) -> FeatureStages:
        """These steps with the vocabulary that a batch asks for, as its file is now; all else is shared.

        Raises:
            SettingsError: there is no such vocabulary, or it cannot be used.
        """
        if batch.vocabulary is None or self._is_fixed:
            return self
        vocabulary = named_vocabulary(self.settings, batch.vocabulary)
        classifier = self._named.get(batch.vocabulary)
        if classifier is None or classifier.vocabulary != vocabulary:
            classifier = self._named[batch.vocabulary] = self._classifier(vocabulary)
        bound = copy.copy(self)
        bound.classifier = classifier
        return bound

    def _classifier(self, vocabulary: Vocabulary | None) -> CLIPClassifier:
        if vocabulary is None:
            return CLIPClassifier(self.settings, engine=self.models.clip, label_file=self.cache.label_embeddings)
        return CLIPClassifier(
            self.settings,
            labels=vocabulary.labels,
            templates=vocabulary.templates,
            engine=self.models.clip,
            label_file=self.cache.folder / file_name(vocabulary),
        )

    def plan(self, parts: Collection[str]) -> Plan:
        """Versions of `parts`, and what is missing for them. Raises `WeightsError` unless degrading is permitted."""
        plan = make_plan(self.settings, self.models, self.classifier.vocabulary, parts)
        for failure in plan.failures:
            if failure.summary not in self._announced:
                self._announced.add(failure.summary)
                self._announce(failure)
        return plan

    def measure(
        self, batch: Batch, plan: Plan, stats: RunStats, earlier: Earlier | None = None
    ) -> Iterator[PhotoRecord]:
        """Records of the batch's distinct photos with the parts of `plan` that come out of pixels (see `PixelPass`)."""
        return self._pixels.records(batch, plan, stats, self.progress, earlier)

    def label(self, records: Iterable[PhotoRecord], plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        """The records with labels: from the cache where they are valid, else made from their embeddings."""
        return with_labels(records, self.classifier, self.cache, plan, stats)

    def ensure_label_embeddings(self, plan: Plan) -> str:
        """See to it that the vocabulary's vectors are on disk; returns their version, `UNMEASURED` without a model."""
        if "labels" in plan.missing:
            return UNMEASURED
        version = self.classifier.label_version
        if stored_version(self.classifier.label_file) != version:
            try:
                self.classifier.label_embeddings()
            except WeightsError as error:
                self._announce(tolerated(error, self.settings))
                return UNMEASURED
        return version


def _log_missing(failure: WeightsError) -> None:
    log.warning("Going on without a model, so its values will be defaults: %s", failure)
