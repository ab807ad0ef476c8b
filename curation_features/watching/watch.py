"""Watches folders: plans batches of new photos, and ingests them."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from filelock import FileLock, Timeout

from curation_features.atomic_files import writing
from curation_features.errors import BusyError, InputError, ManifestError, StorageAwayError
from curation_features.ingest.discovery import photos_among
from curation_features.photos.reader import is_remote
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.text import mask_secrets
from curation_features.watching.ingested import Ingested
from curation_features.watching.journal import NOTHING, Folder, Journal, PlannedBatch
from curation_features.watching.look import Sight, find_problem, look
from curation_features.watching.plan import Draft, Rule, Waiting, cut, is_at_rest, is_quiet, ready_photos, unique_id

if TYPE_CHECKING:
    from curation_features.ingest.folder import IngestResult

LOOK_S = 20.0
"""Time of a look by default, in seconds: a third of the time that Dagster gives to a sensor."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A new batch: its id and number of photos."""

    batch_id: str
    photos: int


@dataclass(frozen=True, slots=True)
class Looked:
    """Result of a look.

    Attributes:
        now: Unix time in s of the look.
        planned: new batches.
        waiting: number of new files that are not in a batch yet.
        appeared: problems of folders that the last look did not have: path -> reason.
        recovered: folders whose problem has gone.
        problems: all current problems.
        manifests: number of manifests of earlier batches to read before batches are planned.
        is_complete: False if the time was up before every folder was looked at; the next look continues.
    """

    now: float
    planned: tuple[Planned, ...]
    waiting: int
    appeared: dict[str, str]
    recovered: tuple[str, ...]
    problems: dict[str, str]
    manifests: int = 0
    is_complete: bool = True


