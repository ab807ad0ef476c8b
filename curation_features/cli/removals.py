"""Deletes batches, photos, and unreferenced files: `batches rm`, `gc`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, UsageError, declare
from curation_features.cli.manifests import check_known
from curation_features.cli.terminal import (
    LEFT,
    RIGHT,
    console,
    count_of,
    doing,
    make_table,
    printable,
    progress,
    say,
    size,
)
from curation_features.errors import CurationError, StoreError
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.inventory import BatchFile
    from curation_features.manifest import Batch
    from curation_features.orchestration.records import BatchRecords
    from curation_features.removal import BatchRemoval, PhotoRemoval

_FIRST_PATHS = 3

KINDS = "{kind: {files, bytes, first}}: files that are deleted, or would be; first: a few paths"
RM_FIELDS = {
    "dry_run": "whether nothing was deleted",
    "batches": "[{batch_id, photos, shared, partition, kept}]: deleted batches; shared: photos that others have, too",
    "photo": "{photo_id, batches, others, kept} of --photo; batches lost it, others still have it",
    "kinds": KINDS,
    "failed": "[{batch_id, message}]: batches that were not deleted, and why",
}
GC_FIELDS = {
    "dry_run": "whether nothing was deleted",
    "files": "number of files that were deleted, or would be",
    "bytes": "their size; hard links of one file count once",
    "kinds": KINDS,
}


def register(commands: Any, batches: Any) -> None:
    """Declare the commands of this module, one of them under `batches`."""
    command = declare(batches, "rm", batches_rm, "curation-features batches rm trip --dry-run", RM_FIELDS)
    command.add_argument("batches", nargs="*", metavar="BATCH", help="ids of batches")
    command.add_argument("--photo", metavar="PHOTO_ID", help="delete this photo from all batches that have it")
    command.add_argument("--batch", metavar="BATCH", help="with --photo: from this batch alone")
    command.add_argument("--yes", action="store_true", help="do not ask")
    _add_dry_run(command)

    command = declare(commands, "gc", gc, "curation-features gc --dry-run", GC_FIELDS)
    _add_dry_run(command)
    help_text = "keep younger files (default: %(default)g)"
    command.add_argument("--older-than", type=_parse_hours, default=1.0, metavar="HOURS", help=help_text)


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")


def _parse_hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours of 0 or more")
    return hours


# rm ------------------------------------------------------------------------------------------------------------------


def batches_rm(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Delete batches, or one photo, with all derived files. Originals stay, and so do files that others use."""
    if bool(args.batches) == (args.photo is not None):
        raise UsageError("give ids of batches, or --photo PHOTO_ID")
    if args.batch is not None and args.photo is None:
        raise UsageError("--batch needs --photo; without it, give only the id of the batch")
    if not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise UsageError("cannot ask without a terminal: give --yes to delete, or --dry-run")
    with ExitStack() as opened:
        records, problem = _open_records(opened, settings)
        if args.photo is not None:
            return _rm_photo(args, settings, records)
        return _rm_batches(args, settings, records, problem)


def _open_records(opened: ExitStack, settings: Settings) -> tuple[BatchRecords | None, str]:
    """Dagster's records, or None if there are none or they cannot be opened, and why."""
    try:
        with doing("opening Dagster's records"):
            from curation_features.orchestration.records import open_batch_records

            return opened.enter_context(open_batch_records(settings)), ""
    except Exception as error:  # any error of Dagster's configuration or database
        return None, str(error)


