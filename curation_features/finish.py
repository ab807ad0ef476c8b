"""The end of every batch, whichever way it was made: write, make the contact sheet, read back, announce."""

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
    """A batch whose artifacts are on disk and were read back.

    Attributes:
        sheet: the contact sheet; None if there is none.
        problems: what is wrong with the artifacts, by check (see `verify`); empty lists if nothing is.
    """

    batch: Batch
    merged: EnrichedBatch
    artifact: FeatureArtifact
    sheet: Path | None
    problems: Mapping[str, Sequence[str]]

    def announce(self, outbox: Outbox, root: Path) -> dict[str, Any]:
        """Publish `features.completed` and give the event; `root` is the project's.

        Raises:
            StoreError: the artifacts on disk are wrong, and nothing was published; or the event cannot be recorded.
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
) -> FinishedBatch:
    """Write the artifacts and the contact sheet of a batch, and read the artifacts back.

    Call it while no other process makes the same batch (`ArtifactStore.exclusive`).

    Args:
        progress: called with 1 for each photo that is put on the contact sheet.

    Raises:
        SupersededError: another manifest was accepted meanwhile, so that these features are out of date.
        StoreError: an artifact cannot be written.
    """
    check_accepted(batch, store)
    return write_batch(batch, merged, store, embeddings, settings, progress)


def write_batch(
    batch: Batch,
    merged: EnrichedBatch,
    store: ArtifactStore,
    embeddings: EmbeddingsWriter,
    settings: Settings,
    progress: Callable[[int], None] | None = None,
) -> FinishedBatch:
    """As `finish_batch`, for a manifest that is accepted only later."""
    artifact = store.write_features(merged.document, merged.rows(), merged.version, merged.labels, embeddings)
    sheet = refresh(artifact, settings, progress)
    problems = verify(batch, artifact.json_path, artifact.table_path, artifact.embeddings_path)
    return FinishedBatch(batch, merged, artifact, sheet, problems)


def check_accepted(batch: Batch, store: ArtifactStore) -> None:
    """Raise `SupersededError` if this manifest is not the one that was accepted last."""
    if store.accepted_digest(batch.batch_id) != batch.digest:
        raise SupersededError(
            f"another manifest of batch {batch.batch_id!r} was accepted while this one was processed; the features "
            f"on disk were left as they are: process the batch again"
        )


def raise_if_wrong(problems: Mapping[str, Sequence[str]]) -> None:
    """Raise `StoreError` if the artifacts that were read back are wrong; `problems` as `verify` gives them."""
    wrong = [f"{name}: {'; '.join(found[:3])}" for name, found in problems.items() if found]
    if wrong:
        raise StoreError(
            "the features on disk are wrong, so no event goes out: materialize features again; " + "; ".join(wrong)
        )