def watched_folders(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Return absolute paths of watched folders, without those in another one."""
    absolute = sorted({Path(os.path.abspath(folder)) for folder in folders})  # noqa: PTH100 (a link keeps its own name)
    return tuple(
        path for path in absolute if not any(path.is_relative_to(other) for other in absolute if other != path)
    )


class Watch:
    """The watched folders of a project.

    Args:
        folders: default: `watch_folders` of the settings.

    Raises:
        InputError: no folder is given, or one is on another machine.
        StoreError: from every method, if the journal cannot be used.
    """

    def __init__(self, settings: Settings, folders: Sequence[Path] = ()) -> None:
        self.folders = watched_folders(folders or [_to_path(text, settings.root) for text in settings.watch_folders])
        if not self.folders:
            raise InputError("no folder to watch; name one, or set watch_folders in config/settings.toml")
        self._settings = settings
        self._folder = settings.data_path / "watch"
        self._store = ArtifactStore(settings.data_path)
        self._journal = Journal(self._folder / "journal.sqlite")
        self._ingested = Ingested(self._journal, settings.data_path, settings.root)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of the watched folders. Raises `BusyError` if another process does."""
        path = self._folder / ".lock"
        lock = FileLock(path)
        with writing(path):
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                raise BusyError(
                    f"another process watches the folders of this project ({path}); stop it first"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def look(self, *, seconds: float = LOOK_S, now: float | None = None, is_last: bool = False) -> Looked:
        """Look at all folders, and plan batches of the photos that have come to rest.

        Args:
            seconds: after this time no further folder or manifest is begun.
            now: Unix time in s.
            is_last: plan all photos at rest, even if other files of their folder are not.
        """
        now = time.time() if now is None else now
        deadline = time.monotonic() + seconds
        with self._journal.reporting():
            return self._look(now, deadline, is_last)

    def _look(self, now: float, deadline: float, is_last: bool) -> Looked:
        manifests = self._ingested.refresh(deadline)
        sight = look(self._journal, self.folders, self._settings.data_path, now=now, deadline=deadline)
        planned = [] if manifests else self._plan(sight, now, deadline, is_last)
        before = self._journal.problems()
        problems = sight.problems if sight.is_complete else before | sight.problems
        if problems != before:
            with self._journal.transaction():
                self._journal.put_problems(problems)
        return Looked(
            now,
            tuple(planned),
            self._journal.count_waiting(),
            {path: reason for path, reason in problems.items() if path not in before},
            tuple(path for path in before if path not in problems),
            problems,
            manifests,
            sight.is_complete,
        )

    def due(self, looked: Looked, *, is_patient: bool = True) -> list[PlannedBatch]:
        """Return the planned batches to ingest now, in the order of planning; not those of a folder with a problem.

        Args:
            is_patient: let a batch that failed wait until it is due again.
        """
        return [
            batch
            for batch in self.planned()
            if os.fsdecode(batch.root) not in looked.problems and (batch.is_due(looked.now) or not is_patient)
        ]

    def planned(self) -> list[PlannedBatch]:
        """The batches that are not done, in the order of planning."""
        with self._journal.reporting():
            return self._journal.planned()

    def find(self, batch_id: str) -> PlannedBatch | None:
        """Return a planned batch that is not done; None if there is none."""
        return next((batch for batch in self.planned() if batch.batch_id == batch_id), None)

    def count(self, batch: PlannedBatch) -> int:
        """Count the photos of a planned batch."""
        with self._journal.reporting():
            return len(self._journal.photos_of(batch))

    def ingest(self, batch: PlannedBatch, progress: Callable[[int], None] | None = None) -> IngestResult | None:
        """Ingest a planned batch like `curation-features ingest`; again if it was interrupted.

        Photos that have been deleted since, or whose bytes are in another batch, are skipped.

        Returns:
            None if no photo remains.

        Raises:
            StorageAwayError: the watched folder cannot be used now.
            CurationError: see `ingest.folder.ingest`.
        """
        with self._journal.reporting():
            return self._ingest(batch, progress)

    def _ingest(self, batch: PlannedBatch, progress: Callable[[int], None] | None) -> IngestResult | None:
        from curation_features.ingest.folder import ingest  # loads decoders; a look needs none

        self._check_root(batch)
        files = self._journal.photos_of(batch)
        present = [path for path in files if os.path.lexists(path)]
        with self._journal.transaction():
            self._journal.forget(files[path] for path in files.keys() - set(present))
        if not present:
            return None
        self._ingested.refresh(float("inf"))
        result = ingest(
            [*map(Path, present)],
            self._settings,
            batch_id=batch.batch_id,
            replace=True,
            exclude=self._ingested.photos(except_batch=batch.batch_id),
            progress=progress,
        )
        if result.rejected:
            self._check_root(batch)
        with self._journal.transaction():
            self._journal.settle((files[str(path)] for path in result.excluded), NOTHING)
        return result if result.manifest["artifacts"] else None

    def finish(self, batch: PlannedBatch) -> None:
        """Record that a batch is done."""
        self._journal.finish(batch)

    def postpone(self, batch: PlannedBatch, problem: str) -> None:
        """Record that a batch has failed; it is due again after a pause that doubles, up to an hour."""
        self._journal.postpone(batch, problem, time.time())

    def _check_root(self, batch: PlannedBatch) -> None:
        root = Path(os.fsdecode(batch.root))
        if problem := find_problem(root, self._journal):
            raise StorageAwayError(f"batch {batch.batch_id} waits for its folder: {root} {problem}")

    # Planning

    def _plan(self, sight: Sight, now: float, deadline: float, is_last: bool) -> list[Planned]:
        """Plan batches; the next look continues with the folders that were not reached until the deadline."""
        rule = cast("Rule", self._settings.watch_batches)
        planned: list[Planned] = []
        for number, folders in enumerate(self._scopes(sight, rule)):
            if number and time.monotonic() > deadline:
                break
            planned += self._plan_scope(folders, sight, rule, now, is_last)
        return planned

    def _scopes(self, sight: Sight, rule: Rule) -> list[list[Folder]]:
        """The folders with waiting files that are planned together: each alone, or all of a watched folder.

        Only folders that this look has listed: the state of the files in others may be old.
        """
        waiting = self._journal.folders_with_waiting()
        listed = [folder for folder in sight.folders if folder.id in sight.names and folder.id in waiting]
        if rule != "session":
            return [[folder] for folder in listed]
        by_root: defaultdict[bytes, list[Folder]] = defaultdict(list)
        for folder in listed if sight.is_complete else ():
            by_root[folder.root].append(folder)
        return [*by_root.values()]

    def _plan_scope(
        self, folders: Sequence[Folder], sight: Sight, rule: Rule, now: float, is_last: bool
    ) -> list[Planned]:
        settle, limit = self._settings.watch_settle_seconds, self._settings.watch_batch_photos
        files, photos = self._waiting(folders, sight)
        waiting = [*files]
        ready = ready_photos(waiting, photos, now, settle)
        quiet = is_last or is_quiet(waiting, now, settle)
        if not (quiet or len(ready) >= limit):
            return []
        known = {file.path for file in ready if self._is_ingested(file.path)}
        gap = self._settings.watch_session_hours * 3600.0
        drafts = cut((file for file in ready if file.path not in known), rule, limit, gap, only_full=not quiet)
        companions = (file for file in waiting if file.path not in photos and is_at_rest(file, now, settle))
        nothing = [files[file] for file in ready if file.path in known]
        nothing += [files[file] for file in companions] if quiet else []
        by_path = {file.path: place for file, place in files.items()}
        with self._journal.transaction():
            self._journal.settle(nothing, NOTHING)
            return [self._add(draft, folders[0].root, by_path, now) for draft in drafts]

    def _waiting(self, folders: Sequence[Folder], sight: Sight) -> tuple[dict[Waiting, tuple[int, bytes]], set[str]]:
        """The waiting files of folders with their places in the journal, and the paths of the photos among them."""
        files: dict[Waiting, tuple[int, bytes]] = {}
        photos: set[str] = set()
        for folder in folders:
            rows = self._journal.waiting(folder)
            stems = {row.name.partition(b".")[0].lower() for row in rows}
            related = [name for name in sight.names[folder.id] if name.partition(b".")[0].lower() in stems]
            photos |= photos_among([_path(folder, name) for name in related])
            root = os.fsdecode(folder.root)
            for row in rows:
                file = Waiting(root, _path(folder, row.name), row.size, row.mtime_ns, row.since)
                files[file] = folder.id, row.name
        return files, photos

    def _is_ingested(self, path: str) -> bool:
        with suppress(OSError):  # deleted since the look
            return self._ingested.has(path)
        return False

    def _add(self, draft: Draft, root: bytes, files: dict[str, tuple[int, bytes]], now: float) -> Planned:
        batch_id = unique_id(draft.name, self._is_taken)
        number = self._journal.add_batch(batch_id, root, now)
        self._journal.settle((files[path] for path in draft.photos), number)
        return Planned(batch_id, len(draft.photos))

    def _is_taken(self, batch_id: str) -> bool:
        try:
            self._store.check_batch_id(batch_id)
        except ManifestError:  # a known one in another case
            return True
        return self._store.newest_manifest(batch_id) is not None or self._journal.is_planned(batch_id)


def _to_path(text: str, root: Path) -> Path:
    """The path of a folder in the settings."""
    if is_remote(text):
        raise InputError(
            f"watch_folders: {mask_secrets(text)}: only local folders are watched; make a manifest of the bucket's "
            'listing: "Photos in an object store" in docs/scale.md'
        )
    return root / text


def _path(folder: Folder, name: bytes) -> str:
    return os.fsdecode(os.path.join(folder.path, name))  # noqa: PTH118
