"""Places in the data folder: each holds one file per batch."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from curation_features.atomic_files import open_regular
from curation_features.errors import StoreError
from curation_features.manifest import EVENT_TYPE
from curation_features.storage.tables import STAGE_TABLES


@dataclass(frozen=True, slots=True, eq=False)  # identity hash: it is computed hundreds of thousands of times
class Place:
    """Files `{folder}/{batch_id}{suffix}` in the data folder."""

    kind: str
    folder: str
    suffix: str

    def path(self, data_path: Path, batch_id: str) -> Path:
        """The file of a batch."""
        return Path(f"{data_path}/{self.folder}/{batch_id}{self.suffix}")  # faster than `/` for many batches


class Found(NamedTuple):
    """An existing file: size in bytes, time of the last write in ns since 1970."""

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

BATCHES = (INGESTED, ACCEPTED, FEATURES)
"""A batch exists if it has a file in one of these."""
TABLES = (TABLE, *STAGES, EMBEDDINGS)
PLACES = (INGESTED, ACCEPTED, FEATURES, TABLE, PAGE, EMBEDDINGS, *STAGES, LATEST_EVENT, ADOPTION)

Listing = Mapping[Place, Mapping[str, Found]]
"""Existing files by place and batch id."""


def list_places(data_path: Path, places: Collection[Place] = PLACES) -> Listing:
    """List the files of some places, or of all."""
    listing: dict[Place, dict[str, Found]] = {place: {} for place in places}
    for folder in {place.folder for place in places}:
        by_suffix = {place.suffix: listing[place] for place in places if place.folder == folder}
        for entry in files_in(data_path / folder):
            name, dot, suffix = entry.name.rpartition(".")
            if (suffix := dot + suffix) in by_suffix:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted since the listing
                    continue
                by_suffix[suffix][name] = Found(status.st_size, status.st_mtime_ns)
    return listing


def files_of(listing: Listing, batch_id: str) -> dict[Place, Found]:
    """The files of one batch by place."""
    return {place: names[batch_id] for place, names in listing.items() if batch_id in names}


def is_announced(files: Mapping[Place, Found]) -> bool:
    """Whether the latest event was written after the features. If not, a run may have died in between."""
    return LATEST_EVENT in files and files[LATEST_EVENT].written >= files[FEATURES].written


def files_in(folder: Path, *, hidden: bool = False) -> Iterator[os.DirEntry[str]]:
    """The files in a folder, including links; none if the folder does not exist.

    Args:
        hidden: only files whose names begin with a dot, instead of the others.

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
    """Read a regular file without blocking.

    Raises:
        StoreError: it cannot be read, or is not regular; names the file.
        FileNotFoundError: it does not exist.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error.strerror or error) from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; of a manifest in a CloudEvent, its `data`. Raises like `read_regular`."""
    return parse_object(path, read_regular(path))


def read_event(path: Path) -> tuple[object, dict[str, Any]]:
    """The `subject` and `data` of an event; None and an empty object if it cannot be read."""
    try:
        event = read_object(path)
    except (StoreError, FileNotFoundError):
        return None, {}
    data = event.get("data")
    return event.get("subject"), data if isinstance(data, dict) else {}


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, the content of `path`. Raises `StoreError`."""
    try:
        document = _DECODER.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if isinstance(document, dict) and document.get("type") == EVENT_TYPE and isinstance(document.get("data"), dict):
        document = document["data"]
    if not isinstance(document, dict):
        raise _unreadable(path, "not a JSON object")
    return document


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # `json.loads` with an option makes one at each call


def _unreadable(path: Path, reason: object) -> StoreError:
    return StoreError(f"{path}: cannot be read ({reason}): repair or delete it, then run again")
