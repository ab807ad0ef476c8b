"""What the documents of a batch refer to: photos, files that were made of them, and digests of analysed bytes.

Of all batches together this can be much: only ids and names are kept, never documents.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from curation_features.errors import PhotoError, StoreError
from curation_features.inventory.places import (
    ACCEPTED,
    EMBEDDINGS,
    FEATURES,
    INGESTED,
    LATEST_EVENT,
    STAGES,
    TABLE,
    Listing,
    parse_object,
    read_object,
    read_regular,
)
from curation_features.manifest import URI_FIELDS, document_digest
from curation_features.photos.reader import RANKING_FOLDER, is_remote, local_path
from curation_features.settings import Settings
from curation_features.storage.tables import Row, read_rows

_COPY_FIELDS = ("std_uri", "ranking_uri")
_INGESTED_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Footprint:
    """What documents refer to.

    Attributes:
        photos: ids of photos.
        names: the last part of every path that a URI names, wherever it leads. A project that was moved, or is reached
            through a link, may have paths of another place: so a copy in use is known by its name.
        digests: sha256 of the bytes that were analysed.
        copies: files in the folder of copies that `std_uri` and `ranking_uri` name, relative to it.
        apart: of this photo nothing but its id is taken in.
    """

    photos: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    copies: set[str] = field(default_factory=set)
    apart: str | None = None

    def add(self, artifacts: Iterable[Any]) -> None:
        """Take in the photos and names of artifacts."""
        for artifact in artifacts:
            if isinstance(artifact, dict):
                photo_id = artifact.get("photo_id")
                if isinstance(photo_id, str) and is_unicode(photo_id):
                    self.photos.add(photo_id)
                    if photo_id == self.apart:
                        continue
                for uri in _uris(artifact).values():
                    self.names.add(uri.rpartition("/")[2])
                    if "%" in uri:
                        self.names.add(unquote(uri).rpartition("/")[2])

    def add_rows(self, path: Path) -> None:
        """Take in the photos and digests of a table, if it is there. Raises `StoreError`: it cannot be read."""
        for row in table_rows(path, ("photo_id", "sha256")):
            self.photos.add(row["photo_id"])
            if row["sha256"] and row["photo_id"] != self.apart:
                self.digests.add(row["sha256"])

    def update(self, other: Footprint) -> None:
        """Take in another one."""
        self.photos |= other.photos
        self.names |= other.names
        self.digests |= other.digests
        self.copies |= other.copies


def is_unicode(text: str) -> bool:
    """Whether text can be encoded; no valid manifest has an id with a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _uris(artifact: Mapping[str, Any]) -> dict[str, str]:
    return {name: artifact[name] for name in URI_FIELDS if isinstance(artifact.get(name), str)}


class CopyNames:
    """Tells which files in the folder of copies artifacts name, relative to that folder."""

    def __init__(self, settings: Settings) -> None:
        self._root = str(settings.root)
        folder = os.path.normpath(settings.data_path / RANKING_FOLDER)
        self._folders = tuple({os.path.join(found, "") for found in (folder, os.path.realpath(folder))})  # noqa: PTH118
        self._named: set[str] = set()
        self._originals: set[str] = set()

    def add(self, artifacts: Iterable[Any]) -> None:
        """Take in the files that artifacts name."""
        for uris in (_uris(artifact) for artifact in artifacts if isinstance(artifact, dict)):
            self._named |= {self.name(uris[name]) for name in _COPY_FIELDS if name in uris}
            self._originals.add(self.name(uris.get("original_uri", "")))

    def add_photos(self, photo_ids: Iterable[str]) -> None:
        """Take in the files that `ingest` makes of these photos, though no artifact may name them."""
        for photo_id in filter(_INGESTED_ID.fullmatch, photo_ids):
            self._named |= {f"{photo_id}.jpg", f"{photo_id}_1024.jpg"}

    def copies(self) -> set[str]:
        """The copies that were taken in. The original of a photo is not a copy."""
        return self._named - self._originals - {""}

    def name(self, uri: str) -> str:
        """The file that a URI names; empty: it is none of that folder."""
        if not uri or is_remote(uri):
            return ""
        try:
            path = os.path.normpath(os.path.join(self._root, local_path(uri)))  # noqa: PTH118
        except PhotoError:  # of another machine
            return ""
        return next((path[len(folder) :] for folder in self._folders if path.startswith(folder)), "")


# One batch -----------------------------------------------------------------------------------------------------------