def _rm_batches(args: argparse.Namespace, settings: Settings, records: BatchRecords | None, problem: str) -> Outcome:
    from curation_features.inventory import total_bytes
    from curation_features.removal import SharedPhotos, plan_removal, remove_batch
    from curation_features.storage.artifacts import ArtifactStore

    batch_ids = list(dict.fromkeys(args.batches))
    check_known(batch_ids, settings, records)
    _check_idle(batch_ids, records)
    with doing("reading the batches"):
        shared = SharedPhotos(settings, batch_ids)
    with progress("reading other batches", len(shared.others), unit="batches") as bar:
        shared.find(bar.advance)
    planned = [plan_removal(settings, batch_id, shared) for batch_id in batch_ids]
    report = _Report(args.dry_run, problem)

    def has_partition(batch_id: str) -> bool:
        return records.holds(batch_id) if records else False

    if args.dry_run:
        for removal in planned:
            report.add_batch(removal, has_partition(removal.batch_id))
        return report.outcome()
    files = [file for removal in planned for file in removal.files]
    what = f"batch {batch_ids[0]}" if len(planned) == 1 else f"{len(planned)} batches"
    photos = sum(removal.photos for removal in planned)
    _confirm(
        args, f"delete {what} ({count_of(photos, 'photo')}, {count_of(len(files), 'file')}, {size(total_bytes(files))})"
    )
    store = ArtifactStore(settings.data_path)
    with progress("deleting", len(planned), unit="batches") as bar:
        for batch_id in batch_ids:
            had_partition = has_partition(batch_id)
            try:
                removal = remove_batch(settings, store, batch_id, shared, records.forget if records else None)
                report.add_batch(removal, had_partition)
            except StoreError as error:
                report.failed[batch_id] = str(error)
            bar.advance()
    _regroup(settings)
    return report.outcome()


def _rm_photo(args: argparse.Namespace, settings: Settings, records: BatchRecords | None) -> Outcome:
    from curation_features.processing import accept_without_dagster
    from curation_features.removal import PhotoSearch, remove_photo
    from curation_features.storage.artifacts import ArtifactStore

    search = PhotoSearch(settings, args.photo, args.batch)
    with progress("searching", len(search.batch_ids), unit="batches") as bar:
        removal = search.find(bar.advance)
    _check_idle([*removal.batches, *removal.begun], records)
    report = _Report(args.dry_run, files=[*removal.files], photo=removal)  # no problem: Dagster is notified later
    if args.dry_run:
        return report.outcome()
    store = ArtifactStore(settings.data_path)

    def accept(batch: Batch) -> None:
        if records is not None and records.holds(batch.batch_id):
            records.accept(batch, store)
        else:
            accept_without_dagster(batch, store)

    where = f" from {', '.join(removal.batches)}" if removal.batches else ", of which only files are left"
    _confirm(args, f"delete photo {removal.photo_id}{where}")
    with doing("deleting"):
        remove_photo(settings, store, removal, accept)
    _regroup(settings)
    return report.outcome()


def _regroup(settings: Settings) -> None:
    """Group the photos again that were in a group with a deleted one, if the photos of all batches were grouped."""
    from curation_features.library import update_groups
    from curation_features.storage.groups import has_groups

    if has_groups(settings.data_path):
        with doing("reconciling groups"):
            update_groups(settings)


def _check_idle(batch_ids: Iterable[str], records: BatchRecords | None) -> None:
    """Raise `StoreError` if a run of one of the batches is queued or started."""
    for batch_id in batch_ids:
        run_id = records.run_of(batch_id) if records is not None else None
        if run_id is not None:
            raise StoreError(
                f"batch {batch_id}: run {run_id} of Dagster is queued or started; "
                "wait until it has ended, or terminate it in the browser (`make dev`); nothing was deleted"
            )


