"""Deletes batches, photos, and what nothing refers to: `batches rm`, `gc`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, UsageError, declare
from curation_features.cli.listing import KINDS, check_known, kinds_as_json, show_kinds
from curation_features.cli.terminal import doing, printable, progress, say, size
from curation_features.errors import CurationError, StoreError
from curation_features.settings import Settings, packaged_file

if TYPE_CHECKING:
    from curation_features.inventory import BatchFile
    from curation_features.manifest import Batch
    from curation_features.orchestration.records import BatchRecords
    from curation_features.removal import BatchRemoval, PhotoRemoval

RM_FIELDS = {
    "dry_run": "whether nothing was deleted",
    "batches": "[{batch_id, photos, shared, partition, kept}], those deleted; shared: photos that others have, too",
    "photo": "{photo_id, batches, others, kept} of --photo; batches lost it, others have it still",
    "kinds": KINDS,
    "failed": "[{batch_id, message}]: what was not deleted, and why",
}
GC_FIELDS = {
    "dry_run": "whether nothing was deleted",
    "files": "how many files were deleted, or would be",
    "bytes": "their size; a file with two names counts once",
    "kinds": KINDS,
}


def register(commands: Any, batches: Any) -> None:
    """Declare the commands of this module, one of them under `batches`."""
    command = declare(batches, "rm", batches_rm, "curation-features batches rm trip --dry-run", RM_FIELDS)
    command.add_argument("batches", nargs="*", metavar="BATCH", help="ids of batches")
    command.add_argument("--photo", metavar="PHOTO_ID", help="delete this photo from all batches that have it")
    command.add_argument("--batch", metavar="BATCH", help="with --photo: from this batch alone")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")

    command = declare(commands, "gc", gc, "curation-features gc --dry-run", GC_FIELDS)
    command.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")
    command.add_argument(
        "--older-than", type=_hours, default=1.0, metavar="HOURS", help="keep younger files (default: %(default)g)"
    )


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours of 0 or more")
    return hours


# rm ------------------------------------------------------------------------------------------------------------------


def batches_rm(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Delete batches, or one photo, with all that was made of them. Originals stay, and so does what others use."""
    if bool(args.batches) == (args.photo is not None):
        raise UsageError("give ids of batches, or --photo PHOTO_ID")
    if args.batch is not None and args.photo is None:
        raise UsageError("--batch goes with --photo; without it, give the batch alone")
    if not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise UsageError("nobody can be asked here: give --yes to delete, or --dry-run")
    with ExitStack() as opened:
        records, problem = _open_records(opened, settings)
        if args.photo is not None:
            return _rm_photo(args, settings, records)
        return _rm_batches(args, settings, records, problem)


def _open_records(opened: ExitStack, settings: Settings) -> tuple[BatchRecords | None, str]:
    """Dagster's records, None if there are none; and what keeps them from being opened."""
    try:
        with doing("opening Dagster's records"):
            from curation_features.orchestration.records import open_records

            return opened.enter_context(open_records(settings, packaged_file("dagster.yaml"))), ""
    except Exception as error:  # Dagster raises whatever its configuration and database raise
        return None, str(error)


def _rm_batches(args: argparse.Namespace, settings: Settings, records: BatchRecords | None, problem: str) -> Outcome:
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
    told = _Told(args.dry_run, problem)
    if args.dry_run:
        for removal in planned:
            told.batch(removal, records.holds(removal.batch_id) if records else False)
        return told.outcome()
    _confirm(args, _question(planned))
    store = ArtifactStore(settings.data_path)
    with progress("deleting", len(planned), unit="batches") as bar:
        for batch_id in batch_ids:
            partition = records.holds(batch_id) if records else False
            try:
                removal = remove_batch(settings, store, batch_id, shared, records.forget if records else None)
            except StoreError as error:
                told.failed[batch_id] = str(error)
            else:
                told.batch(removal, partition)
            bar.advance()
    return told.outcome()


def _rm_photo(args: argparse.Namespace, settings: Settings, records: BatchRecords | None) -> Outcome:
    from curation_features.processing import accept_without_dagster
    from curation_features.removal import PhotoSearch, remove_photo
    from curation_features.storage.artifacts import ArtifactStore

    search = PhotoSearch(settings, args.photo, args.batch)
    with progress("searching", len(search.batch_ids), unit="batches") as bar:
        removal = search.find(bar.advance)
    _check_idle([*removal.batches, *removal.begun], records)
    told = _Told(args.dry_run)  # Dagster learns later of what it cannot be told now
    told.photo = removal
    told.files += removal.files
    if args.dry_run:
        return told.outcome()
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
    return told.outcome()


