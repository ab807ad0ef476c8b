"""The group of a photo, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curation_features.report.text import one_line
from curation_features.storage.tables import GROUP_COLUMNS

COLUMNS = tuple(GROUP_COLUMNS)
"""The columns of a group in the table of features; the table of an earlier release has none of them."""

_SIMILARITY_DECIMALS = 3
_REASON_LENGTH = 200  # characters


def group_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The group of a photo within its batch; None if it is in none."""
    if row.get("group_id") is None:
        return None
    group = {name.removeprefix("group_"): row[name] for name in COLUMNS}
    return {
        **group,
        "similarity": round(group["similarity"], _SIMILARITY_DECIMALS),
        "reason": one_line(group["reason"], _REASON_LENGTH),
    }
