"""The groups of the photos of all batches, and the state from which they are made incrementally.

    data/groups/groups.parquet   a row for each photo of a group, in each of its batches
    data/groups/photos.parquet   what was compared of every photo
    data/groups/edges.parquet    pairs of photos that show one picture
    data/groups/parts.parquet    the groups of each part: photos that were grouped together

All files are replaced together. All but the first are internal; if one is missing, all photos are compared again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.atomic_files import open_regular, publish, reading, staged, writing
from curation_features.errors import StoreError
from curation_features.storage.tables import (
    FEATURE_COLUMNS,
    GROUP_COLUMNS,
    METADATA_KEY,
    Column,
    Columns,
    Row,
    column_names,
    read_metadata,
    read_rows,
    rows_writer,
)

FOLDER = "groups"

_FILE: Columns = {
    **{name: FEATURE_COLUMNS[name] for name in ("batch_id", "photo_id", "sha256")},
    "path": Column("string", "the photo's `original_uri`, or else its `image_uri`"),
}
LIBRARY_COLUMNS: Columns = {**_FILE, **GROUP_COLUMNS}
"""The columns of `groups.parquet`."""

STATE_COLUMNS: Columns = {
    **_FILE,
    "key": Column("string", "the photo in all batches"),
    "compared": Column("string", "digest of what is compared of the photo in this batch"),
    "identity": Column("string", "digest of what is compared of it, seen together with all other photos"),
    "photo": Column("string", "the photo without its pixels, as JSON"),
    "hashes": Column("binary", "perceptual hashes in all orientations; null without a fingerprint"),
}
"""The columns of `photos.parquet`."""

EDGE_COLUMNS: Columns = {
    "first": Column("string", "digest of the bytes of a photo"),
    "second": Column("string", "digest of the bytes of another photo"),
    "first_key": Column("string", "key of the photo that was compared"),
    "second_key": Column("string", "key of the other one"),
    "transform": Column("list<double>", "2 x 3 numbers: brings a place in the first photo to the second"),
    "similarity": Column("double", "common part of the two frames"),
}
PART_COLUMNS: Columns = {
    "part": Column("string", "digest of the photos of a part, and of their pairs"),
    "groups": Column("string", "its groups, as JSON"),
}
FileId = tuple[str, str, str, str]
"""Batch, `photo_id`, digest of the bytes, and path of a photo."""

_FILES = {"photos": STATE_COLUMNS, "edges": EDGE_COLUMNS, "parts": PART_COLUMNS}

GROUPS_AGAIN = "make the groups again: curation-features groups"
"""A remedy for `reading`."""


@dataclass(frozen=True, slots=True)
class State:
    """The state from which groups are made incrementally: the rows of its files, and its metadata."""

    rows: Iterable[Row]
    edges: Iterable[Row]
    parts: Iterable[Row]
    metadata: Mapping[str, Any]


def groups_path(data_path: Path) -> Path:
    """Return the path of the table of groups."""
    return data_path / FOLDER / "groups.parquet"


def state_path(data_path: Path) -> Path:
    """Return the path of the main file of the state."""
    return _path(data_path, "photos")


def file_of(row: Row) -> FileId:
    """Return what a row of `groups.parquet` and the row of `photos.parquet` of the same file share."""
    return row["batch_id"], row["photo_id"], row["sha256"], row["path"]


def files_of_groups(data_path: Path) -> list[Path]:
    """Return the paths of the table of groups and of the state."""
    return [groups_path(data_path), *(_path(data_path, name) for name in _FILES)]


def _path(data_path: Path, name: str) -> Path:
    return data_path / FOLDER / f"{name}.parquet"


def has_groups(data_path: Path) -> bool:
    """Return whether the photos of all batches have been grouped."""
    return all(path.is_file() for path in files_of_groups(data_path))


def read_groups(data_path: Path) -> list[Row]:
    """Return the rows of the table of groups. Raises `StoreError`."""
    return _read(groups_path(data_path), LIBRARY_COLUMNS)


def groups_metadata(data_path: Path) -> dict[str, Any]:
    """Return the metadata of the table of groups; empty if there is none. Raises `StoreError`."""
    path = groups_path(data_path)
    if not path.is_file():
        return {}
    with reading(path, GROUPS_AGAIN):
        open_regular(path).close()
        return read_metadata(path)


def read_state(data_path: Path) -> State:
    """Return the state. Raises `StoreError`: a file cannot be read, or the files are of different updates."""
    found = {name: _read(_path(data_path, name), columns) for name, columns in _FILES.items()}
    facts = []
    for name in _FILES:
        with reading(_path(data_path, name), GROUPS_AGAIN):
            facts.append(read_metadata(_path(data_path, name)))
    if len({one.get("update") for one in facts}) > 1:
        raise StoreError(f"{data_path / FOLDER}: its files are of different updates: {GROUPS_AGAIN}")
    return State(found["photos"], found["edges"], found["parts"], facts[0])


def grouped_batches(data_path: Path) -> frozenset[str]:
    """Return the ids of the batches whose photos were grouped. Raises `StoreError`."""
    import pyarrow.parquet as pq

    path = state_path(data_path)
    with reading(path, GROUPS_AGAIN):
        metadata = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
        return frozenset(metadata["batches"])


def write_groups(data_path: Path, groups: Iterable[Row], metadata: Mapping[str, Any], state: State) -> None:
    """Replace all files.

    Args:
        groups: rows of `LIBRARY_COLUMNS`.
        metadata: of the table of groups.
        state: with the rows of the other files.

    Raises:
        StoreError: a file cannot be written; the old ones stay.
    """
    update = {"update": secrets.token_hex(16)}  # distinguishes the files of two updates
    rows = {"photos": state.rows, "edges": state.edges, "parts": state.parts}
    files = [(_path(data_path, name), _FILES[name], rows[name], {**update}) for name in _FILES]
    files[0][3].update({**state.metadata, **update})
    with ExitStack() as stack:
        written = []
        for path, columns, of, facts in [*files, (groups_path(data_path), LIBRARY_COLUMNS, groups, metadata)]:
            with writing(path):
                temporary = stack.enter_context(staged(path))
                with rows_writer(temporary, columns, facts) as add:
                    for row in of:
                        add(row)
                written.append((temporary, path))
        with writing(groups_path(data_path)):
            publish(*written)


def _read(path: Path, columns: Columns) -> list[Row]:
    with reading(path, GROUPS_AGAIN):
        open_regular(path).close()  # pyarrow would block on a FIFO
        if column_names(path) != [*columns]:
            raise StoreError(f"{path}: has the columns of another release: {GROUPS_AGAIN}")
        return list(read_rows(path))
