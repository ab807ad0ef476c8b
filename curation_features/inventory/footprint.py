"""The photos, copies and digests that documents refer to. The documents are not stored, as they are large."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from curation_features.errors import PhotoError, StoreError
from curation_features.inventory.batch_files import (
    THUMBNAILS,
    BatchFile,
    archived_manifests,
    existing,
    named_batch,
    waiting_manifests,
)
from curation_features.manifest import URI_FIELDS, document_digest
from curation_features.photos.reader import INGEST_RECORDS, RANKING_FOLDER, is_remote, local_path
from curation_features.settings import Settings
from curation_features.storage import places
from curation_features.storage.cache import FeatureCache
from curation_features.storage.tables import Row, read_rows

_INGESTED_ID = re.compile(r"[0-9a-f]{64}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Footprint:
    """The references of one or more documents.

    Attributes:
        photos: photo ids.
        names: the last part of every path in a URI. A copy in use is recognised by its name, as a project that was
            moved, or is reached through a link, may have other paths.
        digests: sha256 of the analysed bytes.
        copies: paths in `std_uri` and `ranking_uri`, relative to the folder of copies.
        apart: of this photo only the id is recorded.
    """

    photos: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    copies: set[str] = field(default_factory=set)
    apart: str | None = None

    def add(self, artifacts: Iterable[Any]) -> None:
        """Add the photos and names of artifacts."""
        for artifact in artifacts:
            if isinstance(artifact, dict):
                photo_id = artifact.get("photo_id")
                if isinstance(photo_id, str) and is_unicode(photo_id):
                    self.photos.add(photo_id)
                    if photo_id == self.apart:
                        continue
                for uri in _uris(artifact).values():
                    self.names |= {uri.rpartition("/")[2], unquote(uri).rpartition("/")[2]}

    def add_rows(self, path: Path, photos: Collection[str] | None = None) -> None:
        """Add the photos and digests of a table, if it exists. Raises `StoreError`: it cannot be read.

        Args:
            photos: only these; None: all.
        """
        for row in table_rows(path, ("photo_id", "sha256")):
            if photos is None or row["photo_id"] in photos:
                self.photos.add(row["photo_id"])
                if row["sha256"] and row["photo_id"] != self.apart:
                    self.digests.add(row["sha256"])

    def update(self, other: Footprint) -> None:
        """Add the references of another footprint."""
        self.photos |= other.photos
        self.names |= other.names
        self.digests |= other.digests
        self.copies |= other.copies


def is_unicode(text: str) -> bool:
    """Whether text can be encoded; no valid manifest has an id with a lone surrogate."""
    return _SURROGATE.search(text) is None


def footprint_of(
    settings: Settings, batch_id: str, documents: Iterable[Path] = (), photos: Collection[str] | None = None
) -> Footprint:
    """The references of all documents and tables of a batch; unreadable ones are skipped.

    Args:
        documents: further manifests of the batch.
        photos: only references to these photos; None: to all.
    """
    footprint, data_path = Footprint(), settings.data_path
    selected = []
    manifests = (place.path(data_path, batch_id) for place in (places.INGESTED, places.ACCEPTED))
    for source in (*map(artifacts_in, (*manifests, *documents)), feature_artifacts(data_path, batch_id)):
        with suppress(StoreError):
            for artifact in source:
                if isinstance(artifact, dict) and (photos is None or artifact.get("photo_id") in photos):
                    footprint.add([artifact])
                    selected.append(_uris(artifact))
    for place in places.TABLES:
        with suppress(StoreError):
            footprint.add_rows(place.path(data_path, batch_id), photos)
    cache = FeatureCache(settings.cache_path)  # a run that ended early has written no table, but thumbnails
    footprint.digests.update(filter(None, map(cache.image_digest, footprint.photos)))
    footprint.copies = _copies(settings, selected, footprint.photos)
    return footprint


def photo_files(settings: Settings, footprint: Footprint) -> list[BatchFile]:
    """The existing thumbnails, cache entries and copies of the photos in a footprint."""
    data_path, cache = settings.data_path, FeatureCache(settings.cache_path)
    entries = places.files_in(data_path / THUMBNAILS) if footprint.digests else ()
    names = sorted(entry.name for entry in entries if entry.name.partition("-")[0] in footprint.digests)
    paths = [("thumbnail", data_path / THUMBNAILS / name) for name in names]
    for photo_id in sorted(footprint.photos):
        paths.append(("cache", cache.path(photo_id)))
        if _INGESTED_ID.fullmatch(photo_id):  # `ingest` names photos so
            paths.append(("cache", data_path / INGEST_RECORDS / f"{photo_id}.json"))
    paths += [("copy", data_path / RANKING_FOLDER / name) for name in sorted(footprint.copies)]
    return list(existing(paths))


def _uris(artifact: Mapping[str, Any]) -> dict[str, str]:
    return {name: artifact[name] for name in URI_FIELDS if isinstance(artifact.get(name), str)}


def _copies(settings: Settings, artifacts: Iterable[Mapping[str, str]], photo_ids: Iterable[str]) -> set[str]:
    """The copies of photos, relative to the folder of copies: those in URIs, and those that `ingest` names by ids.

    The original of a photo is never a copy.
    """
    root, folder = str(settings.root), os.path.normpath(settings.data_path / RANKING_FOLDER)
    folders = {os.path.join(path, "") for path in (folder, os.path.realpath(folder))}  # noqa: PTH118

    def name(uri: str) -> str:
        with suppress(PhotoError):  # a path on another machine
            path = os.path.normpath(os.path.join(root, local_path(uri))) if uri and not is_remote(uri) else ""  # noqa: PTH118
            return next((path[len(prefix) :] for prefix in folders if path.startswith(prefix)), "")
        return ""

    copies = {name(uris.get(field, "")) for uris in artifacts for field in ("std_uri", "ranking_uri")}
    for photo_id in filter(_INGESTED_ID.fullmatch, photo_ids):
        copies |= {f"{photo_id}.jpg", f"{photo_id}_1024.jpg"}
    return copies - {name(uris.get("original_uri", "")) for uris in artifacts} - {""}


# Documents -----------------------------------------------------------------------------------------------------------


def feature_artifacts(data_path: Path, batch_id: str) -> Iterator[Any]:
    """The artifacts of finished features, streamed from the table, or else from the JSON file.

    Raises:
        StoreError: they cannot be read.
    """
    table = places.TABLE.path(data_path, batch_id)
    if not os.path.lexists(table):
        yield from artifacts_in(places.FEATURES.path(data_path, batch_id))
        return
    for row in table_rows(table, ("artifact",)):
        try:
            yield json.loads(row["artifact"])
        except (ValueError, TypeError) as error:
            raise _unreadable(table, error) from error


def artifacts_in(path: Path) -> Iterator[Any]:
    """The artifacts in a JSON file; none if it does not exist. Raises `StoreError`: it cannot be read."""
    with suppress(FileNotFoundError):
        yield from artifacts_of(places.read_object(path))


def artifacts_of(document: Mapping[str, Any]) -> list[Any]:
    """The artifacts of a document; an empty list if it is not a manifest."""
    artifacts = document.get("artifacts")
    return artifacts if isinstance(artifacts, list) else []


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a table; none if it does not exist. Raises `StoreError`: it cannot be read."""
    try:
        if path.is_file():
            yield from read_rows(path, columns)
        elif os.path.lexists(path):  # opening a FIFO would block
            raise OSError(0, "is not a regular file")
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path}: cannot be read ({error}): make it again, or delete it")


