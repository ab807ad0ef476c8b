"""Deletes files inside the data folder: single ones, and those that `inventory.UnreferencedFiles` found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from curation_features.errors import BusyError, StoreError
from curation_features.inventory.batch_files import BatchFile
from curation_features.inventory.unreferenced import ORPHANS, is_old
from curation_features.search import forget
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import record_deletion
from curation_features.storage.places import BATCHES, LATEST_EVENT, read_event

_ORPHAN_KINDS = frozenset(place.kind for place in ORPHANS)


class DataFolder:
    """The data folder, the only place where files are deleted."""

    def __init__(self, data_path: Path) -> None:
        self._lexical = os.path.normpath(os.path.abspath(data_path))  # noqa: PTH100 (links stay)
        self._real = os.path.realpath(data_path)

    def holds(self, path: Path) -> bool:
        """Whether a path is inside, without resolving links."""
        return os.path.normpath(os.path.abspath(path)).startswith(os.path.join(self._lexical, ""))  # noqa: PTH100, PTH118

    def check(self, paths: Iterable[Path]) -> None:
        """Raise `StoreError` if a path is outside, or one of its folders is a link."""
        for folder in sorted({path.parent for path in paths}):
            if not self.holds(folder / "file"):
                raise StoreError(f"{folder}: is outside the data folder, and nothing is deleted there")
            relative = os.path.relpath(os.path.abspath(folder), self._lexical)  # noqa: PTH100 (links stay)
            if os.path.realpath(folder) != os.path.normpath(os.path.join(self._real, relative)):  # noqa: PTH118
                raise StoreError(
                    f"{folder}: is, or is in, a symbolic link, and nothing is deleted through links: "
                    "replace it by a folder (a bind mount will do), or delete by hand"
                )

    def delete(self, path: Path) -> bool:
        """Delete a file, or a link itself; returns whether it existed. Raises `StoreError`: it cannot be deleted."""
        self.check([path])
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be deleted ({error.strerror}): check its permissions, then run the same again"
            ) from error
        return True


def collect(
    settings: Settings,
    files: Iterable[BatchFile],
    older_than_s: float,
    progress: Callable[[int], None] | None = None,
) -> Iterator[BatchFile]:
    """Delete unreferenced files, and yield each deleted one.

    Files that were touched since the search stay, and so do files of batches that are being made.

    Args:
        progress: called with 1 for each file.

    Raises:
        StoreError: a file cannot be deleted.
    """
    folder, store = DataFolder(settings.data_path), ArtifactStore(settings.data_path)
    by_batch: dict[str, list[BatchFile]] = {"": []}
    for file in files:
        by_batch.setdefault(file.path.stem if file.kind in _ORPHAN_KINDS else "", []).append(file)

    def delete(group: Iterable[BatchFile]) -> Iterator[BatchFile]:
        for file in group:
            if is_old(file.path, older_than_s) and folder.delete(file.path):
                yield file
            if progress:
                progress(1)

    yield from delete(by_batch.pop(""))
    for batch_id, orphans in by_batch.items():
        try:
            with store.exclusive(batch_id, wait=False):
                if any(place.path(settings.data_path, batch_id).exists() for place in BATCHES):
                    continue  # the batch is back
                for file in orphans:  # the latest event may be the only record of its sequence
                    if file.kind == LATEST_EVENT.kind and (sequence := event_sequence(file.path)) is not None:
                        record_deletion(settings.data_path, batch_id=batch_id, photos=None, sequence=sequence)
                forget(settings.data_path, [batch_id])
                yield from delete(orphans)
        except BusyError:
            continue


def event_sequence(path: Path) -> int | None:
    """The `sequence` of an event; None if it has none, or cannot be read."""
    _, data = read_event(path)
    sequence = data.get("sequence")
    return sequence if type(sequence) is int else None
