"""Lists the groups of the photos of all batches."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation_features.library.update import locked
from curation_features.storage.groups import file_of, read_groups, read_state
from curation_features.storage.tables import Row


@dataclass(frozen=True, slots=True)
class ListedPhoto:
    """A photo of a group; `batches` are those that have it. Files of equal bytes differ in `path` only."""

    photo_id: str
    path: str
    batches: tuple[str, ...]
    rank: int
    copy_of: str | None
    copy_of_path: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class ListedGroup:
    """A group, with its photos: the best first."""

    id: str
    kind: str
    what: str
    size: int
    similarity: float
    photos: tuple[ListedPhoto, ...]


def list_groups(data_path: Path, batch_ids: Collection[str] = ()) -> list[ListedGroup]:
    """Return the groups with a photo in one of some batches, or all; by kind and the path of the best photo.

    Raises:
        StoreError: the groups cannot be read.
    """
    with locked(data_path):  # files of one update
        rows, state = read_groups(data_path), read_state(data_path)
    wanted = {row["group_id"] for row in rows if not batch_ids or row["batch_id"] in batch_ids}
    found = {file_of(row): row for row in rows if row["group_id"] in wanted}
    if not found:
        return []
    groups: dict[str, dict[str, list[tuple[str, Row]]]] = {}  # id -> key of a photo -> its paths and rows
    for photo in state.rows:
        row = found.get(file_of(photo))
        if row is not None:
            path = json.loads(photo["photo"])["path"]  # as it is, with any character
            groups.setdefault(row["group_id"], {}).setdefault(photo["key"], []).append((path, row))
    listed = [_listed(list(photos.values())) for photos in groups.values()]
    return sorted(listed, key=lambda group: (group.kind, group.photos[0].path, group.id))


def _listed(group: Sequence[Sequence[tuple[str, Row]]]) -> ListedGroup:
    photos = sorted(map(_photo, group), key=lambda photo: (photo.copy_of is not None, photo.rank, photo.path))
    (_, first), *_ = group[0]
    return ListedGroup(
        id=first["group_id"],
        kind=first["group_kind"],
        what=first["group_what"],
        size=first["group_size"],
        similarity=first["group_similarity"],
        photos=tuple(photos),
    )


def _photo(places: Sequence[tuple[str, Row]]) -> ListedPhoto:
    """Return a photo with its batches; the first of its paths, if batches write it in several ways."""
    (_, first), *_ = places
    return ListedPhoto(
        first["photo_id"],
        min(path for path, _ in places),
        tuple(row["batch_id"] for _, row in places),
        first["group_rank"],
        first["group_copy_of"],
        first["group_copy_of_path"],
        first["group_reason"],
    )