# All batches ---------------------------------------------------------------------------------------------------------


class References:
    """The places of a project, listed once, and the footprints of its batches.

    Args:
        apart: a photo of which only the id is recorded.

    Attributes:
        waiting: footprints of the manifests that wait for the sensor, by batch id, or else path.
        listing: the files of each place.
        documented: the batches that have a manifest or features.
        batch_ids: these, and those that have any other file, sorted.

    Raises:
        StoreError: a folder cannot be listed, or a waiting manifest cannot be read.
    """

    def __init__(self, settings: Settings, apart: str | None = None) -> None:
        self._data_path = settings.data_path
        self._apart = apart
        # Waiting manifests come first: the sensor may accept one meanwhile, and it is seen either here or below.
        self.waiting = [self._waiting_footprint(path) for path in waiting_manifests(settings)]
        self._archived = archived_manifests(settings)
        self.listing = places.list_places(settings.data_path)
        self.documented = {*self._archived, *(name for place in places.BATCHES for name in self.listing[place])}
        self.batch_ids = sorted(self.documented.union(*self.listing.values()))

    def _waiting_footprint(self, path: Path) -> tuple[str, Footprint]:
        footprint = Footprint(apart=self._apart)
        try:
            footprint.add(artifacts_in(path))
        except StoreError as error:
            raise StoreError(f"{error}; if it is still being written, wait until the sensor has accepted it") from error
        return named_batch(path) or str(path), footprint

    def footprints(
        self, batch_ids: Iterable[str], *, tables: bool = False, progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[str, Footprint]]:
        """Yield the `photos` and `names` of each batch.

        Args:
            tables: also the `digests`, which only tables have.
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or a table cannot be read; names it.
        """
        for batch_id in batch_ids:
            footprint = Footprint(apart=self._apart)
            digests = self._add_manifests(footprint, batch_id)
            for path, digest in self._archived.get(batch_id, ()):
                if not any(known.startswith(digest) for known in digests):
                    footprint.add(artifacts_in(path))
            if batch_id in self.listing[places.FEATURES] and not self._are_made_from(digests, batch_id):
                footprint.add(feature_artifacts(self._data_path, batch_id))
            if tables or not digests:
                for place in places.TABLES:
                    if batch_id in self.listing[place]:
                        footprint.add_rows(place.path(self._data_path, batch_id))
            yield batch_id, footprint
            if progress:
                progress(1)

    def _add_manifests(self, footprint: Footprint, batch_id: str) -> set[str]:
        """Add the manifests of a batch, which are often identical, and return their digests."""
        digests, seen = set(), b""
        for place in (places.ACCEPTED, places.INGESTED):
            path = place.path(self._data_path, batch_id)
            try:
                data = places.read_regular(path)
            except FileNotFoundError:
                continue
            if data != seen:
                document = places.parse_object(path, data)
                footprint.add(artifacts_of(document))
                digests.add(document_digest(document))
                seen = data
        return digests

    def _are_made_from(self, digests: Collection[str], batch_id: str) -> bool:
        """Whether the features of a batch were made from one of these manifests, with the same references."""
        if not places.is_announced(places.files_of(self.listing, batch_id)):
            return False
        _, data = places.read_event(places.LATEST_EVENT.path(self._data_path, batch_id))
        return data.get("manifest") in digests
