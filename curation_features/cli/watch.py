"""Watches folders of photos, and processes new ones: `watch`."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.batches import begin
from curation_features.cli.command import Outcome, allow_degraded, declare
from curation_features.cli.ingest import parse_photos_path
from curation_features.cli.terminal import count_of, progress, say
from curation_features.errors import CurationError, StoreError
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.watching import Looked, Watch
    from curation_features.watching.journal import PlannedBatch

_LONGEST_PAUSE_S = 600.0

FIELDS = {
    "batches": "[{batch_id, photos, statuses, seconds}]: the finished batches",
    "waiting": "number of new files that have not come to rest",
    "failed": "{batch_id: reason}: batches that failed, and are tried again",
    "problems": "{folder: reason}: folders that cannot be used now",
    "signal": "whether a signal ended it",
}


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "watch", watch, "curation-features watch ~/Pictures/inbox", FIELDS)
    folders = "folders of photos, with their subfolders (default: watch_folders of the settings)"
    command.add_argument("folders", nargs="*", type=parse_photos_path, metavar="FOLDER", help=folders)
    once = "process the photos that have come to rest, and end; waits at most watch_settle_seconds"
    command.add_argument("--once", action="store_true", help=once)
    command.add_argument(
        "--every", type=_parse_seconds, default=30.0, metavar="SECONDS", help="pause between two looks (default: 30)"
    )
    allow_degraded(command)


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return seconds


def watch(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Watch folders of photos: new photos become batches, and are processed."""
    from curation_features.watching import Watch

    args.vocabulary = None
    session = _Session(args, settings)
    with closing(Watch(settings, args.folders)) as watched, watched.exclusive(), _until_signal(session):
        begin(args, settings)  # missing weights are reported now, not with the first photo
        say(f"watching {', '.join(map(str, watched.folders))}", style="dim")
        while True:
            try:
                looked = session.step(watched)
            except StoreError as error:  # of the journal, which cannot be written on a full disk
                if args.once:
                    raise
                time.sleep(session.pause_after(error))
                continue
            if args.once and looked.is_complete and not looked.manifests:
                break
            if looked.is_complete and not looked.manifests:
                time.sleep(args.every)
    failure = CurationError(_describe_failures(session.failed)) if args.once and session.failed else None
    return Outcome(session.fields(), partial(_show_end, session), failure)


@contextmanager
def _until_signal(session: _Session) -> Iterator[None]:
    """End the block quietly at SIGTERM or SIGINT. The batch in progress continues at the next start."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is under way
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        session.has_signal = True
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(slots=True)
class _Session:
    """A run of the command: its settings, and what it has done."""

    args: argparse.Namespace
    settings: Settings
    batches: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    looked: Looked | None = None
    has_signal: bool = False
    pauses: int = 0

    def fields(self) -> dict[str, Any]:
        """The output of `--json`."""
        waiting, problems = (self.looked.waiting, self.looked.problems) if self.looked else (0, {})
        found = {"batches": self.batches, "waiting": waiting, "failed": self.failed, "problems": problems}
        return {**found, "signal": self.has_signal}

    def step(self, watched: Watch) -> Looked:
        """Look at the folders, and process what is due. Raises `StoreError`: the journal cannot be used."""
        looked = self.look(watched, is_last=False)
        if self.args.once and looked.waiting:
            time.sleep(self.settings.watch_settle_seconds)
            looked = self.look(watched, is_last=True)
        self.process(watched, watched.due(looked, is_patient=not self.args.once))
        self.pauses = 0
        return looked

    def pause_after(self, error: StoreError) -> float:
        """Report that the journal cannot be used, once; return the seconds until the next step, which double."""
        if not self.pauses:
            say(f"waiting, and trying again: {error}", style="red")
        self.pauses += 1
        every: float = self.args.every
        return max(every, min(every * 2.0 ** min(self.pauses, 10), _LONGEST_PAUSE_S))

    def look(self, watched: Watch, *, is_last: bool) -> Looked:
        """Look at the folders, and report what has changed."""
        self.looked = looked = watched.look(is_last=is_last)
        for path, reason in looked.appeared.items():
            say(f"{path} {reason}", style="yellow")
        for path in looked.recovered:
            say(f"{path} can be read again")
        for batch in looked.planned:
            say(f"new batch {batch.batch_id}: {count_of(batch.photos, 'photo')}")
        return looked

    def process(self, watched: Watch, due: Sequence[PlannedBatch]) -> None:
        """Process planned batches. Models stay in memory until the last of them is done."""
        if not due:
            return
        stages, observer = begin(self.args, self.settings, is_reported=True)
        for batch in due:
            try:
                self._process(watched, batch, stages, observer)
                self.failed.pop(batch.batch_id, None)
            except (CurationError, OSError, MemoryError) as error:
                reason = str(error) or type(error).__name__
                watched.postpone(batch, reason)
                if self.failed.get(batch.batch_id) != reason:
                    say(f"batch {batch.batch_id} failed, and will be tried again: {reason}", style="red")
                self.failed[batch.batch_id] = reason

    def _process(self, watched: Watch, batch: PlannedBatch, stages: Any, observer: Any) -> None:
        from curation_features.events.outbox import Outbox
        from curation_features.manifest import read_manifest
        from curation_features.processing import accept_without_dagster, process_batch
        from curation_features.storage.artifacts import ArtifactStore

        store, start = ArtifactStore(self.settings.data_path), time.monotonic()
        with ExitStack() as locked:
            locked.enter_context(store.exclusive(batch.batch_id))
            if watched.find(batch.batch_id) is None:  # Dagster has ingested it meanwhile
                return
            with progress("ingesting", watched.count(batch)) as bar:
                ingested = watched.ingest(batch, bar.advance)
            if ingested is None:
                say(f"batch {batch.batch_id}: all its photos are in other batches, or gone")
                watched.finish(batch)
                return
            manifest = read_manifest(ingested.path)
            accept_without_dagster(manifest, store)
            with observer.showing(manifest):
                made = process_batch(manifest, stages, store, Outbox.from_settings(self.settings))
        watched.finish(batch)
        self._report(batch.batch_id, made.merged.statuses(), time.monotonic() - start)

    def _report(self, batch_id: str, statuses: Mapping[str, int], seconds: float) -> None:
        photos = sum(statuses.values())
        fields = {"batch_id": batch_id, "photos": photos, "statuses": statuses, "seconds": round(seconds, 3)}
        self.batches.append(fields)
        counts = ", ".join(f"{count:,} {name}" for name, count in statuses.items() if count)
        say(f"finished {batch_id}: {counts}; {seconds:.1f} s")


def _describe_failures(failed: dict[str, str]) -> str:
    return "\n".join(f"batch {batch_id} failed: {reason}" for batch_id, reason in failed.items())


def _show_end(session: _Session) -> None:
    batches: Sequence[dict[str, Any]] = session.batches
    done = f"{count_of(sum(batch['photos'] for batch in batches), 'photo')} in {len(batches):,} finished batches"
    waiting = (
        f"; {count_of(session.looked.waiting, 'new file')} not at rest"
        if session.looked and session.looked.waiting
        else ""
    )
    say(f"{'stopped: ' if session.has_signal else ''}{done}{waiting}", style="bold")
