"""Unreferenced files: of photos in no batch, of deleted batches, and leftovers of killed writes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from curation_features.atomic_files import is_leftover
from curation_features.inventory.batch_files import JOURNAL, PENDING, QUARANTINE, THUMBNAILS, BatchFile, existing
from curation_features.inventory.footprint import Footprint, References
from curation_features.photos.reader import INGEST_RECORDS, RANKING_FOLDER
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache
from curation_features.storage.places import ADOPTION, LATEST_EVENT, PAGE, PLACES, TABLES, Place, files_in

ORPHANS = (*TABLES, PAGE, LATEST_EVENT, ADOPTION)
"""Places whose files have no use without a manifest or features of their batch."""

_CACHE_ENTRY = re.compile(r"[0-9a-f]{32}\.json")
_INGEST_RECORD = re.compile(r"[0-9a-f]{64}\.json")
_THUMBNAIL = re.compile(r"(?P<digest>[0-9a-f]{64})-[0-9]+\.[a-z]+")
_COPY = re.compile(r"[0-9a-f]{64}(_[0-9]+)?\.jpg")  # named by `ingest`; other services may keep files there


def is_old(path: Path, seconds: float) -> bool:
    """Whether a file exists and its mtime and ctime are at least `seconds` ago."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return seconds <= 0 or time.time() - max(status.st_mtime, status.st_ctime) >= seconds


class UnreferencedFiles:
    """A search for unreferenced files.

    Candidates are listed before manifests are read, so that files of a concurrent ingest count as in use.

    Args:
        older_than_s: younger files are skipped: a running ingest has not written its manifest yet.

    Attributes:
        batch_ids: the batches whose documents `find` reads.

    Raises:
        StoreError: a folder cannot be listed, or a manifest that waits for the sensor cannot be read.
    """

    def __init__(self, settings: Settings, older_than_s: float) -> None:
        self._settings = settings
        self._older_than_s = older_than_s
        self._candidates = self._old(self._photo_files())
        self._references = References(settings)
        alive = self._references.documented.union(batch_id for batch_id, _ in self._references.waiting)
        self._orphans = self._old(
            (kind, path) for kind, path, batch_id in self._files_in(ORPHANS) if batch_id not in alive
        )
        orphans = {file.path for file in self._orphans}
        others = (batch_id for _, path, batch_id in self._files_in(TABLES) if path not in orphans)
        self.batch_ids = sorted(self._references.documented.union(others))

    def find(self, progress: Callable[[int], None] | None = None) -> list[BatchFile]:
        """Find the unreferenced files; the kind of an orphan is that of its place.

        Args:
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or table cannot be read, so that its photos would count as unreferenced.
        """
        in_use = Footprint()
        others = self._references.footprints(self.batch_ids, tables=True, progress=progress)
        for _, footprint in chain(self._references.waiting, others):
            in_use.update(footprint)
        cache = FeatureCache(self._settings.cache_path)
        entries = {cache.path(photo_id).name for photo_id in in_use.photos}
        entries |= {f"{photo_id}.json" for photo_id in in_use.photos}  # records of `ingest`
        keys = {"cache": entries, "copy": in_use.names, "thumbnail": in_use.digests}
        photos = [file for file in self._candidates if _key(file) not in keys[file.kind]]
        return [*photos, *self._orphans, *self._old(self._leftovers())]

    def _old(self, paths: Iterable[tuple[str, Path]]) -> list[BatchFile]:
        return [file for file in existing(paths) if is_old(file.path, self._older_than_s)]

    def _files_in(self, places: Iterable[Place]) -> Iterator[tuple[str, Path, str]]:
        for place in places:
            for batch_id in self._references.listing[place]:
                yield place.kind, place.path(self._settings.data_path, batch_id), batch_id

    def _photo_files(self) -> Iterator[tuple[str, Path]]:
        data_path = self._settings.data_path
        patterns = (
            ("copy", data_path / RANKING_FOLDER, _COPY),
            ("cache", self._settings.cache_path, _CACHE_ENTRY),
            ("cache", data_path / INGEST_RECORDS, _INGEST_RECORD),
            ("thumbnail", data_path / THUMBNAILS, _THUMBNAIL),
        )
        for kind, folder, pattern in patterns:
            names = (entry.name for entry in files_in(folder))
            yield from ((kind, folder / name) for name in names if pattern.fullmatch(name))

    def _leftovers(self) -> Iterator[tuple[str, Path]]:
        """The temporary files of killed processes."""
        data_path = self._settings.data_path
        names = {place.folder for place in PLACES} | {RANKING_FOLDER, "cache", "incoming", "incoming/.claimed"}
        names |= {INGEST_RECORDS, *map(str, (THUMBNAILS, JOURNAL, PENDING, QUARANTINE))}
        folders = {data_path / name for name in names}
        for folder in sorted(folders | {self._settings.cache_path}):
            paths = (folder / entry.name for entry in files_in(folder, hidden=True))
            yield from (("leftover", path) for path in paths if is_leftover(path))


def _key(file: BatchFile) -> str:
    """The digest, or else the file name, that references have."""
    match = _THUMBNAIL.fullmatch(file.path.name)
    return match["digest"] if match else file.path.name
