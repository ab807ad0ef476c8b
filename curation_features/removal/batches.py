"""Deletes a batch with all of its files.

The order of deletion lets the same call complete an interrupted one: first files that would make or announce the batch
again, then the features, then the files of its photos (which tables and manifests name), then the tables, the partition
in Dagster, and the manifests last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from filelock import FileLock, Timeout

from curation_features.errors import StoreError
from curation_features.inventory.batch_files import BatchFile, batch_files, incoming_files, incoming_folders
from curation_features.inventory.footprint import Footprint, References, footprint_of, photo_files
from curation_features.library import forget_batch
from curation_features.removal.files import DataFolder, event_sequence
from curation_features.search import forget as forget_search
from curation_features.settings import Settings
from curation_features.storage import places
from curation_features.storage.adoptions import Adoptions
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import last_sequence, record_deletion

_MANIFESTS = (places.INGESTED.kind, places.ACCEPTED.kind)
_ORDER = (
    *("incoming", "quarantine_reason", "quarantined", "pending_event", "event"),
    *(place.kind for place in (places.LATEST_EVENT, places.ADOPTION, places.PAGE, places.FEATURES)),
    *("thumbnail", "cache", "copy"),
    *(place.kind for place in (places.EMBEDDINGS, *places.STAGES, places.TABLE)),
    *_MANIFESTS,
)
_INCOMING_LOCK_S = 10.0


@dataclass(frozen=True, slots=True)
class BatchRemoval:
    """The deletion of a batch.

    Attributes:
        photos: number of photos of the batch.
        files: the files to delete, in this order.
        shared: number of its photos that other batches have, too; the files of these photos stay.
        kept: files of the batch outside the data folder, which stay.
        sequence: of its last event, or of a deleted batch with the same id; None: it never had one.
    """

    batch_id: str
    photos: int
    files: tuple[BatchFile, ...]
    shared: int
    kept: tuple[Path, ...]
    sequence: int | None


class SharedPhotos:
    """Photos of batches to delete that other batches have, too. Of other photos nothing is stored.

    Attributes:
        others: the batches whose manifests `find` reads.

    Raises:
        StoreError: a manifest that waits for the sensor cannot be read.
    """

    def __init__(self, settings: Settings, batch_ids: Iterable[str]) -> None:
        self._settings = settings
        self._own: dict[str, tuple[set[str], set[str]]] = {}  # photos of each batch, and names of copies
        self._users: tuple[Counter[str], Counter[str]] = (Counter(), Counter())  # batches by photo, and by name
        for batch_id in batch_ids:
            own = footprint_of(settings, batch_id, incoming_files(settings, batch_id))
            self._own[batch_id] = (own.photos, {PurePath(name).name for name in own.copies})
            for users, keys in zip(self._users, self._own[batch_id], strict=True):
                users.update(keys)
        self._references = References(settings)
        for batch_id, footprint in self._references.waiting:
            self._add(batch_id, footprint)
        self.others = sorted({*self._references.batch_ids}.difference(self._own))

    def find(self, progress: Callable[[int], None] | None = None) -> None:
        """Read the references of the other batches.

        Args:
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document cannot be read, and files that it refers to would be deleted.
        """
        for batch_id, footprint in self._references.footprints(self.others, progress=progress):
            self._add(batch_id, footprint)

    def of(self, batch_id: str) -> tuple[int, int, list[BatchFile]]:
        """The number of photos of a batch, the number of shared ones, and the files of the others."""
        (photos, names), documents = self._own[batch_id], incoming_files(self._settings, batch_id)
        alone, names = (
            {key for key in keys if users[key] == 1} for users, keys in zip(self._users, (photos, names), strict=True)
        )
        footprint = footprint_of(self._settings, batch_id, documents, alone)
        if shared := photos - alone:
            footprint.digests -= footprint_of(self._settings, batch_id, documents, shared).digests
        footprint.copies = {name for name in footprint.copies if PurePath(name).name in names}
        return len(photos), len(shared), photo_files(self._settings, footprint)

    def forget(self, batch_id: str) -> None:
        """Note that a batch was deleted: photos that only one other batch has are no longer shared."""
        for users, keys in zip(self._users, self._own[batch_id], strict=True):
            users.subtract(keys)

    def _add(self, batch_id: str, footprint: Footprint) -> None:
        if batch_id not in self._own:
            for users, keys in zip(self._users, (footprint.photos, footprint.names), strict=True):
                users.update(users.keys() & keys)


def plan_removal(settings: Settings, batch_id: str, shared: SharedPhotos) -> BatchRemoval:
    """The deletion of a batch as it is now."""
    folder = DataFolder(settings.data_path)
    photos, count, of_photos = shared.of(batch_id)
    found = [*batch_files(settings, batch_id), *of_photos]
    files = sorted((file for file in found if folder.holds(file.path)), key=lambda file: _ORDER.index(file.kind))
    kept = tuple(file.path for file in found if not folder.holds(file.path))
    events = [file.path for file in found if file.kind in ("event", places.LATEST_EVENT.kind)]
    sequences = [last_sequence(settings.data_path, batch_id), *map(event_sequence, events)]
    sequence = max((number for number in sequences if number is not None), default=None)
    return BatchRemoval(batch_id, photos, tuple(files), count, kept, sequence)


def remove_batch(
    settings: Settings,
    store: ArtifactStore,
    batch_id: str,
    shared: SharedPhotos,
    forget: Callable[[str], None] | None = None,
) -> BatchRemoval:
    """Delete a batch with all of its files, and log it.

    Args:
        forget: deletes its partition in Dagster; called when only manifests are left.

    Raises:
        StoreError: the batch is being made now, or a file cannot be deleted; the same call completes the deletion.
    """
    folder = DataFolder(settings.data_path)
    with store.exclusive(batch_id, wait=False):
        removal = plan_removal(settings, batch_id, shared)
        folder.check(file.path for file in removal.files)
        record_deletion(settings.data_path, batch_id=batch_id, photos=removal.photos, sequence=removal.sequence)
        forget_batch(settings.data_path, batch_id)
        forget_search(settings.data_path, [batch_id])
        with locked_folders(settings):  # listed again: the sensor may have moved manifests
            for path in filter(folder.holds, incoming_files(settings, batch_id)):
                folder.delete(path)
        with Adoptions(settings.data_path).take(batch_id):  # a concurrent adoption must not add the partition
            for file in removal.files:
                if file.kind not in (*_MANIFESTS, "incoming"):
                    folder.delete(file.path)
        if forget is not None:
            forget(batch_id)
        for file in removal.files:
            if file.kind in _MANIFESTS:
                folder.delete(file.path)
        forget_search(settings.data_path, [batch_id])
    shared.forget(batch_id)
    return removal


@contextmanager
def locked_folders(settings: Settings) -> Iterator[None]:
    """Lock the drop folders against the sensor. Raises `StoreError`: it is working in one of them."""
    with ExitStack() as locks:
        for folder in incoming_folders(settings):
            claimed = folder / ".claimed"
            if claimed.is_dir():
                try:
                    locks.enter_context(FileLock(claimed / ".lock", timeout=_INCOMING_LOCK_S))
                except (Timeout, OSError) as error:
                    raise StoreError(f"{folder}: is in use by the sensor ({error}): try again") from error
        yield
