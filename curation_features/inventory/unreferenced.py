"""Files that nothing refers to: of photos that no batch has, of batches that are gone, and of killed writes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from curation_features.atomic_files import is_leftover
from curation_features.inventory.batch_files import (
    JOURNAL,
    PENDING,
    QUARANTINE,
    THUMBNAILS,
    BatchFile,
    archived_manifests,
    there,
    waiting_footprints,
)
from curation_features.inventory.footprint import Footprint, footprints
from curation_features.inventory.places import (
    ACCEPTED,
    ADOPTION,
    EMBEDDINGS,
    FEATURES,
    INGESTED,
    LATEST_EVENT,
    PAGE,
    PLACES,
    STAGES,
    TABLE,
    files_in,
    list_places,
)
from curation_features.photos.reader import RANKING_FOLDER
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache

ORPHANS = (*STAGES, TABLE, EMBEDDINGS, PAGE, LATEST_EVENT, ADOPTION)
"""Places whose files are of no use without a manifest or features of their batch."""

_CACHE_ENTRY = re.compile(r"[0-9a-f]{32}\.json")
_THUMBNAIL = re.compile(r"(?P<digest>[0-9a-f]{64})-[0-9]+\.[a-z]+")
_COPY = re.compile(r"[0-9a-f]{64}(_[0-9]+)?\.jpg")  # as `ingest` names them: other services may keep files there, too


def is_old(path: Path, seconds: float) -> bool:
    """Whether a file is there and was not touched for so long, by its times of any change."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return seconds <= 0 or time.time() - max(found.st_mtime, found.st_ctime) >= seconds


class UnreferencedFiles:
    """A search for what nothing refers to.

    Candidates are listed before any manifest is read, so that what is ingested meanwhile counts as in use.

    Args:
        older_than_s: younger files are left out: an ingest that is running has not written its manifest yet.

    Attributes:
        batch_ids: the batches whose documents `find` will read.

    Raises:
        StoreError: a folder cannot be listed, or a manifest that waits for the sensor cannot be read.
    """

    def __init__(self, settings: Settings, older_than_s: float) -> None:
        self._settings = settings
        self._older_than_s = older_than_s
        self._candidates = list(self._old(self._of_photos()))
        self._in_use = Footprint()
        waiting: set[str] = set()
        for batch_id, found in waiting_footprints(settings):  # before those that the sensor accepts meanwhile
            self._in_use.update(found)
            waiting.add(batch_id)
        self._archived = archived_manifests(settings)
        self._listing = list_places(settings.data_path)
        alive = {batch_id for place in (INGESTED, ACCEPTED, FEATURES) for batch_id in self._listing[place]}
        self._alive = alive | waiting | self._archived.keys()
        self._orphans = list(self._old(self._of_batches()))
        doomed = {file.path for file in self._orphans}
        others = (
            batch_id
            for place in (TABLE, *STAGES, EMBEDDINGS)
            for batch_id in self._listing[place]
            if place.path(settings.data_path, batch_id) not in doomed
        )
        self.batch_ids = sorted(alive.union(self._archived, others))

    def find(self, progress: Callable[[int], None] | None = None) -> list[BatchFile]:
        """The files that nothing refers to; of a batch that is gone, its kind is that of its place.

        Args:
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or table cannot be read, so that its photos would count as unreferenced.
        """
        for _, found in footprints(self._settings, self._listing, self.batch_ids, self._archived, tables=True):
            self._in_use.update(found)
            if progress:
                progress(1)
        cache = FeatureCache(self._settings.cache_path)
        entries = {cache.path(photo_id).name for photo_id in self._in_use.photos}
        in_use = {"cache": entries, "copy": self._in_use.names, "thumbnail": self._in_use.digests}
        photos = [file for file in self._candidates if _key(file) not in in_use[file.kind]]
        return [*photos, *self._orphans, *self._old(self._leftovers())]

    def _old(self, paths: Iterator[tuple[str, Path]]) -> Iterator[BatchFile]:
        return (file for file in there(paths) if is_old(file.path, self._older_than_s))

    def _of_photos(self) -> Iterator[tuple[str, Path]]:
        data_path = self._settings.data_path
        patterns = (
            ("copy", data_path / RANKING_FOLDER, _COPY),
            ("cache", self._settings.cache_path, _CACHE_ENTRY),
            ("thumbnail", data_path / THUMBNAILS, _THUMBNAIL),
        )
        for kind, folder, pattern in patterns:
            for entry in files_in(folder):
                if pattern.fullmatch(entry.name):
                    yield kind, folder / entry.name

    def _of_batches(self) -> Iterator[tuple[str, Path]]:
        for place in ORPHANS:
            for batch_id in self._listing[place]:
                if batch_id not in self._alive:
                    yield place.kind, place.path(self._settings.data_path, batch_id)

    def _leftovers(self) -> Iterator[tuple[str, Path]]:
        """What killed processes have left of their writes."""
        data_path = self._settings.data_path
        names = {place.folder for place in PLACES} | {RANKING_FOLDER, "cache", "incoming", "incoming/.claimed"}
        folders = {data_path / name for name in names} | {self._settings.cache_path}
        for folder in sorted(folders | {data_path / name for name in (THUMBNAILS, JOURNAL, PENDING, QUARANTINE)}):
            for entry in files_in(folder, hidden=True):
                if is_leftover(folder / entry.name):
                    yield "leftover", folder / entry.name


def _key(file: BatchFile) -> str:
    """What a candidate is referred to by."""
    found = _THUMBNAIL.fullmatch(file.path.name)
    return found["digest"] if found else file.path.name
