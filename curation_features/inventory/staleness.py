"""Why a batch is not what a run would make of it now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curation_features.errors import SettingsError, StoreError
from curation_features.inventory.footprint import table_rows
from curation_features.inventory.places import (
    ACCEPTED,
    EMBEDDINGS,
    FEATURES,
    INGESTED,
    PAGE,
    TABLE,
    Found,
    Place,
    parse_object,
    read_object,
    read_regular,
)
from curation_features.inventory.versions import CurrentVersions
from curation_features.manifest import document_digest
from curation_features.pipeline.plan import TECHNICAL_PARTS
from curation_features.schema import RETRYABLE_REASONS
from curation_features.settings import Settings
from curation_features.storage.tables import read_metadata

REASONS: Mapping[str, str] = {
    "never_finished": "was accepted, and has no features",
    "newer_manifest": "the accepted manifest is another one than the features were made from",
    "not_accepted": "was ingested, and not processed since",
    "files_missing": "a file is missing beside the features",
    "technical": "a metric, its constants or its weights have changed",
    "model": "the CLIP model or its weights have changed, or were missing",
    "labels": "the labels, templates or temperature have changed",
    "unknown": "cannot be told",
    "retryable": "photos failed for a reason that may have passed",
}
"""Why a batch is stale: a short name for programs, and words."""

_CLIP_PARTS = frozenset({"embedding", "labels"})


@dataclass(frozen=True, slots=True)
class Stale:
    """One reason why a batch is stale: one of `REASONS`, and words for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of finished features.

    Attributes:
        statuses: how many photos are `ok`, `degraded` and `failed`.
        version: `technical` and `clip`.
        retryable: how many photos have an error that another run may not meet; None: not known.
        manifest: digest of the manifest that they were made from; empty: not known.
    """

    statuses: Mapping[str, int]
    version: Mapping[str, str]
    retryable: int | None = None
    manifest: str = ""


@dataclass(frozen=True, slots=True)
class StalenessOf:
    """The reasons why one batch is stale.

    Args:
        files: those that are there, of the places that hold one file per batch.
        made: what is known of its features; None: there are none, or nothing is known.
        exact: compare manifests whatever the times of their files say.
    """

    settings: Settings
    batch_id: str
    files: Mapping[Place, Found]
    made: Summary | None
    versions: CurrentVersions
    exact: bool

    def reasons(self) -> tuple[Stale, ...]:
        """All that there are, in the order of `REASONS`."""
        found: list[Stale] = []
        try:
            found += self._of_manifests()
        except StoreError as error:
            found.append(_stale("unknown", str(error)))
        if FEATURES in self.files:
            found += self._of_files()
            if self.made is not None:
                found += [*self._of_versions(self.made), *self._of_photos(self.made)]
        order = list(REASONS)
        return tuple(sorted(dict.fromkeys(found), key=lambda stale: order.index(stale.reason)))

    # Manifests

    def _of_manifests(self) -> Iterator[Stale]:
        accepted, ingested, features = (self.files.get(place) for place in (ACCEPTED, INGESTED, FEATURES))
        origin = _Origin(self)
        if accepted and not features:
            yield _stale("never_finished")
        elif accepted and self._is_due(accepted, features) and not origin.is_of(self._document(ACCEPTED)):
            yield _stale("newer_manifest")
        if ingested and self._is_due(ingested, accepted or features):
            document = self._document(INGESTED)
            same = accepted and document_digest(document) == document_digest(self._document(ACCEPTED))
            if not same and not (features and origin.is_of(document)):
                yield _stale("not_accepted")

    def _is_due(self, manifest: Found, made: Found | None) -> bool:
        """Whether a manifest is to be compared with what was made later. One that is older is taken to be its source:
        to read every manifest takes minutes where there are many.
        """
        return self.exact or made is None or manifest.written > made.written

    def _document(self, place: Place) -> dict[str, Any]:
        try:
            return read_object(place.path(self.settings.data_path, self.batch_id))
        except FileNotFoundError:  # deleted meanwhile
            return {}

    # Files

    def _of_files(self) -> Iterator[Stale]:
        wanted = [TABLE, EMBEDDINGS, *([PAGE] if self.settings.contact_sheet else [])]
        if missing := [place.kind for place in wanted if place not in self.files]:
            yield _stale("files_missing", ", ".join(missing))

    # Versions

    def _of_versions(self, made: Summary) -> Iterator[Stale]:
        try:
            now = self.versions.of(self._vocabulary())
        except (SettingsError, StoreError) as error:
            yield _stale("unknown", str(error))
            return
        if made.version["technical"] != now.technical:
            yield _NO_WEIGHTS if now.missing & TECHNICAL_PARTS else _stale("technical")
        if made.version["clip"] != now.clip:
            if now.missing & _CLIP_PARTS:
                yield _NO_WEIGHTS
            else:
                yield _stale("labels" if self._embedding_version(made) == now.embedding else "model")

    def _vocabulary(self) -> str | None:
        """The vocabulary that the batch asks for. Without named vocabularies, which are rare, nothing is read."""
        if not self.versions.are_named:
            return None
        place = next(place for place in (ACCEPTED, INGESTED, FEATURES) if place in self.files)
        path = place.path(self.settings.data_path, self.batch_id)
        try:
            data = read_regular(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
        name = parse_object(path, data).get("vocabulary") if b'"vocabulary"' in data else None
        return name if isinstance(name, str) else None

    def _embedding_version(self, made: Summary) -> str | None:
        """Version of the image vectors, which tells a new model from new labels; that of the labels follows from it."""
        known, clip = self.versions.embeddings, made.version["clip"]
        if clip not in known:
            try:
                metadata = read_metadata(EMBEDDINGS.path(self.settings.data_path, self.batch_id))
                known[clip] = metadata.get("version")
            except (OSError, ValueError, KeyError):
                return None
        return known[clip]

    # Photos

    def _of_photos(self, made: Summary) -> Iterator[Stale]:
        count = made.retryable
        if count is None:
            table = TABLE.path(self.settings.data_path, self.batch_id)
            try:
                count = sum(map(_may_succeed, table_rows(table, ("errors",))))
            except StoreError as error:
                yield _stale("unknown", str(error))
        if count:
            yield _stale("retryable", f"{count}")


class _Origin:
    """The manifest that a batch's features were made from; where its digest is not known, the artifacts tell it."""

    def __init__(self, batch: StalenessOf) -> None:
        self._batch = batch
        self._digest = batch.made.manifest if batch.made else ""

    def is_of(self, document: Mapping[str, Any]) -> bool:
        """Whether the features were made from this manifest."""
        if self._digest:
            return document_digest(document) == self._digest
        return document_digest(without_features(document)) == self._content

    @cached_property
    def _content(self) -> str:
        path = FEATURES.path(self._batch.settings.data_path, self._batch.batch_id)
        return document_digest(without_features(read_object(path)))


def without_features(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as it was before features were added, but for `features` that its artifacts already had."""
    artifacts = [
        {name: value for name, value in artifact.items() if name != "features"}
        for artifact in document.get("artifacts", ())
    ]
    return {**document, "artifacts": artifacts}


def _may_succeed(row: Mapping[str, Any]) -> bool:
    return any(error["reason"] in RETRYABLE_REASONS for error in row["errors"] or ())


def _stale(reason: str, detail: str = "") -> Stale:
    return Stale(reason, f"{REASONS[reason]}: {detail}" if detail else REASONS[reason])


_NO_WEIGHTS = _stale("unknown", "model weights are not here: curation-features models pull")
