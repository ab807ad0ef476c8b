"""The photos, copies and digests that the documents of a batch refer to. Documents are not kept, as they are large."""

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
from curation_features.inventory.places import ACCEPTED, FEATURES, INGESTED, TABLE, TABLES, read_object
from curation_features.manifest import URI_FIELDS
from curation_features.photos.reader import RANKING_FOLDER, is_remote, local_path
from curation_features.settings import Settings
from curation_features.storage.tables import Row, read_rows

_INGESTED_ID = re.compile(r"[0-9a-f]{64}")


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
                    self.names.add(uri.rpartition("/")[2])
                    if "%" in uri:
                        self.names.add(unquote(uri).rpartition("/")[2])

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
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def footprint_of(
    settings: Settings, batch_id: str, documents: Iterable[Path] = (), photos: Collection[str] | None = None
) -> Footprint:
    """The references of all documents and tables of a batch; unreadable ones are skipped.

    Args:
        documents: further manifests of the batch.
        photos: only references to these photos; None: to all.
    """
    footprint, data_path = Footprint(), settings.data_path
    uris: list[dict[str, str]] = []
    manifests = (place.path(data_path, batch_id) for place in (INGESTED, ACCEPTED))
    for source in (*map(artifacts_in, (*manifests, *documents)), feature_artifacts(data_path, batch_id)):
        with suppress(StoreError):
            for artifact in source:
                is_dict = isinstance(artifact, dict)
                if photos is None or (is_dict and artifact.get("photo_id") in photos):
                    footprint.add([artifact])
                    uris += [_uris(artifact)] if is_dict else []
    for place in TABLES:
        with suppress(StoreError):
            footprint.add_rows(place.path(data_path, batch_id), photos)
    footprint.copies = _copies(settings, uris, footprint.photos)
    return footprint


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
    table = TABLE.path(data_path, batch_id)
    if not os.path.lexists(table):
        yield from artifacts_in(FEATURES.path(data_path, batch_id))
        return
    for row in table_rows(table, ("artifact",)):
        try:
            yield json.loads(row["artifact"])
        except (ValueError, TypeError) as error:
            raise _unreadable(table, error) from error


def artifacts_in(path: Path) -> Iterator[Any]:
    """The artifacts in a JSON file; none if it does not exist. Raises `StoreError`: it cannot be read."""
    with suppress(FileNotFoundError):
        yield from artifacts_of(read_object(path))


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
