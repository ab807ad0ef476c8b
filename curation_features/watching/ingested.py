"""The photos in the manifests of the data folder, by URI and by id, in the journal.

A manifest is read again only if its size or time has changed. Photos of deleted manifests are forgotten.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

from curation_features.atomic_files import uri
from curation_features.errors import ManifestError
from curation_features.manifest import read_manifest
from curation_features.watching.journal import Journal

_FOLDERS = ("manifests", "batches")  # a batch that is in both counts as in the last
_DIGEST_BYTES = 16


class Ingested:
    """The photos of the manifests of a data folder."""

    def __init__(self, journal: Journal, data_path: Path, root: Path) -> None:
        self._journal = journal
        self._data_path = data_path
        self._root = root
        self._is_empty = False

    def refresh(self, deadline: float) -> int:
        """Read new and changed manifests; return the number of those that remain.

        Args:
            deadline: of `time.monotonic()`; after it no manifest is read, but one.
        """
        db = self._journal.db
        files = self._list()
        known = {
            path: (size, mtime_ns) for path, size, mtime_ns in db.execute("SELECT path, size, mtime_ns FROM manifests")
        }
        gone = known.keys() - files.keys()
        unread = sorted(path for path, state in files.items() if known.get(path) != state)
        if gone or unread:
            with self._journal.transaction():
                for path in gone:
                    self._forget(path)
                for number, path in enumerate(unread):
                    if number and time.monotonic() > deadline:
                        return len(unread) - number
                    self._read(path, *files[path])
        self._is_empty = not files
        return 0

    def has(self, path: str) -> bool:
        """Whether a manifest has the photo at a path, and is newer than the file's last change. Raises `OSError`."""
        if self._is_empty:
            return False
        query = "SELECT max(mtime_ns) FROM ingested JOIN manifests ON manifests.id = manifest WHERE uri = ?"
        (written,) = self._journal.db.execute(query, (_digest(uri(Path(path), self._root)),)).fetchone()
        if written is None:
            return False
        status = os.stat(path)  # noqa: PTH116 (a Path for each file takes long)
        return max(status.st_mtime_ns, status.st_ctime_ns) < int(written)

    def photos(self, except_batch: str) -> _Photos:
        """The ids of the photos of all batches but one: a container. Safe for use by several threads."""
        return _Photos(self._journal, except_batch)

    def _list(self) -> dict[str, tuple[int, int]]:
        """The manifests: path in the data folder -> size and time."""
        names: dict[str, str] = {}
        for folder in _FOLDERS:
            try:
                with os.scandir(self._data_path / folder) as entries:
                    names |= {entry.name: folder for entry in entries if entry.name.endswith(".json")}
            except FileNotFoundError:
                continue
        found = {}
        for name, folder in names.items():
            try:
                status = (self._data_path / folder / name).stat()
            except FileNotFoundError:
                continue
            if not name.startswith("."):
                found[f"{folder}/{name}"] = status.st_size, status.st_mtime_ns
        return found

    def _forget(self, path: str) -> None:
        db = self._journal.db
        db.execute("DELETE FROM ingested WHERE manifest = (SELECT id FROM manifests WHERE path = ?)", (path,))
        db.execute("DELETE FROM manifests WHERE path = ?", (path,))

    def _read(self, path: str, size: int, mtime_ns: int) -> None:
        self._forget(path)
        db = self._journal.db
        manifest = db.execute("INSERT INTO manifests VALUES (NULL, ?, ?, ?)", (path, size, mtime_ns)).lastrowid
        try:
            artifacts = read_manifest(self._data_path / path).document["artifacts"]
        except ManifestError:
            return  # a run of this batch reports it
        rows = (
            (_digest(str(artifact.get("original_uri"))), _digest(artifact["photo_id"]), manifest)
            for artifact in artifacts
        )
        db.executemany("INSERT INTO ingested VALUES (?, ?, ?)", rows)


class _Photos:
    """Ids of photos; see `Ingested.photos`."""

    def __init__(self, journal: Journal, except_batch: str) -> None:
        self._journal = journal
        self._paths = tuple(f"{folder}/{except_batch}.json" for folder in _FOLDERS)
        self._lock = threading.Lock()

    def __contains__(self, photo_id: object) -> bool:
        query = (
            "SELECT 1 FROM ingested JOIN manifests ON manifests.id = manifest "
            "WHERE photo = ? AND path NOT IN (?, ?) LIMIT 1"
        )
        with self._lock:
            found = self._journal.db.execute(query, (_digest(str(photo_id)), *self._paths)).fetchone()
        return found is not None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()
