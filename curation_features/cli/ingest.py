"""Makes a batch of photos: `ingest`; and processes it: `run`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.batches import RUN_FIELDS, materialize
from curation_features.cli.command import SPEED_FIELDS, Outcome, allow_degraded, declare, format_speed, speed
from curation_features.cli.terminal import count_of, progress, say
from curation_features.errors import require_extra
from curation_features.photos.reader import is_remote
from curation_features.settings import Settings
from curation_features.text import mask_secrets

if TYPE_CHECKING:
    from curation_features.ingest.discovery import Found

MOST_REJECTED = 20
SAMPLES_ID = "first-run"
_KINDS = {"raw": "raw file", "sidecar": "sidecar", "video": "video"}  # of companions

INGEST_FIELDS = {
    "batch_id": "id of the batch",
    "photos": "number of files",
    "replaced": "photos of the batch before; 0: it is new",
    "added": "photos that the batch did not have before",
    "gone": "photos that the batch no longer has",
    "rejected": "[{path, reason}]: unreadable files; they are in the batch, and will fail",
    "companions": "{raw, sidecar, video}: photos with such files of the same shot",
    "skipped": "[{suffix, format, files, examples}]: photos of unsupported formats",
    "left_out": "[{kind, entries, examples}]: other_programs, own_files, linked_folders, hidden, unpaired",
    "unreadable_folders": "[{path, reason}]: folders that cannot be listed",
    "files": "{manifest}: the written file",
    **SPEED_FIELDS,
}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    command = declare(commands, "ingest", ingest, "curation-features ingest ~/Pictures/trip", INGEST_FIELDS)
    _add_photo_arguments(command)

    fields = {**INGEST_FIELDS, **RUN_FIELDS, "files": "{manifest, features, table, page}: the written files"}
    command = declare(commands, "run", run, "curation-features run ~/Pictures/trip --allow-degraded", fields)
    _add_photo_arguments(command)
    allow_degraded(command)


def _add_photo_arguments(command: argparse.ArgumentParser) -> None:
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "photos",
        nargs="*",
        default=[],
        type=parse_photos_path,
        metavar="PATH",
        help="folders, read recursively, photos, and quoted patterns such as 'trip/*.jpg'",
    )
    where.add_argument("--samples", action="store_true", help="use the sample photos of scikit-image")
    batch_id = f"id of the batch (default: the folder's name; {SAMPLES_ID} for the samples)"
    command.add_argument("--batch-id", metavar="ID", help=batch_id)
    command.add_argument("--replace", action="store_true", help="replace a batch of this id, even if it loses photos")
    command.add_argument("--vocabulary", metavar="NAME", help="the named vocabulary of the batch")


def parse_photos_path(text: str) -> Path:
    """Parse a local path; `~` is expanded, if the shell has not done so."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(
            f"{mask_secrets(text)}: only local folders and photos are ingested, since `ingest` keeps reduced copies of "
            "them; copy the photos, or make a manifest of the bucket's listing for `process` or `submit`: "
            '"Photos in an object store" in docs/scale.md'
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:  # unknown user
        return Path(text)


def ingest(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make a batch of photos and folders of photos."""
    from curation_features.ingest.discovery import scan
    from curation_features.ingest.folder import batch_id_of
    from curation_features.ingest.folder import ingest as ingest_photos

    paths = args.photos
    if args.samples:
        from curation_features.ingest.samples import write_samples

        paths = [settings.data_path / "input" / "samples"]
        write_samples(paths[0])
    found = scan(paths, settings.data_path)
    batch_id = args.batch_id or (SAMPLES_ID if args.samples else batch_id_of(paths))
    start = time.monotonic()
    with progress("ingesting", len(found.photos)) as bar:
        result = ingest_photos(
            found.photos,
            settings,
            batch_id=batch_id,
            vocabulary=args.vocabulary,
            replace=args.replace,
            progress=bar.advance,
            comparing=bar.waiting("comparing with the previous batch"),
        )
    fields = {
        "batch_id": batch_id,
        "photos": len(found.photos),
        "replaced": result.change.before,
        "added": result.change.added,
        "gone": result.change.gone,
        "rejected": [{"path": path, "reason": reason} for path, reason in result.rejected],
        "companions": _count_companions(result.manifest["artifacts"]),
        "skipped": [asdict(skipped) for skipped in found.skipped],
        "left_out": [asdict(left_out) for left_out in found.left_out],
        "unreadable_folders": [{"path": path, "reason": reason} for path, reason in found.unreadable],
        "files": {"manifest": result.path},
        **speed(len(found.photos), time.monotonic() - start),
    }
    return Outcome(fields, partial(_show_ingested, fields, found))


def run(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make a batch of photos and process it through Dagster, now."""
    require_extra("dagster")  # before photos are copied
    ingested = ingest(args, settings)
    ingested.show()
    files = ingested.fields["files"]
    given = {"manifest": str(files["manifest"]), "vocabulary": None, "retry_failed": False}
    measured = materialize(argparse.Namespace(**{**vars(args), **given}), settings)
    fields = {**ingested.fields, **measured.fields, "files": {**files, **measured.fields["files"]}}
    return Outcome(fields, measured.show, measured.failure)


def _count_companions(artifacts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the photos with companions of each kind."""
    counts = Counter(
        kind for artifact in artifacts for kind in {companion["kind"] for companion in artifact.get("companions", ())}
    )
    return {kind: counts[kind] for kind in _KINDS}


def _show_ingested(fields: Mapping[str, Any], found: Found) -> None:
    for line in found.messages():
        say(line, style="yellow")
    rejected = fields["rejected"]
    for photo in rejected[:MOST_REJECTED]:
        say(f"unreadable, will be marked as failed: {photo['path']}: {photo['reason']}", style="yellow")
    if len(rejected) > MOST_REJECTED:
        say(f"... and {len(rejected) - MOST_REJECTED} more, {len(rejected)} in all", style="yellow")
    if fields["gone"]:
        change = f"{fields['gone']} removed, {fields['added']} added"
        say(
            f"replaces batch {fields['batch_id']!r} ({count_of(fields['replaced'], 'photo')}): {change}", style="yellow"
        )
    elif fields["replaced"] and fields["added"]:
        say(f"adds {count_of(fields['added'], 'photo')} to batch {fields['batch_id']!r} ({fields['replaced']} before)")
    companions = (f", {count} with a {_KINDS[kind]}" for kind, count in fields["companions"].items() if count)
    photos = f"{count_of(fields['photos'], 'photo')}{''.join(companions)}"
    say(f"{photos} in batch {fields['batch_id']}: {fields['files']['manifest']}")
    say(format_speed(fields), style="dim")
