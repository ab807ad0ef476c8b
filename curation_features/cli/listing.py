"""What commands over batches and their files share: batches that are there, and tables of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.terminal import console, printable, size
from curation_features.errors import InputError
from curation_features.settings import Settings, nearest

if TYPE_CHECKING:
    from curation_features.inventory import BatchFile
    from curation_features.orchestration.records import BatchRecords

KINDS = "{kind: {files, bytes, first}}: what was deleted, or would be; first: a few paths"
"""What `kinds_as_json` gives, for help texts."""

_FIRST_PATHS = 3


def check_known(batch_ids: Iterable[str], settings: Settings, records: BatchRecords | None) -> None:
    """Raises `InputError` if there is nothing of a batch, here or in Dagster."""
    from curation_features.inventory import batch_files, known_batch_ids, list_places
    from curation_features.manifest import is_batch_id

    for batch_id in batch_ids:
        is_id = is_batch_id(batch_id)
        if is_id and (batch_files(settings, batch_id) or (records is not None and records.holds(batch_id))):
            continue
        known = known_batch_ids(list_places(settings.data_path))
        remedy = nearest(Path(batch_id).stem, known) or "; curation-features batches list shows all"
        raise InputError(f"there is no batch {batch_id!r} in {settings.data_path}{remedy}")


@dataclass
class Kind:
    """Files of one kind: how many, their size in bytes, and the first few paths."""

    files: int
    bytes: int
    paths: Sequence[Path]


def by_kind(files: Iterable[BatchFile]) -> dict[str, Kind]:
    """Files counted by kind, in the order in which the kinds occur."""
    from curation_features.inventory import total_bytes

    found: dict[str, list[BatchFile]] = {}
    for file in files:
        found.setdefault(file.kind, []).append(file)
    return {
        kind: Kind(len(group), total_bytes(group), [file.path for file in group[:_FIRST_PATHS]])
        for kind, group in found.items()
    }


def kinds_as_json(files: Iterable[BatchFile]) -> dict[str, dict[str, Any]]:
    """The same for machines: see `KINDS`."""
    counted = by_kind(files).items()
    return {kind: {"files": found.files, "bytes": found.bytes, "first": found.paths} for kind, found in counted}


def show_kinds(files: Iterable[BatchFile]) -> None:
    """The same for people, with names as far as they fit into the line."""
    rows = [
        (kind, f"{found.files:,}", size(found.bytes), ", ".join(path.name for path in found.paths))
        for kind, found in by_kind(files).items()
    ]
    if rows:
        print_table(("kind", "files", "size", "names"), rows, right=("files", "size"), cut=("names",))


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    folded: Sequence[str] = (),
    cut: Sequence[str] = (),
) -> None:
    """Print rows as a table.

    Args:
        right: columns of numbers.
        folded: columns that take more lines where they are too narrow.
        cut: columns that are cut where they are too narrow; all others keep their width.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=bool(cut))
    for name in header:
        table.add_column(
            name,
            ratio=1 if name in cut else None,
            justify="right" if name in right else "left",
            no_wrap=name not in folded,
            overflow="fold" if name in folded else "ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)
