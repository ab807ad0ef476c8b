"""Which batches there are: `batches list`, `batches show`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli import removals
from curation_features.cli.command import Outcome, declare
from curation_features.cli.listing import by_kind, check_known, print_table
from curation_features.cli.terminal import doing, say, size
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.inventory import BatchEntry, BatchFile

LISTED = 50
"""Lines of the list, unless more are asked for."""

_PHOTO_KINDS = ("cache", "thumbnail", "copy")

_ENTRY = "batch_id, state, photos, statuses, finished, bytes, stale: [{reason, message}]"
LIST_FIELDS = {
    "batches": f"[{{{_ENTRY}}}], by id",
    "count": "how many they are",
    "bytes": "size of their manifests, stage tables and features",
}
SHOW_FIELDS = {
    "batch_id": "id of the batch",
    "state": "ingested, accepted or finished",
    "photos": "how many artifacts it has",
    "statuses": "{ok, degraded, failed}: artifacts by status",
    "finished": "when its features were written, in UTC",
    "bytes": "size of its manifests, stage tables and features",
    "stale": "[{reason, message}]: why a run now would give another result",
    "files": "[{kind, path, bytes}]: its files, and those that were made of its photos",
}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    batches = commands.add_parser("batches", help="the batches of the project")
    batches = batches.add_subparsers(required=True, metavar="COMMAND")
    command = declare(batches, "list", batches_list, "curation-features batches list --stale", LIST_FIELDS)
    command.add_argument("--stale", action="store_true", help="only stale batches: a run now would give another result")
    command.add_argument(
        "--last", type=_count, default=LISTED, metavar="N", help="show the newest N; 0: all (default: %(default)s)"
    )
    command = declare(batches, "show", batches_show, "curation-features batches show trip", SHOW_FIELDS)
    command.add_argument("batch", metavar="BATCH", help="id of a batch")
    removals.register(commands, batches)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def batches_list(args: argparse.Namespace, settings: Settings) -> Outcome:
    """List the batches: how far they are, how many photos, when finished, how large, and whether stale."""
    from curation_features.inventory import list_batches

    with doing("reading batches"):
        found = [entry for entry in list_batches(settings) if entry.stale or not args.stale]
    total = sum(entry.bytes for entry in found)
    fields = {"batches": [_plain(entry) for entry in found], "count": len(found), "bytes": total}
    return Outcome(fields, partial(_show_list, found, args.last, total))


def batches_show(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show one batch: where every file of it lies, how large they are, and why it is stale."""
    from curation_features.inventory import footprint_of, photo_files, show_batch

    check_known([args.batch], settings, None)
    with doing("reading the batch"):
        entry, own = show_batch(settings, args.batch)
        incoming = [file.path for file in own if file.kind == "incoming"]
        files = [*own, *photo_files(settings, footprint_of(settings, args.batch, incoming))]
    fields = {**_plain(entry), "files": [_plain_file(file) for file in files]}
    return Outcome(fields, partial(_show_batch, entry, files, settings))


def _plain(entry: BatchEntry) -> dict[str, Any]:
    return {**asdict(entry), "finished": entry.finished.isoformat() if entry.finished else None}


def _plain_file(file: BatchFile) -> dict[str, Any]:
    return {"kind": file.kind, "path": file.path, "bytes": file.bytes}


def _show_list(entries: Sequence[BatchEntry], last: int, total: int) -> None:
    newest = sorted(entries, key=_age)
    shown = newest[:last] if last else newest
    rows = [
        (
            entry.batch_id,
            entry.state,
            "?" if entry.photos is None else f"{entry.photos:,}",
            *_counts(entry.statuses),
            _local(entry.finished),
            size(entry.bytes),
            ", ".join(stale.reason for stale in entry.stale),
        )
        for entry in shown
    ]
    header = ("batch", "state", "photos", "degraded", "failed", "finished", "size", "stale")
    print_table(header, rows, right=("photos", "degraded", "failed", "size"), folded=("batch", "stale"))
    if len(shown) < len(entries):
        say(f"... and {len(entries) - len(shown):,} older ones; --last 0 shows all", style="dim")
    stale = sum(bool(entry.stale) for entry in entries)
    say(f"{len(entries):,} {'batch' if len(entries) == 1 else 'batches'}, {size(total)}; {stale:,} stale", style="bold")


def _age(entry: BatchEntry) -> tuple[float, str]:
    """By what batches are sorted: unfinished ones first, then the newest."""
    return (-entry.finished.timestamp() if entry.finished else float("-inf"), entry.batch_id)


def _counts(statuses: Mapping[str, int] | None) -> tuple[str, str]:
    return ("-", "-") if statuses is None else (f"{statuses['degraded']:,}", f"{statuses['failed']:,}")


def _local(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else "-"


def _show_batch(entry: BatchEntry, files: Sequence[BatchFile], settings: Settings) -> None:
    from curation_features.inventory import total_bytes

    statuses = ", ".join(f"{count} {status}" for status, count in (entry.statuses or {}).items() if count)
    photos = "an unknown number of" if entry.photos is None else f"{entry.photos:,}"
    say(f"batch {entry.batch_id}: {entry.state}, {photos} photos{f': {statuses}' if statuses else ''}", style="bold")
    if entry.finished:
        say(f"finished {_local(entry.finished)}")
    for stale in entry.stale:
        say(f"stale: {stale.reason}: {stale.message}", style="yellow")
    own = [file for file in files if file.kind not in _PHOTO_KINDS]
    rows = [(file.kind, "1", size(file.bytes), _relative(file.path, settings)) for file in own]
    for kind, found in by_kind(file for file in files if file.kind in _PHOTO_KINDS).items():
        rows.append((kind, f"{found.files:,}", size(found.bytes), f"{_relative(found.paths[0].parent, settings)}/"))
    print_table(("kind", "files", "size", "where"), rows, right=("files", "size"), folded=("where",))
    of_photos = total_bytes(file for file in files if file.kind in _PHOTO_KINDS)
    say(f"{size(total_bytes(own))}, and {size(of_photos)} of its photos, which other batches may share")


def _relative(path: Path, settings: Settings) -> str:
    return str(path.relative_to(settings.root)) if path.is_relative_to(settings.root) else str(path)
