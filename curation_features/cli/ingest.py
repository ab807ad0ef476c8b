"""The command `ingest`: photos become a batch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, declare
from curation_features.cli.results import SPEED_FIELDS, speed, told_speed
from curation_features.cli.terminal import progress, say
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.discovery import Found

MOST_REJECTED = 20

INGEST_FIELDS = {
    "batch_id": "id of the batch",
    "photos": "how many files it has",
    "rejected": "[{path, reason}]: files that cannot be read; they are in the batch, and will fail",
    "skipped": "[{suffix, format, files, examples}]: photos of formats that are not read",
    "left_out": "[{kind, entries, examples}]: other_programs, own_files, linked_folders, hidden",
    "unreadable_folders": "[{path, reason}]: folders that cannot be listed",
    "files": "{manifest}: what was written",
    **SPEED_FIELDS,
}


def register(commands: Any) -> None:
    """Declare the command."""
    command = declare(
        commands, "ingest", ingest, "curation-features ingest ~/Pictures/trip --batch-id trip", INGEST_FIELDS
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "photos", nargs="*", default=[], type=_path, metavar="PATH", help="folders, read recursively, and photos"
    )
    where.add_argument("--samples", action="store_true", help="use the sample photos that scikit-image carries")
    command.add_argument("--batch-id", help="id of the batch (default: batch_ and the time)")
    command.add_argument("--vocabulary", metavar="NAME", help="the named vocabulary that the batch asks for")


def _path(text: str) -> Path:
    """A path; `~` is the home folder even where no shell has replaced it."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # of a user whom nobody knows
        return Path(text)


def ingest(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make a batch out of photos and folders of photos."""
    from curation_features.discovery import scan
    from curation_features.ingest import ingest as ingest_photos
    from curation_features.ingest import new_batch_id

    paths = args.photos
    if args.samples:
        from curation_features.samples import write_samples

        paths = [settings.data_path / "input" / "samples"]
        write_samples(paths[0])
    found = scan(paths, settings.data_path)
    batch_id = args.batch_id or new_batch_id(datetime.now())
    start = time.monotonic()
    with progress("ingesting", len(found.photos)) as bar:
        result = ingest_photos(
            found.photos, settings, batch_id=batch_id, vocabulary=args.vocabulary, progress=bar.advance
        )
    fields = {
        "batch_id": batch_id,
        "photos": len(found.photos),
        "rejected": [{"path": path, "reason": reason} for path, reason in result.rejected],
        "skipped": [asdict(skipped) for skipped in found.skipped],
        "left_out": [asdict(left_out) for left_out in found.left_out],
        "unreadable_folders": [{"path": path, "reason": reason} for path, reason in found.unreadable],
        "files": {"manifest": result.path},
        **speed(len(found.photos), time.monotonic() - start),
    }
    return Outcome(fields, partial(_show_ingested, fields, found))


def _show_ingested(fields: Mapping[str, Any], found: Found) -> None:
    for line in found.told():
        say(line, style="yellow")
    rejected = fields["rejected"]
    for photo in rejected[:MOST_REJECTED]:
        say(f"cannot be read, and will be marked as failed: {photo['path']}: {photo['reason']}", style="yellow")
    if len(rejected) > MOST_REJECTED:
        say(f"... and {len(rejected) - MOST_REJECTED} more, {len(rejected)} in all", style="yellow")
    say(f"{fields['photos']} photos in batch {fields['batch_id']}: {fields['files']['manifest']}")
    say(told_speed(fields), style="dim")
