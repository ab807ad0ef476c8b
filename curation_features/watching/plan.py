"""Pure functions: which photos are at rest, and how they are cut into batches."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from curation_features.ingest.batch_ids import legal_id

Rule = Literal["folder-day", "folder", "session"]

_WAIT_AT_MOST = 20  # times the settle time, for other files that are still being copied
_NAME_LENGTH = 100  # characters of an id, before a number is added


class Waiting(NamedTuple):
    """A new or changed file.

    Attributes:
        root: the watched folder; `path`: of the file, absolute.
        mtime_ns: modification time.
        since: Unix time in s since which it has its size and time.
    """

    root: str
    path: str
    size: int
    mtime_ns: int
    since: float


@dataclass(frozen=True, slots=True)
class Draft:
    """A batch to be: an id without the number that makes it unique, and paths of photos."""

    name: str
    photos: tuple[str, ...]


def is_at_rest(file: Waiting, now: float, settle: float) -> bool:
    """Whether a file has not changed for `settle` seconds. An empty file is never at rest: its content follows."""
    return file.size > 0 and now - file.since >= settle


def ready_photos(files: Sequence[Waiting], photos: Collection[str], now: float, settle: float) -> list[Waiting]:
    """Return the photos that are at rest, with all new files of the same shot.

    Args:
        files: all waiting files of the folder.
        photos: paths of those that are photos; the others are companions.
    """
    moving = {_shot(file.path) for file in files if _is_moving(file, now, settle)}
    resting = (file for file in files if is_at_rest(file, now, settle))
    return [file for file in resting if file.path in photos and _shot(file.path) not in moving]


def is_quiet(files: Sequence[Waiting], now: float, settle: float) -> bool:
    """Whether a folder's new files may become batches: none is moving, or the first has waited long enough."""
    if not any(_is_moving(file, now, settle) for file in files):
        return True
    return any(is_at_rest(file, now, settle) and now - file.since >= _WAIT_AT_MOST * settle for file in files)


def cut(photos: Iterable[Waiting], rule: Rule, limit: int, gap: float, *, only_full: bool = False) -> list[Draft]:
    """Cut photos into batches, in order of group and path.

    The time of a photo is its modification time, in this machine's time zone.

    Args:
        rule: `folder-day` gives ids such as `2026-11-29-card-DCIM-100CANON`, `folder` the same without the day,
            `session` the time of the first photo and the watched folder: `2026-11-29-1542-card`.
        limit: most photos in a batch.
        gap: between sessions, in seconds.
        only_full: only batches of `limit` photos.
    """
    groups = _sessions(photos, gap) if rule == "session" else _by_folder(photos, rule)
    return [
        Draft(name, tuple(file.path for file in files[start : start + limit]))
        for name, files in groups
        for start in range(0, len(files), limit)
        if not only_full or len(files) - start >= limit
    ]


def unique_id(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return `name`, or `name-2`, `name-3`, ...: the first that is free."""
    number = 1
    while is_taken(batch_id := name if number == 1 else f"{name}-{number}"):
        number += 1
    return batch_id


def _is_moving(file: Waiting, now: float, settle: float) -> bool:
    """Whether others wait for a file: it has changed lately, or is empty, but not for long."""
    return now - file.since < settle * (1 if file.size else _WAIT_AT_MOST)


def _by_folder(files: Iterable[Waiting], rule: Rule) -> Iterator[tuple[str, list[Waiting]]]:
    """Yield the photos of each folder, or of each folder and day."""
    groups: defaultdict[tuple[str, str], list[Waiting]] = defaultdict(list)
    for file in sorted(files, key=lambda file: file.path):
        folder = os.path.dirname(file.path)  # noqa: PTH120 (a Path for each file takes long)
        groups[folder, "" if rule == "folder" else f"{_time(file):%Y-%m-%d}-"].append(file)
    for (folder, day), group in sorted(groups.items()):
        yield _to_id(f"{day}{_shorten(_label(folder, group[0].root))}"), group


def _sessions(files: Iterable[Waiting], gap: float) -> Iterator[tuple[str, list[Waiting]]]:
    """Yield the photos of each watched folder, split at each `gap` in their times."""
    session: list[Waiting] = []
    for file in sorted(files, key=lambda file: (file.root, file.mtime_ns, file.path)):
        last = session[-1] if session else file
        if file.root != last.root or file.mtime_ns - last.mtime_ns > gap * 1e9:
            yield _session_name(session[0]), session
            session = []
        session.append(file)
    if session:
        yield _session_name(session[0]), session


def _label(folder: str, root: str) -> str:
    """The name of a watched folder and of the folders in it: `card-DCIM-100CANON`."""
    inside = os.path.relpath(folder, root)
    names = [os.path.basename(root), *(name for name in inside.split(os.sep) if name != ".")]  # noqa: PTH119, PTH206
    return "-".join(names)


def _session_name(first: Waiting) -> str:
    return _to_id(f"{_time(first):%Y-%m-%d-%H%M}-{_shorten(os.path.basename(first.root))}")  # noqa: PTH119


def _shorten(label: str) -> str:
    """The end of a long label: the innermost folders."""
    return label[-(_NAME_LENGTH - len("2026-11-29-1542-")) :]


def _to_id(name: str) -> str:
    return legal_id(name)[:_NAME_LENGTH].rstrip("._-")


def _time(file: Waiting) -> datetime:
    try:
        return datetime.fromtimestamp(file.mtime_ns / 1e9)
    except (OverflowError, ValueError, OSError):  # a damaged time
        return datetime.fromtimestamp(file.since)


def _shot(path: str) -> str:
    """The part of a path that the files of one shot share: see `ingest.companions`."""
    folder, name = os.path.split(path)
    return os.path.join(folder, name.casefold().partition(".")[0])  # noqa: PTH118
