"""The versions that results would have if they were made now, for each vocabulary. No model is loaded or downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from curation_features.clip.vocabulary import vocabulary_names
from curation_features.errors import SettingsError
from curation_features.manifest import Batch
from curation_features.pipeline import FeatureStages, Models
from curation_features.pipeline.observer import SilentObserver
from curation_features.pipeline.plan import ALL_PARTS
from curation_features.settings import Settings


@dataclass(frozen=True, slots=True)
class Current:
    """The versions of a run that would start now: of the five scores together, the labels, and the image vectors.

    Attributes:
        missing: the parts whose weights are not here, so that versions cannot be compared.
    """

    technical: str
    clip: str
    embedding: str | None
    missing: frozenset[str]


class CurrentVersions:
    """Versions of runs that would start now, one for each vocabulary.

    Attributes:
        embeddings: for versions of labels that were found, that of the image vectors.

    Raises:
        SettingsError: with the first plan: the project's own labels or templates cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.embeddings: dict[str, str | None] = {}
        self._settings = settings
        self._found: dict[str | None, Current | SettingsError] = {}

    def of(self, vocabulary: str | None) -> Current:
        """The versions for batches with this vocabulary; None: the project's own.

        Raises:
            SettingsError: there is no such vocabulary, or it cannot be used.
        """
        if vocabulary not in self._found:
            self._found[vocabulary] = self._planned(vocabulary)
        found = self._found[vocabulary]
        if isinstance(found, SettingsError):
            raise found
        return found

    @cached_property
    def are_named(self) -> bool:
        """Whether the project has named vocabularies."""
        return bool(vocabulary_names(self._settings))

    def _planned(self, vocabulary: str | None) -> Current | SettingsError:
        stages = self._stages
        try:
            plan = stages.for_batch(Batch("", (), {}, "", vocabulary)).plan(ALL_PARTS)
        except SettingsError as error:
            return error
        return Current(
            plan.technical_version, plan.clip_version, plan.versions.get("embedding"), frozenset(plan.missing)
        )

    @cached_property
    def _stages(self) -> FeatureStages:
        settings = self._settings.replace(on_missing_weights="degrade")
        models = Models.from_settings(settings, None, False)
        return FeatureStages(settings, models=models, observer=SilentObserver())
