"""Deletes what nothing refers to, as `inventory.UnreferencedFiles` found it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from curation_features.errors import BusyError
from curation_features.inventory.batch_files import BatchFile
from curation_features.inventory.places import ACCEPTED, FEATURES, INGESTED, LATEST_EVENT
from curation_features.inventory.unreferenced import ORPHANS, is_old
from curation_features.removal.batches import event_sequence
from curation_features.removal.deleting import DataFolder
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import record_deletion

_OF_BATCHES = frozenset(place.kind for place in ORPHANS)


def collect(
    settings: Settings,
    files: Iterable[BatchFile],
    older_than_s: float,
    progress: Callable[[int], None] | None = None,
) -> Iterator[BatchFile]:
    """Delete files that nothing refers to, and give each that is gone.

    What was touched since they were found stays, and so do files of batches that are being made.

    Args:
        progress: called with 1 for each file.

    Raises:
        StoreError: a file cannot be deleted.
    """
    folder = DataFolder(settings.data_path)
    store = ArtifactStore(settings.data_path)
    by_batch: dict[str, list[BatchFile]] = {}
    for file in files:
        by_batch.setdefault(file.path.stem if file.kind in _OF_BATCHES else "", []).append(file)

    def delete(found: Iterable[BatchFile]) -> Iterator[BatchFile]:
        for file in found:
            if is_old(file.path, older_than_s) and folder.delete(file.path):
                yield file
            if progress:
                progress(1)

    yield from delete(by_batch.pop("", ()))
    for batch_id, found in by_batch.items():
        try:
            with store.exclusive(batch_id, wait=False):
                if not _is_back(settings.data_path, batch_id):
                    _keep_sequence(settings.data_path, batch_id, found)
                    yield from delete(found)
        except BusyError:
            continue


def _is_back(data_path: Path, batch_id: str) -> bool:
    return any(place.path(data_path, batch_id).exists() for place in (INGESTED, ACCEPTED, FEATURES))


def _keep_sequence(data_path: Path, batch_id: str, files: Iterable[BatchFile]) -> None:
    """Write to the log where the events of a batch have come to: its last event may be all that says so."""
    for file in files:
        if file.kind == LATEST_EVENT.kind and (sequence := event_sequence(file.path)) is not None:
            record_deletion(data_path, batch_id=batch_id, photos=None, sequence=sequence)
