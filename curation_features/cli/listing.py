"""Helpers of the commands over batches: known batches, and files by kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.terminal import LEFT, RIGHT, console, make_table, size
from curation_features.errors import InputError
from curation_features.settings import Settings, nearest

if TYPE_CHECKING:
    from curation_features.inventory import BatchFile
    from curation_features.orchestration.records import BatchRecords

KINDS = "{kind: {files, bytes, first}}: files that are deleted, or would be; first: a few paths"
"""Help text for the result of `group_by_kind`."""

_FIRST_PATHS = 3


def check_known(batch_ids: Iterable[str], settings: Settings, records: BatchRecords | None) -> None:
    """Raise `InputError` if a batch has neither a file nor a partition in Dagster."""
    from curation_features.inventory import batch_files, known_batch_ids, list_places
    from curation_features.manifest import is_batch_id

    for batch_id in batch_ids:
        is_id = is_batch_id(batch_id)
        if is_id and (batch_files(settings, batch_id) or (records is not None and records.holds(batch_id))):
            continue
        known = known_batch_ids(list_places(settings.data_path))
        remedy = nearest(Path(batch_id).stem, known) or "; curation-features batches list shows all"
        raise InputError(f"unknown batch {batch_id!r} in {settings.data_path}{remedy}")


def group_by_kind(files: Iterable[BatchFile]) -> dict[str, dict[str, Any]]:
    """Number, size and first paths of files by kind, for JSON; see `KINDS`."""
    from curation_features.inventory import total_bytes

    groups: dict[str, list[BatchFile]] = {}
    for file in files:
        groups.setdefault(file.kind, []).append(file)
    return {
        kind: {"files": len(group), "bytes": total_bytes(group), "first": [file.path for file in group[:_FIRST_PATHS]]}
        for kind, group in groups.items()
    }


def show_kinds(files: Iterable[BatchFile]) -> None:
    """Print the groups of `group_by_kind`, with as many names as fit."""
    rows = [
        (kind, f"{group['files']:,}", size(group["bytes"]), ", ".join(path.name for path in group["first"]))
        for kind, group in group_by_kind(files).items()
    ]
    if rows:
        columns = {"kind": LEFT, "files": RIGHT, "size": RIGHT, "names": {"ratio": 1}}
        console().print(make_table(columns, rows, gap=2, expand=True))
