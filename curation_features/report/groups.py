"""The group of a photo, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curation_features.report.text import Folders, one_line, path_within
from curation_features.storage.tables import GROUP_COLUMNS
from curation_features.storage.tables import group_of as stored_group

COLUMNS = tuple(GROUP_COLUMNS)
"""The columns of a group in the table of features; the table of an earlier release has none of them."""

_SIMILARITY_DECIMALS = 3
_REASON_LENGTH = 200  # characters


def group_of(row: Mapping[str, Any], folders: Folders) -> dict[str, Any] | None:
    """The group of a photo within its batch; None if it is in none.

    Args:
        row: of the table of features.
        folders: the `common_folders` of the batch; no folder above them is shown.
    """
    if row.get("group_id") is None:
        return None
    group = stored_group(row) or {}
    path = group["copy_of_path"]
    return {
        **group,
        "copy_of_path": None if path is None else path_within(path, folders),
        "similarity": round(group["similarity"], _SIMILARITY_DECIMALS),
        "reason": one_line(group["reason"], _REASON_LENGTH),
    }
