"""Finds the files of a batch in every place of the data folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from curation_features.errors import StoreError
from curation_features.events.outbox import FEATURES_COMPLETED
from curation_features.settings import Settings
from curation_features.storage.places import PLACES, files_in, read_event, read_object, read_regular

PENDING, JOURNAL, QUARANTINE = Path("events/pending"), Path("events") / FEATURES_COMPLETED, Path("quarantine")
THUMBNAILS = Path("cache/thumbnails")

_ARCHIVED = re.compile(r"(?P<batch_id>.+)-(?P<digest>[0-9a-f]{12})\.json")
_PENDING = re.compile(r"[0-9]{20}-(?P<batch_id>.+)-[0-9a-f]{12}(-[0-9]+)?\.(refused\.)?(json|damaged)")
_BATCH_ID = re.compile(rb'"batch_id"\s*:\s*"([A-Za-z0-9._-]+)"')


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file of a batch, or of one of its photos.

    Attributes:
        kind: a place of `places.PLACES`; `incoming`, `quarantined`, `quarantine_reason`, `event`, `pending_event`; of
            a photo: `cache`, `thumbnail`, `copy`.
        bytes: its size.
        inode: device and inode number; hard links share them.
    """

    kind: str
    path: Path
    bytes: int
    inode: tuple[int, int]


def total_bytes(files: Iterable[BatchFile]) -> int:
    """Total size of files; hard links of one file count once."""
    return sum({file.inode: file.bytes for file in files}.values())


def batch_files(settings: Settings, batch_id: str) -> list[BatchFile]:
    """The existing files of a batch, without the files of its photos."""
    data_path = settings.data_path
    paths = [(place.kind, place.path(data_path, batch_id)) for place in PLACES]
    paths += [("incoming", path) for path in incoming_files(settings, batch_id)]
    paths += [
        pair for path in quarantined_manifests(data_path) if named_batch(path) == batch_id for pair in with_reason(path)
    ]
    for kind, folder in (("pending_event", data_path / PENDING), ("event", data_path / JOURNAL)):
        names = sorted(entry.name for entry in files_in(folder) if f"{batch_id}-" in entry.name)
        paths += [(kind, folder / name) for name in names if _subject(folder / name) == batch_id]
    return list(existing(paths))


def existing(paths: Iterable[tuple[str, Path]]) -> Iterator[BatchFile]:
    """The existing files among pairs of kind and path; a link counts as a file and is not followed."""
    for kind, path in paths:
        try:
            status = os.lstat(path)
        except (OSError, ValueError):  # ValueError: NUL in the name
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield BatchFile(kind, path, status.st_size, (status.st_dev, status.st_ino))


# Manifests in drop folders and quarantine ----------------------------------------------------------------------------


def incoming_folders(settings: Settings) -> list[Path]:
    """The drop folders of the sensor."""
    folders = [settings.data_path / "incoming", *(settings.root / folder for folder in settings.incoming_dirs)]
    return list(dict.fromkeys(folders))


def waiting_manifests(settings: Settings) -> Iterator[Path]:
    """The manifests that the sensor has not accepted yet: dropped or claimed."""
    for folder in incoming_folders(settings):
        for source in (folder, folder / ".claimed"):
            yield from (source / entry.name for entry in files_in(source) if entry.name.endswith(".json"))


def archived_manifests(settings: Settings) -> dict[str, list[tuple[Path, str]]]:
    """The manifests that the sensor has accepted, by batch: path and first digits of the digest."""
    archived: dict[str, list[tuple[Path, str]]] = {}
    for folder in incoming_folders(settings):
        for entry in files_in(folder / "accepted"):
            if match := _ARCHIVED.fullmatch(entry.name):
                archived.setdefault(match["batch_id"], []).append((folder / "accepted" / entry.name, match["digest"]))
    return archived


def incoming_files(settings: Settings, batch_id: str) -> list[Path]:
    """The manifests of a batch in the drop folders: dropped, claimed and accepted."""
    waiting = (path for path in waiting_manifests(settings) if named_batch(path) == batch_id)
    return [*waiting, *(path for path, _ in archived_manifests(settings).get(batch_id, ()))]


def quarantined_manifests(data_path: Path) -> list[Path]:
    """All manifests in quarantine, sorted."""
    names = (entry.name for entry in files_in(data_path / QUARANTINE))
    manifests = (name for name in names if name.endswith(".json") and not name.endswith(".reason.json"))
    return [data_path / QUARANTINE / name for name in sorted(manifests)]


def with_reason(path: Path) -> list[tuple[str, Path]]:
    """A quarantined manifest and, before it, its reason, as kind and path."""
    return [("quarantine_reason", path.with_suffix(".reason.json")), ("quarantined", path)]


def named_batch(path: Path) -> str | None:
    """The batch id in a manifest, valid or not; None if it has none."""
    with suppress(StoreError, FileNotFoundError):
        try:
            document = read_object(path)
        except StoreError:  # damaged JSON
            match = _BATCH_ID.search(read_regular(path))
            return match[1].decode() if match else None
        data = document.get("data")  # an invalid event
        batch_id = document.get("batch_id", data.get("batch_id") if isinstance(data, dict) else None)
        return batch_id if isinstance(batch_id, str) else None
    return None


def _subject(path: Path) -> str | None:
    """The batch id of an event: file names are ambiguous, so its `subject`; of a damaged event, from its name."""
    subject, _ = read_event(path)
    if isinstance(subject, str):
        return subject
    match = _PENDING.fullmatch(path.name)
    return match["batch_id"] if match else None
