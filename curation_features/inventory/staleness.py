"""Finds out why a run now would give another result for a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curation_features.clip.vocabulary import vocabulary_names
from curation_features.errors import SettingsError, StoreError
from curation_features.inventory.footprint import table_rows
from curation_features.manifest import Batch, document_digest
from curation_features.pipeline import FeatureStages, Models, Plan
from curation_features.pipeline.observer import SilentObserver
from curation_features.pipeline.plan import ALL_PARTS, SCORE_PARTS, groups_version, signals_version
from curation_features.schema import RETRYABLE_REASONS
from curation_features.settings import Settings
from curation_features.storage import places
from curation_features.storage.tables import read_metadata

REASONS: Mapping[str, str] = {
    "never_finished": "accepted, but without features",
    "newer_manifest": "the features were made from another manifest than the accepted one",
    "not_accepted": "ingested, but not processed since",
    "files_missing": "a file of the features is missing",
    "technical": "a metric, its constants or its weights have changed",
    "signals": "a signal, or a limit of the flags, has changed, or is new",
    "groups": "the fingerprints or the grouping of photos have changed, or are new",
    "model": "the CLIP model or its weights have changed, or were missing",
    "labels": "the labels, templates or temperature have changed",
    "unknown": "cannot be determined",
    "retryable": "photos failed for a temporary reason",
}
"""Why a batch is stale: machine-readable reason -> message."""

_CLIP_PARTS = frozenset({"embedding", "labels"})


@dataclass(frozen=True, slots=True)
class Stale:
    """One reason why a batch is stale: a key of `REASONS`, and a message for the user."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """Finished features at a glance.

    Attributes:
        statuses: number of `ok`, `degraded` and `failed` artifacts.
        version: of the parts `technical`, `clip` and, since there are any, `signals` and `groups`.
        retryable: number of photos with an error that another run may not meet; None: unknown.
        manifest: digest of the manifest that the features were made from; empty: unknown.
    """

    statuses: Mapping[str, int]
    version: Mapping[str, str]
    retryable: int | None = None
    manifest: str = ""


class CurrentVersions:
    """The versions of a run that would start now, by vocabulary. No model is loaded or downloaded.

    Attributes:
        embeddings: label version -> embedding version, of batches read so far.
    """

    def __init__(self, settings: Settings) -> None:
        self.embeddings: dict[str, str | None] = {}
        self._settings = settings
        self._plans: dict[str | None, Plan] = {}

    def of(self, vocabulary: str | None) -> Plan:
        """The plan with a named vocabulary; None: with the project's own.

        Raises:
            SettingsError: the vocabulary does not exist or cannot be used.
        """
        if vocabulary not in self._plans:
            self._plans[vocabulary] = self._stages.for_batch(Batch("", (), {}, "", vocabulary)).plan(ALL_PARTS)
        return self._plans[vocabulary]

    @cached_property
    def has_vocabularies(self) -> bool:
        """Whether the project has named vocabularies."""
        return bool(vocabulary_names(self._settings))

    @cached_property
    def _stages(self) -> FeatureStages:
        settings = self._settings.replace(on_missing_weights="degrade")
        models = Models.from_settings(settings, None, False)
        return FeatureStages(settings, models=models, observer=SilentObserver())


@dataclass(frozen=True)
class StalenessOf:
    """The reasons why one batch is stale.

    Args:
        files: the existing files of the places.
        summary: of the features; None: there are none, or they cannot be read.
        exact: compare manifests regardless of the times of their files.
    """

    settings: Settings
    batch_id: str
    files: Mapping[places.Place, places.Found]
    summary: Summary | None
    versions: CurrentVersions
    exact: bool

    def reasons(self) -> tuple[Stale, ...]:
        """Why a run now would give another result, in the order of `REASONS`; none: it would not."""
        problems: list[Stale] = []
        try:
            problems += self._compare_manifests()
        except StoreError as error:
            problems.append(_stale("unknown", str(error)))
        if places.FEATURES in self.files:
            wanted = [places.TABLE, places.EMBEDDINGS, *([places.PAGE] if self.settings.contact_sheet else [])]
            if missing := [place.kind for place in wanted if place not in self.files]:
                problems.append(_stale("files_missing", ", ".join(missing)))
            if self.summary is not None:
                problems += [*self._compare_versions(self.summary), *self._count_retryable(self.summary)]
        order = list(REASONS)
        return tuple(sorted(dict.fromkeys(problems), key=lambda stale: order.index(stale.reason)))

    def _compare_manifests(self) -> Iterator[Stale]:
        accepted, ingested, features = (
            self.files.get(place) for place in (places.ACCEPTED, places.INGESTED, places.FEATURES)
        )
        if accepted and not features:
            yield _stale("never_finished")
        elif accepted and self._is_due(accepted, features) and not self._is_origin(self._document(places.ACCEPTED)):
            yield _stale("newer_manifest")
        if ingested and self._is_due(ingested, accepted or features):
            document = self._document(places.INGESTED)
            is_accepted = accepted and document_digest(document) == document_digest(self._document(places.ACCEPTED))
            if not is_accepted and not (features and self._is_origin(document)):
                yield _stale("not_accepted")

    def _is_due(self, manifest: places.Found, result: places.Found | None) -> bool:
        """Whether to compare a manifest with its result. An older manifest is assumed to be its origin: to read all
        manifests of a large project takes minutes.
        """
        return self.exact or result is None or manifest.written > result.written

    def _document(self, place: places.Place) -> dict[str, Any]:
        try:
            return places.read_object(place.path(self.settings.data_path, self.batch_id))
        except FileNotFoundError:  # deleted since the listing
            return {}

    def _is_origin(self, document: Mapping[str, Any]) -> bool:
        """Whether the features were made from this manifest; without a known digest, artifacts are compared."""
        if self.summary and self.summary.manifest:
            return document_digest(document) == self.summary.manifest
        return document_digest(without_features(document)) == self._origin_digest

    @cached_property
    def _origin_digest(self) -> str:
        path = places.FEATURES.path(self.settings.data_path, self.batch_id)
        return document_digest(without_features(places.read_object(path)))

    def _compare_versions(self, summary: Summary) -> Iterator[Stale]:
        try:
            now = self.versions.of(self._vocabulary())
        except (SettingsError, StoreError, FileNotFoundError) as error:
            yield _stale("unknown", str(error))
            return
        if summary.version["technical"] != now.technical_version:
            yield _NO_WEIGHTS if SCORE_PARTS & now.missing.keys() else _stale("technical")
        if summary.version.get("signals") != signals_version(now.versions, self.settings):
            yield _stale("signals")
        if summary.version["clip"] == now.clip_version:
            if summary.version.get("groups") != groups_version(now.versions, self.settings):
                yield _stale("groups")
        else:
            if _CLIP_PARTS & now.missing.keys():
                yield _NO_WEIGHTS
            else:
                is_same_model = self._embedding_version(summary.version["clip"]) == now.versions.get("embedding")
                yield _stale("labels" if is_same_model else "model")

    def _vocabulary(self) -> str | None:
        """The vocabulary named by the batch. Nothing is read if the project has no named vocabularies."""
        if not self.versions.has_vocabularies:
            return None
        place = next(place for place in (places.ACCEPTED, places.INGESTED, places.FEATURES) if place in self.files)
        path = place.path(self.settings.data_path, self.batch_id)
        data = places.read_regular(path)
        name = places.parse_object(path, data).get("vocabulary") if b'"vocabulary"' in data else None
        return name if isinstance(name, str) else None

    def _embedding_version(self, clip_version: str) -> str | None:
        """The embedding version that a label version includes; it distinguishes a new model from new labels."""
        known = self.versions.embeddings
        if clip_version not in known:
            try:
                metadata = read_metadata(places.EMBEDDINGS.path(self.settings.data_path, self.batch_id))
                known[clip_version] = metadata.get("version")
            except (OSError, ValueError, KeyError):
                return None
        return known[clip_version]

    def _count_retryable(self, summary: Summary) -> Iterator[Stale]:
        count = summary.retryable
        if count is None:
            rows = table_rows(places.TABLE.path(self.settings.data_path, self.batch_id), ("errors",))
            reasons = RETRYABLE_REASONS
            try:
                count = sum(any(error["reason"] in reasons for error in row["errors"] or ()) for row in rows)
            except StoreError as error:
                yield _stale("unknown", str(error))
        if count:
            yield _stale("retryable", f"{count}")


def without_features(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without the `features` of its artifacts."""
    artifacts = [
        {name: value for name, value in artifact.items() if name != "features"}
        for artifact in document.get("artifacts", ())
    ]
    return {**document, "artifacts": artifacts}


def _stale(reason: str, detail: str = "") -> Stale:
    return Stale(reason, f"{REASONS[reason]}: {detail}" if detail else REASONS[reason])


_NO_WEIGHTS = _stale("unknown", "model weights are missing: curation-features models pull")