def footprint_of(
    settings: Settings, batch_id: str, documents: Iterable[Path] = (), photos: Collection[str] | None = None
) -> Footprint:
    """All that the documents and tables of a batch refer to. What cannot be read is left out: others may say the same.

    Args:
        documents: more manifests of the batch, beside those that it was made from.
        photos: only what is said of these; None: of all.
    """
    found, copies, data_path = Footprint(), CopyNames(settings), settings.data_path
    manifests = (place.path(data_path, batch_id) for place in (INGESTED, ACCEPTED))
    for source in (*map(artifacts_in, (*manifests, *documents)), feature_artifacts(data_path, batch_id)):
        with suppress(StoreError):
            for artifact in source:
                if photos is None or (isinstance(artifact, dict) and artifact.get("photo_id") in photos):
                    found.add([artifact])
                    copies.add([artifact])
    for place in (TABLE, *STAGES, EMBEDDINGS):
        with suppress(StoreError):
            for row in table_rows(place.path(data_path, batch_id), ("photo_id", "sha256")):
                if photos is None or row["photo_id"] in photos:
                    found.photos.add(row["photo_id"])
                    found.digests |= {row["sha256"]} - {None}
    copies.add_photos(found.photos)
    found.copies = copies.copies()
    return found


def feature_artifacts(data_path: Path, batch_id: str) -> Iterator[Any]:
    """The artifacts of finished features, out of the table, a few at a time; without a table, out of the JSON file.

    Raises:
        StoreError: they cannot be read.
    """
    table = TABLE.path(data_path, batch_id)
    if not os.path.lexists(table):
        yield from artifacts_in(FEATURES.path(data_path, batch_id))
        return
    for row in table_rows(table, ("artifact",)):
        try:
            yield json.loads(row["artifact"])
        except (ValueError, TypeError) as error:
            raise StoreError(f"{table}: cannot be read ({error}): make it again, or delete it") from error


def artifacts_in(path: Path) -> Iterator[Any]:
    """The artifacts in a document; none if it is not there, or no manifest. Raises `StoreError`: it cannot be read."""
    with suppress(FileNotFoundError):
        yield from artifacts_of(read_object(path))


def artifacts_of(document: Mapping[str, Any]) -> list[Any]:
    """The artifacts of a document; an empty list if it is not a manifest."""
    artifacts = document.get("artifacts")
    return artifacts if isinstance(artifacts, list) else []


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a table; none if it is not there. Raises `StoreError`: it cannot be read."""
    try:
        if path.is_file():
            yield from read_rows(path, columns)
        elif os.path.lexists(path):  # opening a FIFO would wait for ever
            raise OSError(0, "is not a regular file")
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: cannot be read ({error}): make it again, or delete it") from error


# All batches ---------------------------------------------------------------------------------------------------------


def footprints(
    settings: Settings,
    listing: Listing,
    batch_ids: Iterable[str],
    archived: Mapping[str, Collection[tuple[Path, str]]],
    *,
    tables: bool = False,
    apart: str | None = None,
) -> Iterator[tuple[str, Footprint]]:
    """What each of many batches refers to: `photos` and `names`, and with `tables` also `digests`.

    Args:
        archived: by batch, manifests that the sensor has put away, with the beginning of their digests.
        apart: a photo of which only the id is taken in.

    Raises:
        StoreError: a document or a table cannot be read; the message names it.
    """
    data_path = settings.data_path
    for batch_id in batch_ids:
        found = Footprint(apart=apart)
        digests = _add_manifests(found, data_path, batch_id)
        for path, digest in archived.get(batch_id, ()):
            if not any(known.startswith(digest) for known in digests):
                found.add(artifacts_in(path))
        if batch_id in listing[FEATURES] and not _are_made_from(digests, data_path, listing, batch_id):
            found.add(feature_artifacts(data_path, batch_id))
        if tables or not digests:
            for place in (TABLE, *STAGES, EMBEDDINGS):
                if batch_id in listing[place]:
                    found.add_rows(place.path(data_path, batch_id))
        yield batch_id, found


def _add_manifests(found: Footprint, data_path: Path, batch_id: str) -> set[str]:
    """Take in the manifests of a batch, and give their digests. Mostly the two are the same, byte for byte."""
    digests, seen = set(), b""
    for place in (ACCEPTED, INGESTED):
        path = place.path(data_path, batch_id)
        try:
            data = read_regular(path)
        except FileNotFoundError:
            continue
        except OSError:
            read_object(path)  # says what is wrong
            continue
        if data != seen:
            document = parse_object(path, data)
            found.add(artifacts_of(document))
            digests.add(document_digest(document))
            seen = data
    return digests


def _are_made_from(digests: Collection[str], data_path: Path, listing: Listing, batch_id: str) -> bool:
    """Whether the features of a batch were made from one of these manifests, so that they refer to the same."""
    event = listing[LATEST_EVENT].get(batch_id)
    if event is None or event.written < listing[FEATURES][batch_id].written:
        return False
    try:
        data = read_object(LATEST_EVENT.path(data_path, batch_id)).get("data")
    except (StoreError, OSError):
        return False
    return isinstance(data, dict) and data.get("manifest") in digests