def _confirm(args: argparse.Namespace, question: str) -> None:
    """Ask on the terminal, unless `--yes` is given. Raise `CurationError` if the answer is no."""
    if args.yes:
        return
    print(printable(f"{question}? Originals stay. [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CurationError("nothing was deleted")


@dataclass
class _Report:
    """The deleted batches, photo and files, or those that would be deleted.

    Attributes:
        problem: why Dagster's records cannot be opened, so that partitions stay.
    """

    dry_run: bool
    problem: str = ""
    batches: list[dict[str, Any]] = field(default_factory=list)
    files: list[BatchFile] = field(default_factory=list)
    photo: PhotoRemoval | None = None
    failed: dict[str, str] = field(default_factory=dict)

    def add_batch(self, removal: BatchRemoval, has_partition: bool) -> None:
        self.files += removal.files
        fields = {name: getattr(removal, name) for name in ("batch_id", "photos", "shared")}
        partition = "unknown" if self.problem else "deleted" if has_partition else "none"
        self.batches.append({**fields, "partition": partition, "kept": removal.kept})

    def outcome(self) -> Outcome:
        photo = self.photo and {name: getattr(self.photo, name) for name in ("photo_id", "batches", "others", "kept")}
        fields = {
            "dry_run": self.dry_run,
            "batches": self.batches,
            "photo": photo,
            "kinds": group_by_kind(self.files),
            "failed": [{"batch_id": batch_id, "message": message} for batch_id, message in self.failed.items()],
        }
        failure = "\n".join(self.failed.values())
        if self.problem and not (failure or self.dry_run):
            failure = (
                "Dagster still has the partitions: run the same command again when its records can be opened: "
                f"{self.problem}"
            )
        return Outcome(fields, self._show, StoreError(failure) if failure else None)

    def _show(self) -> None:
        for batch in self.batches:
            partition = ", and its partition in Dagster" if batch["partition"] == "deleted" else ""
            shared = f"; {batch['shared']:,} of them are in other batches, too: their files stay"
            photos = count_of(batch["photos"], "photo")
            say(f"batch {batch['batch_id']}: {photos}{partition}{shared if batch['shared'] else ''}")
        if self.photo is not None:
            removed, others = ", ".join(self.photo.batches), ", ".join(self.photo.others)
            say(f"photo {self.photo.photo_id}{f', from {removed}' if removed else ''}")
            if others:
                say(f"its files stay, because these batches still have it: {others}")
        kept = [path for batch in self.batches for path in batch["kept"]]
        _show_files(self.files, "file", self.dry_run, [*kept, *(self.photo.kept if self.photo else ())])


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


def _show_files(files: Sequence[BatchFile], what: str, dry_run: bool, kept: Iterable[object] = ()) -> None:
    from curation_features.inventory import total_bytes

    rows = [
        (kind, f"{group['files']:,}", size(group["bytes"]), ", ".join(path.name for path in group["first"]))
        for kind, group in group_by_kind(files).items()
    ]
    if rows:
        columns = {"kind": LEFT, "files": RIGHT, "size": RIGHT, "names": {"ratio": 1}}
        console().print(make_table(columns, rows, gap=2, expand=True))
    for path in kept:
        say(f"outside the data folder, stays: {path}", style="yellow")
    verb = "would be deleted" if dry_run else "deleted"
    say(f"{count_of(len(files), what)}, {size(total_bytes(files))}, {verb}", style="bold")


# gc ------------------------------------------------------------------------------------------------------------------


def gc(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Delete unreferenced files: of photos in no batch, of deleted batches, and leftovers."""
    from curation_features.inventory import UnreferencedFiles, total_bytes
    from curation_features.removal import collect

    seconds = args.older_than * 3600
    with doing("looking for files"):
        search = UnreferencedFiles(settings, seconds)
    with progress("reading batches", len(search.batch_ids), unit="batches") as bar:
        files = search.find(bar.advance)
    if not args.dry_run:
        with progress("deleting", len(files), unit="files") as bar:
            files = list(collect(settings, files, seconds, bar.advance))
    fields = {"files": len(files), "bytes": total_bytes(files), "kinds": group_by_kind(files)}
    show = partial(_show_files, files, "unreferenced file", args.dry_run)
    return Outcome({"dry_run": args.dry_run, **fields}, show if files else partial(say, "nothing to delete", "bold"))
