"""The state of watched folders, in `data/watch/journal.sqlite`.

One transaction plans a batch: its row, and the batch of each of its files. So a crash neither loses a file nor takes it
twice. If the journal is deleted, the manifests of the data folder still tell which photos were ingested.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from curation_features.atomic_files import writing
from curation_features.errors import StoreError

NOTHING = 0
"""Instead of a batch, for a file that needs none: a companion, or a photo that has been ingested before."""

_RETRY_AFTER_S, _RETRY_AT_MOST_S = 60.0, 3600.0
_LOCK_S = 30.0  # a look or an ingest of another process writes for much less
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (
    id INTEGER PRIMARY KEY, root BLOB, path BLOB UNIQUE, mtime_ns INTEGER, looked REAL, checked REAL, changed REAL
);
CREATE TABLE IF NOT EXISTS files (
    folder INTEGER, name BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER, since REAL, batch INTEGER,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON files (folder) WHERE batch IS NULL;
CREATE INDEX IF NOT EXISTS of_batch ON files (batch) WHERE batch > 0;
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, batch_id TEXT UNIQUE, root BLOB, is_done INTEGER, attempts INTEGER, due REAL, problem TEXT
);
CREATE TABLE IF NOT EXISTS problems (path BLOB PRIMARY KEY, reason TEXT);
CREATE TABLE IF NOT EXISTS manifests (id INTEGER PRIMARY KEY, path TEXT UNIQUE, size INTEGER, mtime_ns INTEGER);
CREATE TABLE IF NOT EXISTS ingested (uri BLOB, photo BLOB, manifest INTEGER);
CREATE INDEX IF NOT EXISTS by_uri ON ingested (uri);
CREATE INDEX IF NOT EXISTS by_photo ON ingested (photo);
CREATE INDEX IF NOT EXISTS by_manifest ON ingested (manifest);
"""


class Folder(NamedTuple):
    """A folder under the watched folder `root`; paths are bytes.

    Attributes:
        mtime_ns: modification time when it was last listed; -1: never.
        looked: Unix time in s of the last look; `checked`: of the last look at every file; `changed`: of the last one
            at which a file was new or changed.
        has_waiting: whether files in it wait for a batch.
    """

    id: int
    root: bytes
    path: bytes
    mtime_ns: int
    looked: float
    checked: float
    changed: float
    has_waiting: bool


