"""One row for each photo, or for each picture, of tables that have some of them several times."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from curation_features.storage.groups import file_of, grouped_batches, has_groups, read_groups

Distinct: TypeAlias = "bool | Literal['bytes']"


class Copy(NamedTuple):
    """A row of a table, as far as it says which picture it shows. The fields are columns."""

    photo_id: str
    sha256: str | None
    original_uri: str | None
    image_uri: str
    group_id: str | None
    group_rank: int | None
    group_copy_of: str | None


COLUMNS = Copy._fields
"""The columns from which rows are chosen."""


def distinct_rows(batches: Sequence[Sequence[Copy]], finished: Sequence[int], *, of_bytes: bool = False) -> list[int]:
    """Return the rows to keep, ascending; rows are numbered through all batches.

    Of rows with one `photo_id` the first one in the batch finished last is kept; of files with its bytes in its group,
    the best. Of these, all copies of a picture but the best are left out.

    Args:
        finished: time of each batch.
        of_bytes: only files with equal bytes are copies.
    """
    starts = [0, *accumulate(map(len, batches))]
    copies = [copy for batch in batches for copy in batch]
    rows: dict[str, int] = {}
    for batch in sorted(range(len(batches)), key=lambda batch: (-finished[batch], -batch)):
        for row, copy in enumerate(batches[batch], starts[batch]):
            other = rows.setdefault(copy.photo_id, row)
            if not of_bytes and _is_better(copy, copies[other]):
                rows[copy.photo_id] = row
    kept: dict[Hashable, int] = {}
    for row in rows.values() if of_bytes else sorted(rows.values(), key=lambda row: _order(copies[row])):
        kept.setdefault(copies[row].sha256 or row if of_bytes else _picture(copies[row]), row)
    return sorted(kept.values())


def _is_better(copy: Copy, other: Copy) -> bool:
    """Return whether a file is a better copy of another one with its id and bytes."""
    is_same = copy.group_id is not None and (copy.group_id, copy.sha256) == (other.group_id, other.sha256)
    return is_same and _order(copy) < _order(other)


def _order(copy: Copy) -> tuple[bool, int]:
    """Return the place of a copy among those of its picture: the copy to keep first."""
    return copy.group_copy_of is not None, copy.group_rank or 0


def _picture(copy: Copy) -> Hashable:
    return (copy.group_id, copy.group_copy_of or copy.photo_id) if copy.group_id else copy.photo_id


def of_all_batches(data_path: Path, batches: Mapping[str, Sequence[Copy]]) -> list[list[Copy]]:
    """Return the rows of batches with their groups over all batches, if these were made; else within each batch.

    A batch that was finished after the groups were made keeps its own.

    Raises:
        StoreError: the groups cannot be read.
    """
    if not has_groups(data_path):
        return [list(rows) for rows in batches.values()]
    found = {file_of(row): row for row in read_groups(data_path)}
    grouped = grouped_batches(data_path)

    def regrouped(batch_id: str, rows: Iterable[Copy]) -> list[Copy]:
        if batch_id not in grouped:
            return list(rows)
        files = ((batch_id, row.photo_id, row.sha256 or "", row.original_uri or row.image_uri) for row in rows)
        groups = (found.get(file, {}) for file in files)
        return [
            Copy(*row[:4], group.get("group_id"), group.get("group_rank"), group.get("group_copy_of"))
            for row, group in zip(rows, groups, strict=True)
        ]

    return [regrouped(batch_id, rows) for batch_id, rows in batches.items()]
