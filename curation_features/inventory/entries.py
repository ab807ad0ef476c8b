"""The batches of a project, each in a line: how far it is, how many photos, how large, and whether it is stale."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curation_features.atomic_files import file_digest
from curation_features.errors import StoreError
from curation_features.inventory.batch_files import JOURNAL, BatchFile, batch_files
from curation_features.inventory.footprint import artifacts_in, table_rows
from curation_features.inventory.places import (
    ACCEPTED,
    ADOPTION,
    FEATURES,
    INGESTED,
    LATEST_EVENT,
    PLACES,
    TABLE,
    Found,
    Listing,
    Place,
    files_in,
    list_places,
    read_object,
)
from curation_features.inventory.staleness import Stale, StalenessOf, Summary
from curation_features.inventory.versions import CurrentVersions
from curation_features.manifest import is_batch_id
from curation_features.schema import STATUSES
from curation_features.settings import Settings
from curation_features.storage.tables import read_metadata

_EVENT = re.compile(r"(?P<batch_id>.+?)-[0-9a-f]{12}(-[0-9]+)?\.json")
_PARTS = ("technical", "clip")


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch at a glance.

    Attributes:
        state: `ingested` (there is a manifest of `ingest` only), `accepted` or `finished`.
        photos: how many artifacts it has; None if its manifest cannot be read.
        statuses: how many are `ok`, `degraded` and `failed`; None if it is not finished, or its table cannot be read.
        finished: when its features were written.
        bytes: size of its manifests, stage tables and features; files of its photos, which batches share, do not count.
        stale: why a run would make something else of it now.
    """

    batch_id: str
    state: str
    photos: int | None
    statuses: Mapping[str, int] | None
    finished: datetime | None
    bytes: int
    stale: tuple[Stale, ...]


def known_batch_ids(listing: Listing) -> list[str]:
    """The batches that were ingested, accepted or finished, sorted."""
    names = {name for place in (INGESTED, ACCEPTED, FEATURES) for name in listing[place]}
    return sorted(filter(is_batch_id, names))


def list_batches(settings: Settings) -> Iterator[BatchEntry]:
    """All batches, by id. Of a finished one its last event is read, and little else.

    A manifest is compared with the features only if its file is newer than theirs; `show_batch` always compares.

    Raises:
        StoreError: a folder cannot be listed.
        SettingsError: the project's labels or templates cannot be used.
    """
    listing, versions = list_places(settings.data_path), CurrentVersions(settings)
    journal = _journal_names(settings.data_path / JOURNAL)
    files_of: dict[str, dict[Place, Found]] = {}
    for place, found in listing.items():
        for name, file in found.items():
            files_of.setdefault(name, {})[place] = file
    for batch_id in known_batch_ids(listing):
        files = files_of[batch_id]
        made = None
        if FEATURES in files:
            latest = LATEST_EVENT.path(settings.data_path, batch_id)
            event = _event(latest, batch_id) if _is_announced(files) else None
            paths = [latest, *(settings.data_path / JOURNAL / name for name in journal.get(batch_id, ()))]
            made = _told_by(event) if event else _summary(settings.data_path, batch_id, paths)
        yield _entry(settings, batch_id, files, made, versions, exact=False)


def show_batch(settings: Settings, batch_id: str) -> tuple[BatchEntry, list[BatchFile]]:
    """One batch that is there, and its files; manifests are compared whatever the times of their files say."""
    data_path = settings.data_path
    found = batch_files(settings, batch_id)
    files = {}
    for place in PLACES:
        path = place.path(data_path, batch_id)
        if path.is_file():
            files[place] = Found(path.stat().st_size, path.stat().st_mtime_ns)
    made = None
    if FEATURES in files:
        paths = [file.path for file in found if file.kind in ("latest_event", "event")]
        made = _summary(data_path, batch_id, paths)
    return _entry(settings, batch_id, files, made, CurrentVersions(settings), exact=True), found


def _entry(
    settings: Settings,
    batch_id: str,
    files: Mapping[Place, Found],
    made: Summary | None,
    versions: CurrentVersions,
    *,
    exact: bool,
) -> BatchEntry:
    features = files.get(FEATURES)
    return BatchEntry(
        batch_id,
        "finished" if features else "accepted" if ACCEPTED in files else "ingested",
        sum(made.statuses.values()) if made else _count(settings.data_path, batch_id, files),
        made.statuses if made else None,
        datetime.fromtimestamp(features.written / 1e9, UTC) if features else None,
        sum(found.bytes for place, found in files.items() if place not in (LATEST_EVENT, ADOPTION)),
        StalenessOf(settings, batch_id, files, made, versions, exact).reasons(),
    )


def _count(data_path: Path, batch_id: str, files: Mapping[Place, Found]) -> int | None:
    """How many artifacts the manifest of a batch without usable features has."""
    place = next(place for place in (ACCEPTED, INGESTED, FEATURES) if place in files)
    try:
        return sum(1 for _ in artifacts_in(place.path(data_path, batch_id)))
    except StoreError:
        return None


# What is known of features -------------------------------------------------------------------------------------------


def _is_announced(files: Mapping[Place, Found]) -> bool:
    """Whether the newest event was written after the features: if not, a run may have died between the two."""
    return LATEST_EVENT in files and files[LATEST_EVENT].written >= files[FEATURES].written


def _told_by(event: Mapping[str, Any]) -> Summary:
    return Summary(event["statuses"], event["version"], event.get("retryable"), event["manifest"])


def _summary(data_path: Path, batch_id: str, events: Iterable[Path]) -> Summary | None:
    """What the first event of these very features tells, or else their table; None if that cannot be read."""
    found = [event for path in events if (event := _event(path, batch_id))]
    digest = file_digest(FEATURES.path(data_path, batch_id)) if found else ""
    for event in found:
        if event["features"] == digest:
            return _told_by(event)
    table = TABLE.path(data_path, batch_id)
    try:
        counts = Counter(row["status"] for row in table_rows(table, ("status",)))
        version = read_metadata(table)["version"]
        return Summary({status: counts[status] for status in STATUSES}, {part: version[part] for part in _PARTS})
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return None


def _event(path: Path, batch_id: str) -> dict[str, Any] | None:
    """The data of an event of a batch; None if it is damaged, or of another batch."""
    try:
        event = read_object(path)
        data = event["data"]
        sound = (
            event["subject"] == batch_id
            and all(type(data["statuses"][status]) is int for status in STATUSES)
            and all(isinstance(data["version"][part], str) for part in _PARTS)
            and all(isinstance(data[name], str) for name in ("manifest", "features"))
            and type(data.get("retryable", 0)) is int  # older events have none
        )
        return dict(data) if sound else None
    except (StoreError, OSError, KeyError, TypeError):
        return None


def _journal_names(folder: Path) -> dict[str, list[str]]:
    """Names of the events in the journal by the batch that they seem to be of."""
    found: dict[str, list[str]] = {}
    for entry in files_in(folder):
        if name := _EVENT.fullmatch(entry.name):
            found.setdefault(name["batch_id"], []).append(entry.name)
    return found
