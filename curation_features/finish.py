"""Final steps of every batch: write, render the contact sheet, verify, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.errors import StoreError, SupersededError
from curation_features.events.outbox import Outbox
from curation_features.manifest import Batch
from curation_features.pipeline import EnrichedBatch
from curation_features.report.sheet import refresh
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore, FeatureArtifact
from curation_features.storage.embeddings import EmbeddingsWriter
from curation_features.verification import verify


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """A batch whose artifacts are on disk and verified.

    Attributes:
        sheet: the contact sheet, if any.
        problems: problems of the artifacts by check (see `verify`); empty lists if there are none.
    """

    batch: Batch
    merged: EnrichedBatch
    artifact: FeatureArtifact
    sheet: Path | None
    problems: Mapping[str, Sequence[str]]

    def announce(self, outbox: Outbox, root: Path) -> dict[str, Any]:
        """Publish `features.completed` and return the event; `root` is the project's.

        Raises:
            StoreError: the artifacts on disk are wrong, so nothing was published; or the event cannot be recorded.
        """
        raise_if_wrong(self.problems)
        return outbox.announce(
            batch_id=self.batch.batch_id,
            manifest=self.batch.digest,
            digest=self.artifact.digest,
            features=self.artifact.json_path,
            table=self.artifact.table_path,
            embeddings=self.artifact.embeddings_path,
            root=root,
            statuses=self.merged.statuses(),
            version=self.merged.version,
            retryable=self.merged.retryable(),
        )


def finish_batch(
    batch: Batch,
    merged: EnrichedBatch,
    store: ArtifactStore,
    embeddings: EmbeddingsWriter,
    settings: Settings,
    progress: Callable[[int], None] | None = None,
    *,
    is_accepted: bool = True,
) -> FinishedBatch:
    """Write the artifacts and the contact sheet of a batch, and verify the artifacts.

    The caller holds the batch's lock (`ArtifactStore.exclusive`).

    Args:
        progress: called with the number of photos added to the contact sheet.
        is_accepted: False: the manifest is accepted later, so it need not be the accepted one now.

    Raises:
        SupersededError: another manifest was accepted in the meantime, so these features are out of date.
        StoreError: an artifact cannot be written.
    """
    if is_accepted:
        check_accepted(batch, store)
    artifact = store.write_features(
        merged.document, merged.rows(), merged.version, merged.labels, embeddings, merged.groups
    )
    sheet = refresh(artifact, settings, progress)
    problems = verify(batch, artifact.json_path, artifact.table_path, artifact.embeddings_path)
    return FinishedBatch(batch, merged, artifact, sheet, problems)


def check_accepted(batch: Batch, store: ArtifactStore) -> None:
    """Raise `SupersededError` unless this manifest is the last accepted one."""
    if store.accepted_digest(batch.batch_id) != batch.digest:
        raise SupersededError(
            f"another manifest of batch {batch.batch_id!r} was accepted while this one was processed; the features "
            f"on disk are unchanged: process the batch again"
        )


def raise_if_wrong(problems: Mapping[str, Sequence[str]]) -> None:
    """Raise `StoreError` if `verify` found problems."""
    wrong = [f"{name}: {'; '.join(details[:3])}" for name, details in problems.items() if details]
    if wrong:
        raise StoreError(
            "the features on disk are wrong, so no event is published: materialize features again; " + "; ".join(wrong)
        )
