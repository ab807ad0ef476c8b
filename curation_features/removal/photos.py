"""One photo, deleted from the batches that have it, with what was made of it; its original stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from curation_features.errors import InputError
from curation_features.inventory.batch_files import (
    QUARANTINE,
    THUMBNAILS,
    BatchFile,
    archived_manifests,
    incoming_files,
    incoming_folders,
    named_batch,
    photo_files,
    there,
    waiting_footprints,
)
from curation_features.inventory.footprint import Footprint, footprint_of, footprints, is_unicode
from curation_features.inventory.places import FEATURES, files_in, list_places
from curation_features.manifest import Batch, is_batch_id
from curation_features.photos.reader import RANKING_FOLDER
from curation_features.removal.batches import alone_in
from curation_features.removal.deleting import DataFolder
from curation_features.removal.shortening import holds_photo, remove_from_batch, shorten_incoming
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import deletions, record_deletion


@dataclass(frozen=True, slots=True)
class PhotoRemoval:
    """What goes with a photo.

    Attributes:
        batches: those that lose it.
        others: those that keep it; what was made of it stays then.
        files: to be deleted: thumbnails, cache entry, copies, and quarantined manifests that hold it.
        kept: manifests outside the data folder that hold it, where nothing is changed.
        begun: batches that the last removal of this photo may not have announced, as it was interrupted.
    """

    photo_id: str
    batches: tuple[str, ...]
    others: tuple[str, ...]
    files: tuple[BatchFile, ...]
    kept: tuple[Path, ...]
    begun: tuple[str, ...]


class PhotoSearch:
    """A search for all that refers to a photo.

    Args:
        only: leave it out of this batch alone; None: out of all.

    Attributes:
        batch_ids: the batches whose documents `find` will read.

    Raises:
        InputError: no photo can have this id.
        StoreError: a manifest that waits for the sensor cannot be read.
    """

    def __init__(self, settings: Settings, photo_id: str, only: str | None = None) -> None:
        if not is_unicode(photo_id):
            raise InputError(f"no photo has the id {photo_id!a}: it is not Unicode text")
        self._settings = settings
        self._photo_id = photo_id
        self._only = only
        self._holders: set[str] = set()
        self._others = Footprint(apart=photo_id)
        for batch_id, found in waiting_footprints(settings, photo_id):
            self._note(batch_id, found)
        self._archived = archived_manifests(settings)
        self._listing = list_places(settings.data_path)
        ids = {batch_id for found in self._listing.values() for batch_id in found}
        self.batch_ids = sorted(ids.union(self._archived))

    def find(self, progress: Callable[[int], None] | None = None) -> PhotoRemoval:
        """Read the documents of all batches.

        Args:
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or table cannot be read, and might hold the photo.
            InputError: the batch does not have the photo, or nothing refers to it.
        """
        scan = footprints(
            self._settings, self._listing, self.batch_ids, self._archived, tables=True, apart=self._photo_id
        )
        for batch_id, found in scan:
            self._note(batch_id, found)
            if progress:
                progress(1)
        if self._only is not None and self._only not in self._holders:
            raise InputError(f"batch {self._only!r} has no photo {self._photo_id!r}")
        batches = {self._only} if self._only is not None else self._holders
        begun = {batch for line in self._earlier()[-1:] for batch in line.get("batches", ())}
        others = self._holders - batches
        files = [*self._quarantined(), *([] if others else self._files(batches))]
        if not batches and not files:
            raise InputError(f"nothing in {self._settings.data_path} refers to a photo {self._photo_id!r}")
        folder = DataFolder(self._settings.data_path)
        kept = [path for batch_id in batches for path in incoming_files(self._settings, batch_id)]
        return PhotoRemoval(
            self._photo_id,
            tuple(sorted(batches)),
            tuple(sorted(others)),
            tuple(files),
            tuple(path for path in kept if not folder.holds(path) and holds_photo(path, self._photo_id)),
            tuple(sorted(begun.intersection(self._listing[FEATURES]) - batches)),
        )

    def _note(self, batch_id: str, found: Footprint) -> None:
        self._others.update(found)
        if self._photo_id in found.photos and is_batch_id(batch_id):
            self._holders.add(batch_id)

    def _files(self, batches: set[str]) -> list[BatchFile]:
        """What was made of the photo, and of no other one."""
        own = Footprint({self._photo_id})
        for batch_id in batches or {""}:
            documents = incoming_files(self._settings, batch_id)
            own.update(footprint_of(self._settings, batch_id, documents, {self._photo_id}))
        own.digests -= self._others.digests
        own.copies = {name for name in own.copies if PurePath(name).name not in self._others.names}
        logged = [name for line in self._earlier() for name in line.get("files", ())]
        known = photo_files(self._settings, own)
        return [*known, *(file for file in self._logged(logged) if file not in known)]

    def _logged(self, names: list[str]) -> Iterator[BatchFile]:
        """Files that an earlier removal meant to delete, and that are of no other photo."""
        kinds = {RANKING_FOLDER: "copy", str(THUMBNAILS): "thumbnail"}
        for path in (PurePath(name) for name in names):
            kind = next((kind for folder, kind in kinds.items() if path.is_relative_to(folder)), None)
            in_use = path.name in self._others.names or path.name.partition("-")[0] in self._others.digests
            if kind and not in_use and ".." not in path.parts:
                yield from there([(kind, self._settings.data_path / path)])

    def _earlier(self) -> list[dict[str, Any]]:
        """The log's lines about this photo."""
        found = deletions(self._settings.data_path)
        return [line for line in found if line.get("photo_id") == self._photo_id]

    def _quarantined(self) -> Iterator[BatchFile]:
        """Manifests in quarantine that hold the photo; the reason of each comes before it."""
        folder = self._settings.data_path / QUARANTINE
        for entry in sorted(files_in(folder), key=lambda entry: entry.name):
            path = folder / entry.name
            wanted = entry.name.endswith(".json") and not entry.name.endswith(".reason.json")
            if wanted and holds_photo(path, self._photo_id) and self._only in (None, named_batch(path)):
                reason = path.with_name(f"{entry.name.removesuffix('.json')}.reason.json")
                yield from there([("quarantine_reason", reason), ("quarantined", path)])


def remove_photo(
    settings: Settings, store: ArtifactStore, removal: PhotoRemoval, accept: Callable[[Batch], None]
) -> None:
    """Delete a photo, and write that to the log. What was made of it goes once no batch has it any more.

    Args:
        accept: takes the new manifest of each batch that was accepted.

    Raises:
        StoreError: a batch is being made now, or a file cannot be read, written or deleted; the same call again
            completes the removal.
    """
    data_path = settings.data_path
    folder = DataFolder(data_path)
    folder.check(file.path for file in removal.files)
    made = [str(file.path.relative_to(data_path)) for file in removal.files if file.kind in ("copy", "thumbnail")]
    record_deletion(data_path, photo_id=removal.photo_id, batches=[*removal.batches, *removal.begun], files=made)
    for batch_id in (*removal.batches, *removal.begun):
        with store.exclusive(batch_id, wait=False):
            with alone_in(incoming_folders(settings)):
                shorten_incoming(settings, batch_id, removal.photo_id)
            remove_from_batch(settings, store, batch_id, removal.photo_id, accept)
    for file in removal.files:
        folder.delete(file.path)
