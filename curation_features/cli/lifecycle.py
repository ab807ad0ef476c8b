"""Shows the batches of the project: `batches list`, `batches show`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli import removals
from curation_features.cli.command import Outcome, add_group, declare
from curation_features.cli.manifests import check_known
from curation_features.cli.terminal import FOLD, LEFT, RIGHT, console, count_of, doing, flag_line, make_table, say, size
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.inventory import BatchEntry, BatchFile

_PHOTO_KINDS = ("cache", "thumbnail", "copy")

LIST_FIELDS = {
    "batches": "[{batch_id, state, photos, statuses, finished, bytes, stale: [{reason, message}]}], by id",
    "count": "number of batches",
    "bytes": "size of their manifests, stage tables and features",
}
SHOW_FIELDS = {
    "batch_id": "id of the batch",
    "state": "ingested, accepted or finished",
    "photos": "number of artifacts",
    "statuses": "{ok, degraded, failed}: artifacts by status",
    "finished": "time when its features were written, in UTC",
    "bytes": "size of its manifests, stage tables and features",
    "stale": "[{reason, message}]: why a run now would give another result",
    "flags": "[{name, kind, artifacts}]: flags and hints, flags first; null if they are not known",
    "files": "[{kind, path, bytes}]: its files, and the files of its photos",
}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    batches = add_group(commands, "batches", "the batches of the project")
    command = declare(batches, "list", batches_list, "curation-features batches list --stale", LIST_FIELDS)
    command.add_argument("--stale", action="store_true", help="only stale batches: a run now would give another result")
    newest = "show the newest N; 0: all (default: %(default)s)"
    command.add_argument("--last", type=_parse_count, default=50, metavar="N", help=newest)
    command = declare(batches, "show", batches_show, "curation-features batches show trip", SHOW_FIELDS)
    command.add_argument("batch", metavar="BATCH", help="id of a batch")
    removals.register(commands, batches)


def _parse_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def batches_list(args: argparse.Namespace, settings: Settings) -> Outcome:
    """List the batches: state, photos, time, size, and whether stale."""
    from curation_features.inventory import list_batches

    with doing("reading batches"):
        entries = [entry for entry in list_batches(settings) if entry.stale or not args.stale]
    total = sum(entry.bytes for entry in entries)
    kind = "stale batches" if args.stale else "batches"
    none = f"no {kind} in {settings.data_path}{'' if args.stale else '; make one: curation-features run FOLDER'}"
    fields = {"batches": [_entry_fields(entry) for entry in entries], "count": len(entries), "bytes": total}
    return Outcome(fields, partial(_show_list, entries, args.last, total) if entries else partial(say, none))


def batches_show(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show one batch: its files, their sizes, and why it is stale."""
    from curation_features.inventory import flag_counts, footprint_of, photo_files, show_batch

    check_known([args.batch], settings)
    with doing("reading the batch"):
        entry, own = show_batch(settings, args.batch)
        incoming = [file.path for file in own if file.kind == "incoming"]
        files = [*own, *photo_files(settings, footprint_of(settings, args.batch, incoming))]
        counts = flag_counts(settings, args.batch)
    flags = None if counts is None else [asdict(count) for count in counts]
    listed = [{"kind": file.kind, "path": file.path, "bytes": file.bytes} for file in files]
    fields = {**_entry_fields(entry), "flags": flags, "files": listed}
    return Outcome(fields, partial(_show_batch, entry, flags or (), files, settings))


def _entry_fields(entry: BatchEntry) -> dict[str, Any]:
    return {**asdict(entry), "finished": entry.finished.isoformat() if entry.finished else None}


def _show_list(entries: Sequence[BatchEntry], last: int, total: int) -> None:
    newest = sorted(entries, key=_age)[: last or None]
    rows = [
        (
            entry.batch_id,
            entry.state,
            "?" if entry.photos is None else f"{entry.photos:,}",
            *(f"{entry.statuses[status]:,}" if entry.statuses else "-" for status in ("degraded", "failed")),
            _format_time(entry.finished),
            size(entry.bytes),
            ", ".join(stale.reason for stale in entry.stale),
        )
        for entry in newest
    ]
    columns = {"batch": FOLD, "state": LEFT, "photos": RIGHT, "degraded": RIGHT, "failed": RIGHT, "finished": LEFT}
    console().print(make_table({**columns, "size": RIGHT, "stale": FOLD}, rows))
    if len(newest) < len(entries):
        say(f"... and {len(entries) - len(newest):,} older ones; --last 0 shows all", style="dim")
    stale = sum(bool(entry.stale) for entry in entries)
    say(f"{len(entries):,} {'batch' if len(entries) == 1 else 'batches'}, {size(total)}; {stale:,} stale", style="bold")


def _age(entry: BatchEntry) -> tuple[float, str]:
    """Sort key: unfinished batches first, then the newest."""
    return (-entry.finished.timestamp() if entry.finished else float("-inf"), entry.batch_id)


def _format_time(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else "-"


def _show_batch(
    entry: BatchEntry, flags: Sequence[Mapping[str, Any]], files: Sequence[BatchFile], settings: Settings
) -> None:
    from curation_features.inventory import total_bytes

    def relative(path: Path) -> str:
        return str(path.relative_to(settings.root)) if path.is_relative_to(settings.root) else str(path)

    statuses = ", ".join(f"{count} {status}" for status, count in (entry.statuses or {}).items() if count)
    photos = "an unknown number of photos" if entry.photos is None else count_of(entry.photos, "photo")
    say(f"batch {entry.batch_id}: {entry.state}, {photos}{f': {statuses}' if statuses else ''}", style="bold")
    if flags:
        say(flag_line(flags))
    if entry.finished:
        say(f"finished {_format_time(entry.finished)}")
    for stale in entry.stale:
        say(f"stale: {stale.reason}: {stale.message}", style="yellow")
    own = [file for file in files if file.kind not in _PHOTO_KINDS]
    of_photos = [file for file in files if file.kind in _PHOTO_KINDS]
    rows = [(file.kind, "1", size(file.bytes), relative(file.path)) for file in own]
    for kind, group in removals.group_by_kind(of_photos).items():
        rows.append((kind, f"{group['files']:,}", size(group["bytes"]), f"{relative(group['first'][0].parent)}/"))
    console().print(make_table({"kind": LEFT, "files": RIGHT, "size": RIGHT, "where": FOLD}, rows, gap=2))
    say(f"{size(total_bytes(own))}, and {size(total_bytes(of_photos))} for its photos, which other batches may share")
