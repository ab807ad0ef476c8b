"""A look at watched folders: new and changed files, and problems of folders.

A folder is listed if its modification time has changed, if files in it wait or are young (new or changed in the last
hour), or once an hour. Of a known file only the inode is compared, which a listing has: a replaced file has another
one. The size and time of young files are read at each look, and those of all files once an hour, to find files that
were written in place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curation_features.ingest.discovery import COMPANION_KINDS, PHOTO_SUFFIXES, find_own_folders, skipped_kind
from curation_features.watching.journal import File, Folder, Journal

_SUFFIXES = frozenset(suffix[1:].encode() for suffix in PHOTO_SUFFIXES | COMPANION_KINDS.keys())
_TEMPORARY = (b".", b"~")  # names of rsync, Syncthing, Finder and others; they rename the file when it is whole
_COARSE_NS = 2_000_000_000  # resolution of times on FAT
_YOUNG_S = _CHECK_EVERY_S = 3600.0
_INODE_BITS = 2**63 - 1  # SQLite's integers are signed


@dataclass(slots=True)
class Sight:
    """The result of a look.

    Attributes:
        folders: the folders that were looked at.
        names: for each folder that was listed: the names of its photos and companions.
        problems: path -> reason, of folders that cannot be used now.
        is_complete: False if the time was up before every folder was looked at.
    """

    folders: list[Folder] = field(default_factory=list)
    names: dict[int, Sequence[bytes]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True


def look(journal: Journal, roots: Sequence[Path], data_path: Path, *, now: float, deadline: float) -> Sight:
    """Look at watched folders and write new and changed files to the journal.

    Each folder is one transaction. The next look begins with the folders that this one has not reached.

    Args:
        roots: the watched folders, absolute, none in another.
        data_path: the project's data folder, which is skipped.
        now: Unix time in s.
        deadline: of `time.monotonic()`; no folder is begun after it, but one.
    """
    sight = Sight()
    for root in roots:
        if problem := find_problem(root, journal):
            sight.problems[str(root)] = problem
        else:
            _look_under(root, journal, sight, find_own_folders(root, data_path), now, deadline)
    return sight


def find_problem(root: Path, journal: Journal) -> str:
    """Return why a watched folder cannot be used now; empty if it can."""
    try:
        with os.scandir(root) as entries:
            is_empty = all(entry.name.startswith(".") for entry in entries)
    except OSError as error:
        return reason_of(error)
    if is_empty and journal.has_files(os.fsencode(root)):
        return "is empty and was not before; if it is a drive, mount it"
    return ""


def reason_of(error: OSError) -> str:
    """The reason why a folder cannot be listed, with its remedy."""
    if isinstance(error, FileNotFoundError):
        return "does not exist; mount its drive, or correct the path"
    if isinstance(error, NotADirectoryError):
        return "is not a folder; watch the folder that has it"
    remedy = "; allow this user to read it" if isinstance(error, PermissionError) else ""
    return f"cannot be read: {error.strerror}{remedy}"


def _look_under(root: Path, journal: Journal, sight: Sight, own: Sequence[Path], now: float, deadline: float) -> None:
    top = os.fsencode(root)
    with journal.transaction():
        journal.add_folder(top, top)
    folders = journal.folders(top)
    looked: list[Folder] = []
    for folder in folders:  # grows
        if sight.folders and time.monotonic() > deadline:
            sight.is_complete = False
            break
        try:
            folders += _look_at(folder, journal, sight, own, now)
        except FileNotFoundError:
            continue  # deleted, or moved: nothing is done about its files
        except OSError as error:
            sight.problems[os.fsdecode(folder.path)] = reason_of(error)
            continue
        looked.append(folder)
    with journal.transaction() as db:
        db.executemany("UPDATE folders SET looked = ? WHERE id = ?", ((now, folder.id) for folder in looked))


def _look_at(folder: Folder, journal: Journal, sight: Sight, own: Sequence[Path], now: float) -> list[Folder]:
    """Look at one folder; return its new subfolders. Raises `OSError`."""
    mtime_ns = os.stat(folder.path).st_mtime_ns  # noqa: PTH116 (a Path for each folder takes long)
    is_check = not 0 <= now - folder.checked < _CHECK_EVERY_S
    is_young = now - folder.changed < _YOUNG_S
    if mtime_ns == folder.mtime_ns and not (folder.has_waiting or is_young or is_check):
        sight.folders.append(folder)
        return []
    with os.scandir(folder.path) as entries:
        listed = list(entries)
    known = journal.files(folder)
    photos = [entry for entry in listed if _is_named_like_photo(entry.name)]
    changed, vanished = _compare(photos, known, now, is_check=is_check)
    subfolders = [entry.path for entry in listed if _is_entered(folder.path, entry, own)]
    is_new = any(file.batch is None for file in changed)
    with journal.transaction() as db:
        journal.put(folder, changed)
        journal.forget((folder.id, name) for name in vanished)
        added = [new for path in subfolders if (new := journal.add_folder(folder.root, path))]
        # Another file may be created within the resolution of this time: then the folder is listed again.
        recorded = mtime_ns if mtime_ns < now * 1e9 - _COARSE_NS else -1
        row = (recorded, now if is_check else folder.checked, now if is_new else folder.changed, folder.id)
        db.execute("UPDATE folders SET mtime_ns = ?, checked = ?, changed = ? WHERE id = ?", row)
    sight.folders.append(folder)
    sight.names[folder.id] = [entry.name for entry in photos]
    return added


def _compare(
    entries: Sequence[os.DirEntry[bytes]],
    known: dict[bytes, tuple[int, int, int, float, int | None]],
    now: float,
    *,
    is_check: bool,
) -> tuple[list[File], list[bytes]]:
    """Return the new and changed files, and the names of waiting files that have vanished."""
    changed = []
    for entry in entries:
        before = known.get(entry.name)
        inode = entry.inode() & _INODE_BITS
        is_old = before is not None and before[4] is not None and now - before[3] >= _YOUNG_S
        if before is not None and is_old and before[2] == inode and not is_check:
            continue
        try:
            if before is None and not entry.is_file():
                continue
            status = entry.stat()
        except OSError:  # deleted since the listing, or a link to nothing
            continue
        size, mtime_ns = status.st_size, status.st_mtime_ns
        if before is None or (size, mtime_ns) != before[:2] or (before[4] is None and before[3] > now):
            changed.append(File(entry.name, size, mtime_ns, inode, now, None))
        elif inode != before[2]:  # the same file, after its drive was mounted again
            changed.append(File(entry.name, size, mtime_ns, inode, before[3], before[4]))
    present = {entry.name for entry in entries}
    return changed, [name for name, before in known.items() if before[4] is None and name not in present]


def _is_named_like_photo(name: bytes) -> bool:
    stem, _, suffix = name.rpartition(b".")
    return suffix.lower() in _SUFFIXES and bool(stem) and not name.startswith(_TEMPORARY)


def _is_entered(parent: bytes, entry: os.DirEntry[bytes], own: Sequence[Path]) -> bool:
    try:
        is_folder = entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
    return is_folder and skipped_kind(os.fsdecode(parent), os.fsdecode(entry.name), own) is None
