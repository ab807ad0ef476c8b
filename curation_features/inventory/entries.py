"""The batches of a project at a glance: state, photos, size, staleness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from curation_features.atomic_files import file_digest
from curation_features.errors import StoreError
from curation_features.inventory.batch_files import BatchFile, batch_files
from curation_features.inventory.footprint import artifacts_in, table_rows
from curation_features.inventory.staleness import CurrentVersions, Stale, StalenessOf, Summary
from curation_features.manifest import is_batch_id
from curation_features.schema import STATUSES
from curation_features.settings import Settings
from curation_features.signals.flags import FlagCount, Kind, count_flags
from curation_features.storage import places
from curation_features.storage.tables import read_metadata

_VERSIONS = ("technical", "clip")


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch at a glance.

    Attributes:
        state: `ingested` (only a manifest of `ingest`), `accepted` or `finished`.
        photos: number of artifacts; None if the manifest cannot be read.
        statuses: number of `ok`, `degraded` and `failed` artifacts; None if unfinished, or the table cannot be read.
        finished: time when the features were written.
        bytes: size of manifests, stage tables and features, without the files of photos, which batches share.
        stale: why a run now would give another result.
    """

    batch_id: str
    state: str
    photos: int | None
    statuses: Mapping[str, int] | None
    finished: datetime | None
    bytes: int
    stale: tuple[Stale, ...]


def known_batch_ids(listing: places.Listing) -> list[str]:
    """The ingested, accepted or finished batches, sorted."""
    return sorted(filter(is_batch_id, {name for place in places.BATCHES for name in listing[place]}))


def list_batches(settings: Settings) -> Iterator[BatchEntry]:
    """List all batches by id. Of a finished batch mostly only its latest event is read.

    A manifest is compared with the features only if its file is newer; `show_batch` always compares.

    Raises:
        StoreError: a folder cannot be listed.
        SettingsError: the project's labels or templates cannot be used.
    """
    listing, versions = places.list_places(settings.data_path), CurrentVersions(settings)
    for batch_id in known_batch_ids(listing):
        yield _entry(settings, batch_id, places.files_of(listing, batch_id), versions, exact=False)


def show_batch(settings: Settings, batch_id: str) -> tuple[BatchEntry, list[BatchFile]]:
    """One existing batch and its files. Its manifests are always compared with the features."""
    files = {}
    for place in places.PLACES:
        path = place.path(settings.data_path, batch_id)
        if path.is_file():
            files[place] = places.Found(path.stat().st_size, path.stat().st_mtime_ns)
    entry = _entry(settings, batch_id, files, CurrentVersions(settings), exact=True)
    return entry, batch_files(settings, batch_id)


def flag_counts(settings: Settings, batch_id: str) -> list[FlagCount] | None:
    """Count the flags and hints of a batch; None if it is unfinished, or its table has none or cannot be read."""
    kinds: Mapping[str, Kind] = {"flags": "flag", "hints": "hint"}
    try:
        rows = list(table_rows(places.TABLE.path(settings.data_path, batch_id), list(kinds)))
    except StoreError:
        return None
    if not rows or not kinds.keys() <= rows[0].keys():
        return None
    return count_flags((name, kinds[column]) for row in rows for column in kinds for name in row[column] or ())


def _entry(
    settings: Settings,
    batch_id: str,
    files: Mapping[places.Place, places.Found],
    versions: CurrentVersions,
    *,
    exact: bool,
) -> BatchEntry:
    features = files.get(places.FEATURES)
    summary = _summarize(settings.data_path, batch_id, files, exact=exact) if features else None
    return BatchEntry(
        batch_id,
        "finished" if features else "accepted" if places.ACCEPTED in files else "ingested",
        sum(summary.statuses.values()) if summary else _count_artifacts(settings.data_path, batch_id, files),
        summary.statuses if summary else None,
        datetime.fromtimestamp(features.written / 1e9, UTC) if features else None,
        sum(found.bytes for place, found in files.items() if place not in (places.LATEST_EVENT, places.ADOPTION)),
        StalenessOf(settings, batch_id, files, summary, versions, exact).reasons(),
    )


def _count_artifacts(data_path: Path, batch_id: str, files: Mapping[places.Place, places.Found]) -> int | None:
    """Count the artifacts in the best document of a batch; None if none is left or readable."""
    for place in (places.ACCEPTED, places.INGESTED, places.FEATURES):
        if place in files:
            try:
                return sum(1 for _ in artifacts_in(place.path(data_path, batch_id)))
            except StoreError:
                return None
    return None


def _summarize(
    data_path: Path, batch_id: str, files: Mapping[places.Place, places.Found], *, exact: bool
) -> Summary | None:
    """Summarize features from their latest event, or else their table; None if that cannot be read.

    Args:
        exact: compare the event with the features by digest instead of time.
    """
    event, features = _read_event(data_path, batch_id)
    if event and exact:
        is_current = features == file_digest(places.FEATURES.path(data_path, batch_id))
    else:
        is_current = places.is_announced(files)
    if event and is_current:
        return event
    table = places.TABLE.path(data_path, batch_id)
    try:
        counts = Counter(row["status"] for row in table_rows(table, ("status",)))
        version = read_metadata(table)["version"]
        known = {part: version[part] for part in (*_VERSIONS, "signals", "groups") if part in version}
        return Summary({status: counts[status] for status in STATUSES}, known)
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return None


def _read_event(data_path: Path, batch_id: str) -> tuple[Summary | None, str]:
    """The summary in the latest event of a batch, and the digest of its features; None without a valid event."""
    subject, data = places.read_event(places.LATEST_EVENT.path(data_path, batch_id))
    try:
        is_valid = (
            subject == batch_id
            and all(type(data["statuses"][status]) is int for status in STATUSES)
            and all(isinstance(data["version"][part], str) for part in _VERSIONS)
            and all(isinstance(data[name], str) for name in ("manifest", "features"))
            and type(data.get("retryable", 0)) is int  # older events have none
        )
    except (KeyError, TypeError):
        is_valid = False
    if not is_valid:
        return None, ""
    return Summary(data["statuses"], data["version"], data.get("retryable"), data["manifest"]), data["features"]
