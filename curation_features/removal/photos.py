"""Deletes one photo from the batches that have it, and the files made of it; its original stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from curation_features.errors import InputError
from curation_features.inventory.batch_files import (
    THUMBNAILS,
    BatchFile,
    existing,
    incoming_files,
    named_batch,
    photo_files,
    quarantined_manifests,
    with_reason,
)
from curation_features.inventory.footprint import Footprint, footprint_of, is_unicode
from curation_features.inventory.places import FEATURES
from curation_features.inventory.references import References
from curation_features.manifest import Batch, is_batch_id
from curation_features.photos.reader import RANKING_FOLDER
from curation_features.removal.batches import locked_folders
from curation_features.removal.files import DataFolder
from curation_features.removal.shortening import holds_photo, remove_from_batch, shorten_incoming
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import deletions, record_deletion


@dataclass(frozen=True, slots=True)
class PhotoRemoval:
    """The deletion of a photo.

    Attributes:
        batches: the batches that lose it.
        others: the batches that keep it; the files made of it stay then.
        files: files to delete: thumbnails, cache entry, copies, and quarantined manifests that hold it.
        kept: manifests outside the data folder that hold it, and stay unchanged.
        begun: batches of an earlier, interrupted removal of this photo, which may not be announced yet.
    """

    photo_id: str
    batches: tuple[str, ...]
    others: tuple[str, ...]
    files: tuple[BatchFile, ...]
    kept: tuple[Path, ...]
    begun: tuple[str, ...]


class PhotoSearch:
    """A search for all references to a photo.

    Args:
        only: remove it from this batch alone; None: from all.

    Attributes:
        batch_ids: the batches whose documents `find` reads.

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
        self._references = References(settings, photo_id)
        self._log = [line for line in deletions(settings.data_path) if line.get("photo_id") == photo_id]
        for batch_id, footprint in self._references.waiting:
            self._add(batch_id, footprint)
        self.batch_ids = self._references.batch_ids

    def find(self, progress: Callable[[int], None] | None = None) -> PhotoRemoval:
        """Read the documents of all batches.

        Args:
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or table cannot be read, and might hold the photo.
            InputError: the batch does not have the photo, or nothing refers to it.
        """
        for batch_id, footprint in self._references.footprints(self.batch_ids, tables=True, progress=progress):
            self._add(batch_id, footprint)
        if self._only is not None and self._only not in self._holders:
            raise InputError(f"batch {self._only!r} has no photo {self._photo_id!r}")
        batches = {self._only} if self._only is not None else self._holders
        begun = {batch for line in self._log[-1:] for batch in line.get("batches", ())}
        others = self._holders - batches
        files = [*self._quarantined_files(), *([] if others else self._photo_files(batches))]
        if not batches and not files:
            raise InputError(f"nothing in {self._settings.data_path} refers to a photo {self._photo_id!r}")
        folder = DataFolder(self._settings.data_path)
        manifests = [path for batch_id in batches for path in incoming_files(self._settings, batch_id)]
        return PhotoRemoval(
            self._photo_id,
            tuple(sorted(batches)),
            tuple(sorted(others)),
            tuple(files),
            tuple(path for path in manifests if not folder.holds(path) and holds_photo(path, self._photo_id)),
            tuple(sorted(begun.intersection(self._references.listing[FEATURES]) - batches)),
        )

    def _add(self, batch_id: str, footprint: Footprint) -> None:
        self._others.update(footprint)
        if self._photo_id in footprint.photos and is_batch_id(batch_id):
            self._holders.add(batch_id)

    def _photo_files(self, batches: set[str]) -> list[BatchFile]:
        """The files made of this photo alone, including those that an interrupted removal has logged."""
        own = Footprint({self._photo_id})
        for batch_id in batches or {""}:
            documents = incoming_files(self._settings, batch_id)
            own.update(footprint_of(self._settings, batch_id, documents, {self._photo_id}))
        own.digests -= self._others.digests
        own.copies = {name for name in own.copies if PurePath(name).name not in self._others.names}
        files = photo_files(self._settings, own)
        return [*files, *(file for file in self._logged_files() if file not in files)]

    def _logged_files(self) -> Iterator[BatchFile]:
        kinds = {RANKING_FOLDER: "copy", str(THUMBNAILS): "thumbnail"}
        for path in (PurePath(name) for line in self._log for name in line.get("files", ())):
            kind = next((kind for folder, kind in kinds.items() if path.is_relative_to(folder)), None)
            in_use = path.name in self._others.names or path.name.partition("-")[0] in self._others.digests
            if kind and not in_use and ".." not in path.parts:
                yield from existing([(kind, self._settings.data_path / path)])

    def _quarantined_files(self) -> Iterator[BatchFile]:
        for path in quarantined_manifests(self._settings.data_path):
            if holds_photo(path, self._photo_id) and self._only in (None, named_batch(path)):
                yield from existing(with_reason(path))


def remove_photo(
    settings: Settings, store: ArtifactStore, removal: PhotoRemoval, accept: Callable[[Batch], None]
) -> None:
    """Delete a photo, and log it. The files made of it are deleted once no batch has it.

    Args:
        accept: takes the new manifest of each batch that was accepted.

    Raises:
        StoreError: a batch is being made now, or a file cannot be read, written or deleted; the same call again
            completes the removal.
    """
    data_path, photo_id = settings.data_path, removal.photo_id
    folder, batches = DataFolder(data_path), [*removal.batches, *removal.begun]
    folder.check(file.path for file in removal.files)
    made = [str(file.path.relative_to(data_path)) for file in removal.files if file.kind in ("copy", "thumbnail")]
    record_deletion(data_path, photo_id=photo_id, batches=batches, files=made)
    for batch_id in batches:
        with store.exclusive(batch_id, wait=False):
            with locked_folders(settings):
                shorten_incoming(settings, batch_id, photo_id)
            remove_from_batch(settings, store, batch_id, photo_id, accept)
    for file in removal.files:
        folder.delete(file.path)