class File(NamedTuple):
    """A photo or companion.

    Attributes:
        name: in its folder.
        size: in bytes; `mtime_ns`: modification time.
        inode: its lower 63 bits.
        since: Unix time in s at which it was first seen in this state.
        batch: its batch, `NOTHING`, or None while it waits.
    """

    name: bytes
    size: int
    mtime_ns: int
    inode: int
    since: float
    batch: int | None


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch that is not ingested, or not processed, yet.

    Attributes:
        attempts: number of failures.
        due: Unix time in s of the next attempt.
        problem: the last failure, or empty.
    """

    number: int
    batch_id: str
    root: bytes
    attempts: int
    due: float
    problem: str

    def is_due(self, now: float) -> bool:
        """Whether the next attempt is due. No pause is longer than an hour: the clock was set back since."""
        return not 0 < self.due - now <= _RETRY_AT_MOST_S


class Journal:
    """The journal in one file. Safe for use by several processes, not by several threads.

    Raises:
        StoreError: the file cannot be used; also from `transaction` and within `reporting`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path), self.reporting():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=_LOCK_S, check_same_thread=False)
            self.db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all changes of the block, or none."""
        with self.reporting(), self.db:
            yield self.db

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise an error of SQLite as a `StoreError`."""
        try:
            yield
        except sqlite3.Error as error:
            remedy = "free space or permissions; if it is damaged, delete it"
            raise StoreError(f"{self._path}: cannot be used ({error}): {remedy}, then run again") from error

    # Folders and files

    def folders(self, root: bytes) -> list[Folder]:
        """The known folders under a watched one: first those with waiting files, then the longest not looked at."""
        waiting = "EXISTS (SELECT 1 FROM files WHERE folder = folders.id AND batch IS NULL)"
        query = f"SELECT *, {waiting} AS w FROM folders WHERE root = ? ORDER BY w DESC, looked, path"  # noqa: S608
        return [Folder._make((*row[:-1], bool(row[-1]))) for row in self.db.execute(query, (root,))]

    def add_folder(self, root: bytes, path: bytes) -> Folder | None:
        """Add a folder, or move a known one under this root; None if it was there."""
        row = self.db.execute("SELECT id, root FROM folders WHERE path = ?", (path,)).fetchone()
        if row is None:
            cursor = self.db.execute("INSERT INTO folders VALUES (NULL, ?, ?, -1, 0, 0, 0)", (root, path))
            return Folder(int(cursor.lastrowid or 0), root, path, -1, 0.0, 0.0, 0.0, False)
        if row[1] == root:
            return None
        self.db.execute("UPDATE folders SET root = ?, mtime_ns = -1 WHERE id = ?", (root, row[0]))
        return Folder(int(row[0]), root, path, -1, 0.0, 0.0, 0.0, False)

    def has_files(self, root: bytes) -> bool:
        """Whether a file under a watched folder is known."""
        query = "SELECT 1 FROM folders JOIN files ON folder = id WHERE root = ? LIMIT 1"
        return self.db.execute(query, (root,)).fetchone() is not None

    def files(self, folder: Folder) -> dict[bytes, tuple[int, int, int, float, int | None]]:
        """The known files in a folder: name -> the other fields of `File`."""
        query = "SELECT name, size, mtime_ns, inode, since, batch FROM files WHERE folder = ?"
        return {row[0]: row[1:] for row in self.db.execute(query, (folder.id,))}

    def waiting(self, folder: Folder) -> list[File]:
        """The files in a folder that wait for a batch, by name."""
        query = (
            "SELECT name, size, mtime_ns, inode, since, batch FROM files WHERE folder = ? AND batch IS NULL "
            "ORDER BY name"
        )
        return [File(*row) for row in self.db.execute(query, (folder.id,))]

    def folders_with_waiting(self) -> set[int]:
        """The ids of the folders with waiting files."""
        return {row[0] for row in self.db.execute("SELECT DISTINCT folder FROM files WHERE batch IS NULL")}

    def count_waiting(self) -> int:
        """Count the files that wait for a batch."""
        return int(self.db.execute("SELECT count(*) FROM files WHERE batch IS NULL").fetchone()[0])

    def put(self, folder: Folder, files: Iterable[File]) -> None:
        """Write files of a folder."""
        rows = ((folder.id, *file) for file in files)
        self.db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def forget(self, files: Iterable[tuple[int, bytes]]) -> None:
        """Delete files, as folder and name, which have vanished before they were ingested."""
        self.db.executemany("DELETE FROM files WHERE folder = ? AND name = ?", files)

    def settle(self, files: Iterable[tuple[int, bytes]], batch: int) -> None:
        """Give files, as folder and name, their batch or `NOTHING`."""
        rows = ((batch, *file) for file in files)
        self.db.executemany("UPDATE files SET batch = ? WHERE folder = ? AND name = ?", rows)

    # Batches

    def is_planned(self, batch_id: str) -> bool:
        """Whether a batch of this id, in any case, was ever planned."""
        query = "SELECT 1 FROM batches WHERE batch_id = ? COLLATE NOCASE"
        return self.db.execute(query, (batch_id,)).fetchone() is not None

    def add_batch(self, batch_id: str, root: bytes, now: float) -> int:
        """Add a planned batch and return its number."""
        cursor = self.db.execute("INSERT INTO batches VALUES (NULL, ?, ?, 0, 0, ?, '')", (batch_id, root, now))
        return int(cursor.lastrowid or 0)

    def planned(self) -> list[PlannedBatch]:
        """The batches that are not done, in the order of planning."""
        query = "SELECT id, batch_id, root, attempts, due, problem FROM batches WHERE NOT is_done ORDER BY id"
        return [PlannedBatch(*row) for row in self.db.execute(query)]

    def photos_of(self, batch: PlannedBatch) -> dict[str, tuple[int, bytes]]:
        """The photos of a batch: path -> folder and name; sorted."""
        query = "SELECT path, folder, name FROM files JOIN folders ON folder = id WHERE batch = ?"
        found = {
            os.path.join(path, name): (folder, name)  # noqa: PTH118
            for path, folder, name in self.db.execute(query, (batch.number,))
        }
        return {os.fsdecode(path): found[path] for path in sorted(found)}

    def finish(self, batch: PlannedBatch) -> None:
        """Record that a batch is done."""
        with self.transaction() as db:
            db.execute("UPDATE batches SET is_done = 1, problem = '' WHERE id = ?", (batch.number,))

    def postpone(self, batch: PlannedBatch, problem: str, now: float) -> None:
        """Record a failure; the next attempt is due after a minute, then after 2, 4, ... up to an hour."""
        due = now + min(_RETRY_AFTER_S * 2.0 ** min(batch.attempts, 10), _RETRY_AT_MOST_S)
        with self.transaction() as db:
            query = "UPDATE batches SET attempts = attempts + 1, due = ?, problem = ? WHERE id = ?"
            db.execute(query, (due, problem.encode(errors="replace").decode(), batch.number))

    # Problems

    def problems(self) -> dict[str, str]:
        """The current problems of watched folders and their subfolders: path -> reason."""
        rows = self.db.execute("SELECT path, reason FROM problems ORDER BY path")
        return {os.fsdecode(path): str(reason) for path, reason in rows}

    def put_problems(self, problems: dict[str, str]) -> None:
        """Replace the problems."""
        self.db.execute("DELETE FROM problems")
        rows = ((os.fsencode(path), reason) for path, reason in problems.items())
        self.db.executemany("INSERT INTO problems VALUES (?, ?)", rows)
