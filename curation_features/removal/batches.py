"""One batch, deleted everywhere.

The order of its files lets an interrupted deletion be completed: first what would make or announce the batch again,
then the features, then what was made of its photos (which tables and manifests name), then the tables, the partition in
Dagster, and the manifests at the very end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from filelock import FileLock, Timeout

from curation_features.errors import StoreError
from curation_features.inventory.batch_files import (
    BatchFile,
    archived_manifests,
    batch_files,
    incoming_files,
    incoming_folders,
    photo_files,
    waiting_footprints,
)
from curation_features.inventory.footprint import Footprint, footprint_of, footprints
from curation_features.inventory.places import (
    ACCEPTED,
    ADOPTION,
    EMBEDDINGS,
    FEATURES,
    INGESTED,
    LATEST_EVENT,
    PAGE,
    STAGES,
    TABLE,
    list_places,
    read_object,
)
from curation_features.removal.deleting import DataFolder
from curation_features.settings import Settings
from curation_features.storage.adoptions import Adoptions
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import last_sequence, record_deletion

_FIRST = (
    "incoming",
    "quarantine_reason",
    "quarantined",
    "pending_event",
    "event",
    LATEST_EVENT.kind,
    ADOPTION.kind,
    PAGE.kind,
    FEATURES.kind,
)
_PHOTOS = ("thumbnail", "cache", "copy")
_THEN = (EMBEDDINGS.kind, *(place.kind for place in STAGES), TABLE.kind)
_LAST = (INGESTED.kind, ACCEPTED.kind)
_ORDER = (*_FIRST, *_PHOTOS, *_THEN, *_LAST)

_INCOMING_LOCK_S = 10.0


@dataclass(frozen=True, slots=True)
class BatchRemoval:
    """What goes with a batch.

    Attributes:
        photos: how many photos it has.
        files: those to be deleted, in this order.
        shared: how many of its photos other batches have, too: what was made of these stays.
        kept: files of the batch outside the data folder, where nothing is deleted.
        sequence: of its last event, or of those of a batch of that name that was deleted before; None: there was none.
    """

    batch_id: str
    photos: int
    files: tuple[BatchFile, ...]
    shared: int
    kept: tuple[Path, ...]
    sequence: int | None


class SharedPhotos:
    """Which photos of batches that are to be deleted other batches have, too.

    Only the ids and names of the batches' own photos are kept.

    Attributes:
        others: the batches whose manifests `find` will read.

    Raises:
        StoreError: a manifest that waits for the sensor cannot be read.
    """

    def __init__(self, settings: Settings, batch_ids: Iterable[str]) -> None:
        self._settings = settings
        self._own = {batch_id: self._own_footprint(batch_id) for batch_id in batch_ids}
        self._photos: dict[str, set[str]] = {}  # -> the batches that have it
        self._names: dict[str, set[str]] = {}  # of copies -> the batches that refer to them
        for batch_id, own in self._own.items():
            for known, used in ((self._photos, own.photos), (self._names, own.names)):
                for key in used:
                    known.setdefault(key, set()).add(batch_id)
        for batch_id, waiting in waiting_footprints(settings):
            self._add(batch_id, waiting)
        self._archived = archived_manifests(settings)
        self._listing = list_places(settings.data_path)
        ids = {batch_id for found in self._listing.values() for batch_id in found}
        self.others = sorted(ids.union(self._archived).difference(self._own))

    def _own_footprint(self, batch_id: str) -> Footprint:
        """The photos of a batch that is to be deleted, and the names of its copies."""
        found = footprint_of(self._settings, batch_id, incoming_files(self._settings, batch_id))
        return Footprint(found.photos, {PurePath(name).name for name in found.copies})

    def find(self, progress: Callable[[int], None] | None = None) -> None:
        """Read what the other batches refer to.

        Args:
            progress: called with 1 for each of them.

        Raises:
            StoreError: a document cannot be read, so that what its batch refers to would be deleted.
        """
        for batch_id, found in footprints(self._settings, self._listing, self.others, self._archived):
            self._add(batch_id, found)
            if progress:
                progress(1)

    def of(self, batch_id: str) -> tuple[int, int, list[BatchFile]]:
        """How many photos a batch has, how many of them others have, too, and the files of its photos alone."""
        own, documents = self._own[batch_id], incoming_files(self._settings, batch_id)
        alone = {photo_id for photo_id in own.photos if self._photos[photo_id] == {batch_id}}
        found = footprint_of(self._settings, batch_id, documents, alone)
        if shared := own.photos - alone:
            found.digests -= footprint_of(self._settings, batch_id, documents, shared).digests
        names = {name for name in own.names if self._names[name] == {batch_id}}
        found.copies = {name for name in found.copies if PurePath(name).name in names}
        return len(own.photos), len(shared), photo_files(self._settings, found)

    def is_gone(self, batch_id: str) -> None:
        """Note that a batch was deleted: what it shared with one other batch is that one's alone now."""
        own = self._own[batch_id]
        for known, used in ((self._photos, own.photos), (self._names, own.names)):
            for key in used:
                known[key].discard(batch_id)

    def _add(self, batch_id: str, found: Footprint) -> None:
        for known, used in ((self._photos, found.photos), (self._names, found.names)):
            for key in known.keys() & used:
                known[key].add(batch_id)


