"""Lists the groups of the photos of all batches."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from curation_features.storage.groups import read_groups, read_state
from curation_features.storage.tables import Row


@dataclass(frozen=True, slots=True)
class ListedPhoto:
    """A photo of a group; `batches` are those that have it."""

    photo_id: str
    path: str
    batches: tuple[str, ...]
    rank: int
    copy_of: str | None
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
    rows = read_groups(data_path)
    wanted = {row["group_id"] for row in rows if not batch_ids or row["batch_id"] in batch_ids}
    by_photo: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        if row["group_id"] in wanted:
            group = by_photo.setdefault(row["group_id"], {})
            group.setdefault((row["photo_id"], row["sha256"]), []).append(row)
    if not by_photo:
        return []
    members = {photo for group in by_photo.values() for photo in group}
    paths: dict[tuple[str, str], str] = {}
    for row in read_state(data_path).rows:
        photo = row["photo_id"], row["sha256"]
        if photo in members:
            path = json.loads(row["photo"])["path"]
            paths[photo] = min(path, paths.get(photo, path))
    found = [_listed(group, paths) for group in by_photo.values()]
    return sorted(found, key=lambda group: (group.kind, group.photos[0].path, group.id))


def _listed(group: dict[tuple[str, str], list[Row]], paths: dict[tuple[str, str], str]) -> ListedGroup:
    photos = [
        ListedPhoto(
            photo[0],
            paths.get(photo, photo[0]),
            tuple(row["batch_id"] for row in rows),
            rows[0]["group_rank"],
            rows[0]["group_copy_of"],
            rows[0]["group_reason"],
        )
        for photo, rows in group.items()
    ]
    photos.sort(key=lambda photo: (photo.copy_of is not None, photo.rank, photo.path))
    [[first, *_], *_] = group.values()
    return ListedGroup(
        id=first["group_id"],
        kind=first["group_kind"],
        what=first["group_what"],
        size=first["group_size"],
        similarity=first["group_similarity"],
        photos=tuple(photos),
    )