def _check_idle(batch_ids: Iterable[str], records: BatchRecords | None) -> None:
    """Raises `StoreError` if a run of one of the batches is queued or started."""
    for batch_id in batch_ids:
        run_id = records.run_of(batch_id) if records is not None else None
        if run_id is not None:
            raise StoreError(
                f"batch {batch_id}: run {run_id} of Dagster is queued or started; "
                "wait until it has ended, or terminate it in the browser (`make dev`); nothing was deleted"
            )


def _question(planned: Sequence[BatchRemoval]) -> str:
    from curation_features.inventory import total_bytes

    files = [file for removal in planned for file in removal.files]
    what = f"batch {planned[0].batch_id}" if len(planned) == 1 else f"{len(planned)} batches"
    photos = sum(removal.photos for removal in planned)
    return f"delete {what} ({photos:,} photos, {len(files):,} files, {size(total_bytes(files))})"


def _confirm(args: argparse.Namespace, question: str) -> None:
    """Ask on the terminal, unless `--yes` is given. Raises `CurationError`: the answer is no."""
    if args.yes:
        return
    print(printable(f"{question}? Originals stay. [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CurationError("nothing was deleted")


@dataclass
class _Told:
    """What was deleted, or would be, for people and machines.

    Attributes:
        problem: what keeps Dagster's records from being opened, so that partitions stay.
    """

    dry_run: bool
    problem: str = ""
    batches: list[dict[str, Any]] = field(default_factory=list)
    files: list[BatchFile] = field(default_factory=list)
    photo: PhotoRemoval | None = None
    failed: dict[str, str] = field(default_factory=dict)

    def batch(self, removal: BatchRemoval, has_partition: bool) -> None:
        """Take in a batch."""
        self.files += removal.files
        partition = "unknown" if self.problem else "deleted" if has_partition else "none"
        told = {"batch_id": removal.batch_id, "photos": removal.photos, "shared": removal.shared}
        self.batches.append({**told, "partition": partition, "kept": removal.kept})

    def outcome(self) -> Outcome:
        """All of it."""
        photo = self.photo and {name: getattr(self.photo, name) for name in ("photo_id", "batches", "others", "kept")}
        fields = {
            "dry_run": self.dry_run,
            "batches": self.batches,
            "photo": photo,
            "kinds": kinds_as_json(self.files),
            "failed": [{"batch_id": batch_id, "message": message} for batch_id, message in self.failed.items()],
        }
        return Outcome(fields, self._show, self._failure())

    def _failure(self) -> CurationError | None:
        if self.failed:
            return StoreError("\n".join(self.failed.values()))
        if self.problem and not self.dry_run:
            return StoreError(
                "Dagster keeps the partitions: run the same command again once its records can be opened: "
                f"{self.problem}"
            )
        return None

    def _show(self) -> None:
        from curation_features.inventory import total_bytes

        verb = "would be deleted" if self.dry_run else "deleted"
        for batch in self.batches:
            shared = f"; other batches have {batch['shared']:,} of them, too: what was made of these stays"
            partition = ", and its partition in Dagster" if batch["partition"] == "deleted" else ""
            say(f"batch {batch['batch_id']}, {batch['photos']:,} photos{shared if batch['shared'] else ''}{partition}")
        if self.photo is not None:
            removed, others = ", ".join(self.photo.batches), ", ".join(self.photo.others)
            say(f"photo {self.photo.photo_id}{f', from {removed}' if removed else ''}")
            if others:
                say(f"these have it still, so what was made of it stays: {others}")
        show_kinds(self.files)
        kept = [path for batch in self.batches for path in batch["kept"]]
        for path in (*kept, *(self.photo.kept if self.photo else ())):
            say(f"outside the data folder, so it stays: {path}", style="yellow")
        say(f"{len(self.files):,} files, {size(total_bytes(self.files))}, {verb}", style="bold")


# gc ------------------------------------------------------------------------------------------------------------------


def gc(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Delete what nothing refers to: what was made of photos that no batch has, files of deleted batches, leftovers."""
    from curation_features.inventory import UnreferencedFiles, total_bytes
    from curation_features.removal import collect

    seconds = args.older_than * 3600
    with doing("looking for files"):
        search = UnreferencedFiles(settings, seconds)
    with progress("reading batches", len(search.batch_ids), unit="batches") as bar:
        found = search.find(bar.advance)
    if not args.dry_run:
        with progress("deleting", len(found), unit="files") as bar:
            found = list(collect(settings, found, seconds, bar.advance))
    total = total_bytes(found)
    fields = {"dry_run": args.dry_run, "files": len(found), "bytes": total, "kinds": kinds_as_json(found)}
    return Outcome(fields, partial(_show_collected, found, total, args.dry_run))


def _show_collected(found: Sequence[BatchFile], total: int, dry_run: bool) -> None:
    if not found:
        say("nothing to delete", style="bold")
        return
    show_kinds(found)
    verb = "would be deleted" if dry_run else "deleted"
    say(f"{len(found):,} files that nothing refers to, {size(total)}, {verb}", style="bold")
