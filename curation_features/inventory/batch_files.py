"""Every file of one batch, and every file that belongs to its photos."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from curation_features.errors import StoreError
from curation_features.events.outbox import FEATURES_COMPLETED
from curation_features.inventory.footprint import Footprint, artifacts_in
from curation_features.inventory.places import PLACES, files_in, read_object, read_regular
from curation_features.photos.reader import RANKING_FOLDER
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache

PENDING, JOURNAL, QUARANTINE = Path("events/pending"), Path("events") / FEATURES_COMPLETED, Path("quarantine")
THUMBNAILS = Path("cache/thumbnails")

_ARCHIVED = re.compile(r"(?P<batch_id>.+)-(?P<digest>[0-9a-f]{12})\.json")
_PENDING = re.compile(r"[0-9]{20}-(?P<batch_id>.+)-[0-9a-f]{12}(-[0-9]+)?\.(refused\.)?(json|damaged)")
_BATCH_ID = re.compile(rb'"batch_id"\s*:\s*"([A-Za-z0-9._-]+)"')


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file of a batch, or of one of its photos.

    Attributes:
        kind: a place of `places.PLACES`; `incoming`, `quarantined`, `quarantine_reason`, `event`, `pending_event`; or,
            of a photo, `cache`, `thumbnail` or `copy`.
        bytes: its size.
        inode: device and number of the file itself, which several names (hard links) may share.
    """

    kind: str
    path: Path
    bytes: int
    inode: tuple[int, int]


def total_bytes(files: Iterable[BatchFile]) -> int:
    """The size of files together; one that has several names counts once."""
    return sum({file.inode: file.bytes for file in files}.values())


def batch_files(settings: Settings, batch_id: str) -> list[BatchFile]:
    """The files of a batch that are there; those of its photos are not among them."""
    data_path = settings.data_path
    paths = [(place.kind, place.path(data_path, batch_id)) for place in PLACES]
    paths += [("incoming", path) for path in incoming_files(settings, batch_id)]
    paths += quarantined_files(data_path, batch_id)
    paths += [("pending_event", path) for path in _events(data_path / PENDING, batch_id)]
    paths += [("event", path) for path in _events(data_path / JOURNAL, batch_id)]
    return list(there(paths))


def photo_files(settings: Settings, footprint: Footprint) -> list[BatchFile]:
    """The files that were made of a footprint's photos and are there: thumbnails, cache entries, and copies."""
    data_path, cache = settings.data_path, FeatureCache(settings.cache_path)
    paths = [("thumbnail", path) for path in thumbnails(data_path, footprint.digests)]
    paths += [("cache", cache.path(photo_id)) for photo_id in sorted(footprint.photos)]
    paths += [("copy", data_path / RANKING_FOLDER / name) for name in sorted(footprint.copies)]
    return list(there(paths))


def there(paths: Iterable[tuple[str, Path]]) -> Iterator[BatchFile]:
    """Those of the paths where there is a file, or a link; links are not followed."""
    for kind, path in paths:
        try:
            found = os.lstat(path)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            continue
        if not stat.S_ISDIR(found.st_mode):
            yield BatchFile(kind, path, found.st_size, (found.st_dev, found.st_ino))


def thumbnails(data_path: Path, digests: Iterable[str]) -> list[Path]:
    """The thumbnails of the photos with these digests, whatever their size and format."""
    wanted = frozenset(digests)
    folder = data_path / THUMBNAILS
    return sorted(folder / e.name for e in files_in(folder) if wanted and e.name.partition("-")[0] in wanted)


# Manifests on their way ----------------------------------------------------------------------------------------------


def incoming_folders(settings: Settings) -> list[Path]:
    """The folders that the sensor empties."""
    folders = [settings.data_path / "incoming", *(settings.root / folder for folder in settings.incoming_dirs)]
    return list(dict.fromkeys(folders))


def waiting_manifests(settings: Settings) -> Iterator[Path]:
    """The manifests that the sensor has not taken, or not put away."""
    for folder in incoming_folders(settings):
        for source in (folder, folder / ".claimed"):
            yield from (source / entry.name for entry in files_in(source) if entry.name.endswith(".json"))


def waiting_footprints(settings: Settings, apart: str | None = None) -> Iterator[tuple[str, Footprint]]:
    """What the manifests that wait for the sensor refer to, each with the id of its batch, or with its path.

    Args:
        apart: a photo of which only the id is taken in.

    Raises:
        StoreError: a manifest cannot be read; the message names it.
    """
    for path in waiting_manifests(settings):
        found = Footprint(apart=apart)
        try:
            found.add(artifacts_in(path))
        except StoreError as error:
            raise StoreError(f"{error}; if it is still being written, wait until the sensor has taken it") from error
        yield named_batch(path) or str(path), found


def archived_manifests(settings: Settings) -> dict[str, list[tuple[Path, str]]]:
    """The manifests that the sensor has put away, by batch: path, and the beginning of the manifest's digest."""
    archived: dict[str, list[tuple[Path, str]]] = {}
    for folder in incoming_folders(settings):
        for entry in files_in(folder / "accepted"):
            if found := _ARCHIVED.fullmatch(entry.name):
                archived.setdefault(found["batch_id"], []).append((folder / "accepted" / entry.name, found["digest"]))
    return archived


def incoming_files(settings: Settings, batch_id: str) -> list[Path]:
    """The manifests of a batch in the folders that the sensor empties: dropped, claimed, and put away."""
    waiting = (path for path in waiting_manifests(settings) if named_batch(path) == batch_id)
    return [*waiting, *(path for path, _ in archived_manifests(settings).get(batch_id, ()))]


def quarantined_files(data_path: Path, batch_id: str) -> list[tuple[str, Path]]:
    """The quarantined manifests of a batch, as kind and path; the reason of each comes before it."""
    found = []
    for entry in sorted(files_in(data_path / QUARANTINE), key=lambda entry: entry.name):
        path = data_path / QUARANTINE / entry.name
        if entry.name.endswith(".json") and not entry.name.endswith(".reason.json") and named_batch(path) == batch_id:
            reason = path.with_name(f"{entry.name.removesuffix('.json')}.reason.json")
            found += [("quarantine_reason", reason), ("quarantined", path)]
    return found


def named_batch(path: Path) -> str | None:
    """The batch that a manifest names, whether or not it is a valid one; None if it names none."""
    try:
        document = read_object(path)
        data = document.get("data")  # of an event with another mistake
        batch_id = document.get("batch_id", data.get("batch_id") if isinstance(data, dict) else None)
        return batch_id if isinstance(batch_id, str) else None
    except StoreError:
        pass
    except OSError:
        return None
    try:
        first = _BATCH_ID.search(read_regular(path))  # of JSON that is damaged
    except OSError:
        return None
    return first[1].decode() if first else None


# Events --------------------------------------------------------------------------------------------------------------


def _events(folder: Path, batch_id: str) -> list[Path]:
    """The files in a folder of events whose subject is the batch: a file's name may fit several batches."""
    names = sorted(entry.name for entry in files_in(folder) if f"{batch_id}-" in entry.name)
    return [folder / name for name in names if _subject(folder / name) == batch_id]


def _subject(path: Path) -> str | None:
    try:
        subject = read_object(path).get("subject")
        return subject if isinstance(subject, str) else None
    except (StoreError, OSError):  # damaged: its name must do
        found = _PENDING.fullmatch(path.name)
        return found["batch_id"] if found else None