def plan_removal(settings: Settings, batch_id: str, shared: SharedPhotos) -> BatchRemoval:
    """What goes with a batch, as it is now."""
    folder = DataFolder(settings.data_path)
    photos, count, of_photos = shared.of(batch_id)
    found = [*batch_files(settings, batch_id), *of_photos]
    files = sorted((file for file in found if folder.holds(file.path)), key=lambda file: _ORDER.index(file.kind))
    kept = tuple(file.path for file in found if not folder.holds(file.path))
    return BatchRemoval(batch_id, photos, tuple(files), count, kept, _sequence(settings.data_path, found, batch_id))


def remove_batch(
    settings: Settings,
    store: ArtifactStore,
    batch_id: str,
    shared: SharedPhotos,
    forget: Callable[[str], None] | None = None,
) -> BatchRemoval:
    """Delete a batch everywhere, and write that to the log.

    Args:
        forget: deletes its partition in Dagster; called after all files but the manifests are gone.

    Raises:
        StoreError: the batch is being made now, or a file cannot be deleted; the same call completes the deletion.
    """
    folder = DataFolder(settings.data_path)
    with store.exclusive(batch_id, wait=False):
        removal = plan_removal(settings, batch_id, shared)
        folder.check(file.path for file in removal.files)
        record_deletion(settings.data_path, batch_id=batch_id, photos=removal.photos, sequence=removal.sequence)
        with alone_in(incoming_folders(settings)):  # where the sensor may have moved them meanwhile
            for path in filter(folder.holds, incoming_files(settings, batch_id)):
                folder.delete(path)
        manifests = [file.path for file in removal.files if file.kind in _LAST]
        with Adoptions(settings.data_path).take(batch_id):  # no partition may come from an adoption under way
            for file in removal.files:
                if file.kind not in (*_LAST, "incoming"):
                    folder.delete(file.path)
        if forget is not None:
            forget(batch_id)
        for path in manifests:
            folder.delete(path)
    shared.is_gone(batch_id)
    return removal


@contextmanager
def alone_in(folders: Iterable[Path]) -> Iterator[None]:
    """Keep the sensor out of the folders that it empties. Raises `StoreError`: it is at work in one of them."""
    with ExitStack() as locks:
        for folder in folders:
            claimed = folder / ".claimed"
            if claimed.is_dir():
                try:
                    locks.enter_context(FileLock(claimed / ".lock", timeout=_INCOMING_LOCK_S))
                except (Timeout, OSError) as error:
                    raise StoreError(f"{folder}: is in use by the sensor ({error}): try again") from error
        yield


def _sequence(data_path: Path, files: Iterable[BatchFile], batch_id: str) -> int | None:
    """The highest `sequence` of a batch's events; of those that were deleted before, the log tells."""
    events = [file.path for file in files if file.kind in ("event", LATEST_EVENT.kind)]
    found = [last_sequence(data_path, batch_id), *map(event_sequence, events)]
    return max((number for number in found if number is not None), default=None)


def event_sequence(path: Path) -> int | None:
    """The `sequence` of an event; None if it has none, or cannot be read."""
    try:
        data = read_object(path).get("data")
    except (StoreError, OSError):
        return None
    sequence = data.get("sequence") if isinstance(data, dict) else None
    return sequence if type(sequence) is int else None
