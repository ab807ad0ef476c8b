"""Where the files of a batch lie: a place for each kind, one file per batch in each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from curation_features.atomic_files import open_regular
from curation_features.errors import StoreError
from curation_features.manifest import EVENT_TYPE
from curation_features.storage.tables import STAGE_TABLES


@dataclass(frozen=True, slots=True, eq=False)  # as itself: its hash is asked for hundreds of thousands of times
class Place:
    """Files `{folder}/{batch_id}{suffix}` in the data folder."""

    kind: str
    folder: str
    suffix: str

    def path(self, data_path: Path, batch_id: str) -> Path:
        """The file of a batch."""
        return Path(f"{data_path}/{self.folder}/{batch_id}{self.suffix}")  # in one piece: there are many


class Found(NamedTuple):
    """A file that is there: its size in bytes, and when it was last written (ns since 1970)."""

    bytes: int
    written: int


INGESTED = Place("ingested_manifest", "batches", ".json")
ACCEPTED = Place("accepted_manifest", "manifests", ".json")
FEATURES = Place("features", "features", ".json")
TABLE = Place("table", "features", ".parquet")
PAGE = Place("page", "features", ".html")
EMBEDDINGS = Place("embeddings", "features/embeddings", ".parquet")
STAGES = tuple(Place(stage, f"stages/{stage}", ".parquet") for stage in STAGE_TABLES)
LATEST_EVENT = Place("latest_event", "events/latest", ".json")
ADOPTION = Place("adoption", "adoptions", ".json")

PLACES = (INGESTED, ACCEPTED, FEATURES, TABLE, PAGE, EMBEDDINGS, *STAGES, LATEST_EVENT, ADOPTION)

Listing = Mapping[Place, Mapping[str, Found]]
"""For each place the files that are there, by the id of their batch."""


def list_places(data_path: Path) -> Listing:
    """What is in every place."""
    listing: dict[Place, dict[str, Found]] = {place: {} for place in PLACES}
    by_folder: dict[str, list[Place]] = {}
    for place in PLACES:
        by_folder.setdefault(place.folder, []).append(place)
    for folder, places in by_folder.items():
        suffixes = {place.suffix[1:]: listing[place] for place in places}
        for entry in files_in(data_path / folder):
            name, _, suffix = entry.name.rpartition(".")
            if suffix in suffixes:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted meanwhile
                    continue
                suffixes[suffix][name] = Found(found.st_size, found.st_mtime_ns)
    return listing


def files_in(folder: Path, *, hidden: bool = False) -> Iterator[os.DirEntry[str]]:
    """The files in a folder, links among them; none if the folder is not there.

    Args:
        hidden: those whose names begin with a dot instead of the others.

    Raises:
        StoreError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") == hidden and not entry.is_dir(follow_symlinks=False):
                    yield entry
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StoreError(f"{folder}: cannot be listed ({error.strerror}): check its permissions") from error


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; opening it never waits. Raises `OSError`, also for a file that is not regular."""
    with open_regular(path) as file:
        return file.read()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; of a manifest that came as an event, the manifest.

    Raises:
        StoreError: it cannot be read, or holds no JSON object; the message names it.
        FileNotFoundError: it is not there.
    """
    try:
        return parse_object(path, read_regular(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error.strerror or error) from error


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The same of the bytes that were read from `path`. Raises `StoreError`."""
    try:
        document = _DECODER.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if isinstance(document, dict) and document.get("type") == EVENT_TYPE and isinstance(document.get("data"), dict):
        document = document["data"]
    if not isinstance(document, dict):
        raise _unreadable(path, "it holds no JSON object")
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # made once: with an option, `json.loads` makes one at each call


def _unreadable(path: Path, reason: object) -> StoreError:
    return StoreError(f"{path}: cannot be read ({reason}): repair or delete it, then run again")
