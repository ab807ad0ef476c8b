"""Removes a batch or a photo from the groups of all batches, before its files are deleted.

The other photos of its group have no group until the next update, which groups them again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from curation_features.atomic_files import writing
from curation_features.errors import StoreError
from curation_features.library.update import locked
from curation_features.storage.groups import (
    State,
    file_of,
    files_of_groups,
    groups_metadata,
    read_groups,
    read_state,
    write_groups,
)
from curation_features.storage.tables import Row

log = logging.getLogger(__name__)


def forget_batch(data_path: Path, batch_id: str) -> None:
    """Remove the photos of a batch. Raises `StoreError`."""
    _forget(data_path, lambda row: row["batch_id"] == batch_id, {batch_id})


def forget_photo(data_path: Path, photo_id: str, batch_ids: frozenset[str]) -> None:
    """Remove a photo from the groups of some batches. Raises `StoreError`."""
    _forget(data_path, lambda row: row["photo_id"] == photo_id and row["batch_id"] in batch_ids, batch_ids)


def _delete(data_path: Path) -> None:
    for path in files_of_groups(data_path):
        with writing(path):
            path.unlink(missing_ok=True)


def _forget(data_path: Path, is_gone: Callable[[Row], bool], batch_ids: frozenset[str] | set[str]) -> None:
    if not any(path.exists() for path in files_of_groups(data_path)):
        return
    with locked(data_path):
        try:
            state, rows, metadata = read_state(data_path), read_groups(data_path), groups_metadata(data_path)
        except StoreError as error:  # of no use to the next update, which compares all photos
            log.warning("The groups of all batches are deleted: %s", error)
            _delete(data_path)
            return
        kept = [row for row in state.rows if not is_gone(row)]
        gone = [row for row in state.rows if is_gone(row)]
        if not gone:
            return
        keys = {row["key"] for row in gone} - {row["key"] for row in kept}
        lost = {file_of(row) for row in gone if row["key"] in keys}
        split = {row["group_id"] for row in rows if file_of(row) in lost}
        groups = [row for row in rows if not is_gone(row) and row["group_id"] not in split]
        bytes_left = {row["sha256"] for row in kept}
        edges = [edge for edge in state.edges if bytes_left.issuperset((edge["first"], edge["second"]))]
        parts = [part for part in state.parts if not any(key in part["groups"] for key in keys)]
        batches = {name: value for name, value in state.metadata["batches"].items() if name not in batch_ids}
        facts = {**state.metadata, "batches": batches}
        write_groups(data_path, groups, {**metadata, "listing": ""}, State(kept, edges, parts, facts))
