"""Makes and reconciles the groups of the photos of all batches.

Only batches that are new or were made again are read; only photos that were added or changed are compared with all
others; and only parts with a photo that was added, changed or deleted are grouped again (`groups.grouping`). The result
does not depend on the order of batches, nor on the earlier state.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.errors import StoreError
from curation_features.fingerprints.fingerprint import ORIENTATIONS, Fingerprint
from curation_features.fingerprints.spool import FingerprintSpool
from curation_features.groups.photos import Kind, Photo, PhotoSet
from curation_features.library.photos import (
    PhotoId,
    Source,
    decode,
    list_sources,
    listing_digest,
    read_fingerprints,
    read_photos,
    read_vectors,
    read_versions,
)
from curation_features.photos.locations import Locations
from curation_features.pipeline.grouped import Grouped, entries, stacked
from curation_features.settings import Settings
from curation_features.storage import locks
from curation_features.storage.groups import (
    State,
    groups_metadata,
    groups_path,
    has_groups,
    read_state,
    write_groups,
)
from curation_features.storage.tables import Row, group_columns
from curation_features.versions import digest, grouping_rules

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.groups.copies import Edge
    from curation_features.groups.grouping import Memory

log = logging.getLogger(__name__)

Advance = Callable[[int], object]


def _ignore(count: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class LibraryGroups:
    """The groups of the photos of all batches.

    Attributes:
        groups: number of groups by kind.
        photos: number of distinct photos.
        grouped: number of those that are in a group.
        compared: number of those that were added or changed, and compared with all others.
        regrouped: number of parts that were grouped again; a part has at least two photos.
        is_new: whether a group has changed.
        made: digest of the groups.
        path: of the table.
        failed: batches that were skipped, as a table of them cannot be read, with the reason.
    """

    groups: Mapping[Kind, int]
    batches: int
    photos: int
    grouped: int
    compared: int
    regrouped: int
    is_new: bool
    made: str
    path: Path
    failed: Mapping[str, str] = field(default_factory=dict)


def locked(data_path: Path, *, wait: bool = True) -> AbstractContextManager[None]:
    """Hold the lock of the groups. Raises `BusyError` (without `wait`) or `StoreError`."""
    return locks.locked(data_path, "groups", "groups photos", wait=wait)


def is_due(settings: Settings, data_path: Path | None = None) -> str:
    """Return a digest of the finished batches if they have changed since the photos were grouped; else an empty text.

    Batches change if one is finished, made again or deleted. Nothing is due before the first batch is finished.
    """
    data_path = data_path or settings.data_path
    sources = list_sources(data_path)
    if not sources and not has_groups(data_path):
        return ""
    now = _listing(sources, settings)
    with suppress(StoreError):  # damaged: the groups are made again
        if now == groups_metadata(data_path).get("listing"):
            return ""
    return now


def _listing(sources: Mapping[str, Source], settings: Settings) -> str:
    return digest([listing_digest(sources), grouping_rules(settings)])


def update_groups(
    settings: Settings,
    reading: Callable[[int], AbstractContextManager[Advance]] | None = None,
    data_path: Path | None = None,
) -> LibraryGroups:
    """Group the photos of all finished batches, as far as they have changed since the last time.

    A batch with a table that cannot be read is skipped, and named in the result.

        made = update_groups(load_settings())
        made.groups  # {"burst": 12, "copy": 3}

    Args:
        reading: opens the progress of batches that are read, of their number.
        data_path: the data folder; by default that of the settings.

    Raises:
        StoreError: the groups cannot be written.
    """
    data_path = data_path or settings.data_path
    with locked(data_path), FingerprintSpool() as spool:
        update = GroupsUpdate(settings, data_path, spool)
        with reading(len(update.unread)) if reading else nullcontext(_ignore) as advance:
            update.read(advance)
        update.group()
        return update.write()


class GroupsUpdate:
    """One update, step by step: `read`, `group`, `write`. The caller holds the lock.

    Args:
        spool: receives the fingerprints that are compared.

    Attributes:
        unread: batches that are new or were made again.
        failed: those that cannot be read, with the reason; the next update tries them again.
    """

    def __init__(self, settings: Settings, data_path: Path, spool: FingerprintSpool) -> None:
        self._settings = settings
        self._spool = spool
        self._places: dict[str, int] = {}  # digest of bytes -> place of the fingerprint in the spool; -1: there is none
        self._data_path = data_path
        self._sources = list_sources(data_path)
        self._listing = _listing(self._sources, settings)
        self._old = _read_old(settings, data_path)
        known = {one: Source.from_json(value) for one, value in self._old.metadata.get("batches", {}).items()}
        self.unread = [
            one for one, found in self._sources.items() if one not in known or known[one].files != found.files
        ]
        kept = self._sources.keys() - self.unread
        self._sources.update({batch_id: known[batch_id] for batch_id in kept})
        self._is_same = not self.unread and known.keys() == self._sources.keys() and not is_due(settings, data_path)
        self._rows = {batch_id: of for batch_id, of in _by_batch(self._old.rows).items() if batch_id in kept}
        self.failed: dict[str, str] = {}
        self._made = self._old.metadata.get("made", "")
        self._photos: list[Photo] = []
        self._groups: dict[str, Grouped] = {}
        self._edges: list[Row] = []
        self._memory: Memory = {}
        self._compared = self._regrouped = 0

    def read(self, advance: Advance = _ignore) -> None:
        """Read the batches that are new or were made again; those that cannot be read are skipped."""
        locations = Locations(self._settings.root)
        for batch_id in self.unread:
            source = self._sources.pop(batch_id)
            try:
                source = read_versions(self._data_path, batch_id, source)
                self._rows[batch_id] = list(read_photos(self._data_path, batch_id, locations))
                self._sources[batch_id] = source
            except StoreError as error:
                log.warning("Batch %s is not grouped: %s", batch_id, error)
                self.failed[batch_id] = str(error)
            advance(1)
        self._sources = dict(sorted(self._sources.items()))

    def group(self) -> None:
        """Compare the photos that were added or changed, and group those of the parts that changed.

        Raises:
            StoreError: a table cannot be read.
        """
        self._choose()
        from curation_features.groups.copies import find_edges
        from curation_features.groups.grouping import group_photos, resolved

        photos = resolved(self._set())
        self._identities = [self._identity(row, one) for row, one in zip(self._chosen, photos.photos, strict=True)]
        changed = self._find_changed()
        edges = self._keep_edges(changed)
        self._compared = len(changed)
        if changed:
            found = find_edges(photos, None if len(changed) == len(self._chosen) else sorted(changed))
            edges.update({(edge.first, edge.second): edge for edge in found})
        self._memory.update(self._old.memory)
        groups = group_photos(photos, list(edges.values()), self._memory)
        self._regrouped = len(self._memory.keys() - self._old.memory.keys())
        names = [row["photo_id"] for row in self._chosen]
        self._groups = {self._chosen[index]["key"]: group for index, group in entries(groups, names, self._photos)}
        self._edges = [self._edge_row(edge) for edge in edges.values()]

    def _find_changed(self) -> set[int]:
        """Return the photos that were added or changed."""
        old = {row["key"]: row["identity"] for row in self._old.rows}
        pairs = enumerate(zip(self._chosen, self._identities, strict=True))
        return {index for index, (row, identity) in pairs if old.get(row["key"]) != identity}

    def _keep_edges(self, changed: set[int]) -> dict[tuple[int, int], Edge]:
        """Return the edges found before between photos that did not change.

        An edge holds for all files with the bytes of its two photos. If one of these two is gone, the file that
        represents its bytes now is added to `changed`.
        """
        from curation_features.groups.copies import Edge

        firsts = self._find_firsts()
        new = {self._chosen[index]["sha256"] for index in changed}
        found = {}
        for row in self._old.edges:
            one, other = firsts.get(row["first"]), firsts.get(row["second"])
            if one is None or other is None or not new.isdisjoint((row["first"], row["second"])):
                continue
            moved = {
                i for i, key in ((one, row["first_key"]), (other, row["second_key"])) if self._chosen[i]["key"] != key
            }
            changed |= moved
            if not moved:
                transform = np.array(row["transform"], np.float64).reshape(2, 3)
                found[one, other] = Edge(one, other, transform, row["similarity"])
        return found

    def _find_firsts(self) -> dict[str, int]:
        """Return the photo that represents all with its bytes."""
        from curation_features.groups.copies import representative

        same: dict[str, list[int]] = {}
        for index, row in enumerate(self._chosen):  # by key
            same.setdefault(row["sha256"], []).append(index)
        has_hash = [self._has_hashes(row) for row in self._chosen]
        return {sha256: representative(indices, has_hash) for sha256, indices in same.items()}

    def _edge_row(self, edge: Edge) -> Row:
        first, second = (self._chosen[index] for index in (edge.first, edge.second))
        return {
            "first": first["sha256"],
            "second": second["sha256"],
            "first_key": first["key"],
            "second_key": second["key"],
            "transform": [float(number) for number in edge.transform.ravel()],
            "similarity": float(edge.similarity),
        }

    def write(self) -> LibraryGroups:
        """Write the groups and the state, unless nothing has changed, and return them. Raises `StoreError`."""
        made = digest(sorted((key, json.dumps(group)) for key, group in self._groups.items()))
        if not (self._is_same and made == self._made):
            identities = dict(zip((row["key"] for row in self._chosen), self._identities, strict=True))
            rows = [row for batch_id in self._sources for row in self._rows[batch_id]]
            state = ({**row, "identity": identities[row["key"]]} for row in rows)
            groups = (self._group_row(row) for row in rows if row["key"] in self._groups)
            parts = ({"part": name, "groups": json.dumps(found)} for name, found in self._memory.items())
            numbers = {"batches": len(self._sources), "photos": len(self._chosen), "groups": self._counts()}
            versions = {"fingerprint": self._fingerprints, "embedding": self._embeddings}
            batches = {batch_id: source.as_json() for batch_id, source in self._sources.items()}
            facts = {"version": grouping_rules(self._settings), "made": made}
            metadata = {**facts, **numbers, "versions": versions, "listing": self._listing}
            write_groups(
                self._data_path, groups, metadata, State(state, self._edges, parts, {**facts, "batches": batches})
            )
        return LibraryGroups(
            groups=self._counts(),
            batches=len(self._sources),
            photos=len(self._chosen),
            grouped=len(self._groups),
            compared=self._compared,
            regrouped=self._regrouped,
            is_new=made != self._made,
            made=made,
            path=groups_path(self._data_path),
            failed=self.failed,
        )

    # Photos

    def _choose(self) -> None:
        """Choose one row for each photo, the same for any split into batches."""
        by_key: dict[str, tuple[tuple[str, str], Row, Photo]] = {}
        for batch_id in self._sources:
            for row in self._rows[batch_id]:
                photo = decode(row)
                order = (photo.path, row["compared"])
                if row["key"] not in by_key or order < by_key[row["key"]][0]:
                    by_key[row["key"]] = (order, row, photo)
        chosen = [by_key[key] for key in sorted(by_key)]
        self._chosen = [row for _, row, _ in chosen]
        self._photos = [photo for *_, photo in chosen]
        readable = [row for row in self._chosen if row["hashes"] is not None]  # not those of an earlier encoding
        self._fingerprints = _most([self._sources[row["batch_id"]].fingerprints for row in readable])
        self._embeddings = _most([self._sources[row["batch_id"]].vectors for row in self._chosen])
        self._of_batch: dict[str, list[int]] = {}
        for number, row in enumerate(self._chosen):
            self._of_batch.setdefault(row["batch_id"], []).append(number)

    def _identity(self, row: Row, photo: Photo) -> str:
        """Return the digest of what is compared of a photo; the seconds of its time may depend on other photos."""
        usable = [self._has_hashes(row), self._has_vectors(row)]
        return digest([row["compared"], usable, photo.moment and photo.moment.resolution])[:32]

    def _has_hashes(self, row: Row) -> bool:
        return row["hashes"] is not None and self._sources[row["batch_id"]].fingerprints == self._fingerprints

    def _has_vectors(self, row: Row) -> bool:
        return self._embeddings is not None and self._sources[row["batch_id"]].vectors == self._embeddings

    def _set(self) -> PhotoSet:
        """Return all photos as a set; fingerprints are read when they are needed."""
        has_hash = np.array([self._has_hashes(row) for row in self._chosen], bool)
        parts = (row["hashes"] if usable else _NO_HASHES for row, usable in zip(self._chosen, has_hash, strict=True))
        hashes = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, ORIENTATIONS, 32)
        return PhotoSet(self._photos, hashes, has_hash, self._read_vectors(), self._fingerprint)

    # Fingerprints and vectors, read batch by batch

    def _fingerprint(self, number: int) -> Fingerprint | None:
        """Return the fingerprint of a photo; those of its whole batch are kept, as others will be needed, too."""
        row = self._chosen[number]
        if not self._has_hashes(row):
            return None
        if row["sha256"] not in self._places:
            wanted = {sha256 for _, sha256 in self._ids(row["batch_id"])} - self._places.keys()
            self._places.update(dict.fromkeys(wanted, -1))
            for sha256, data in read_fingerprints(self._data_path, row["batch_id"], wanted):
                if self._places[sha256] < 0:
                    self._places[sha256] = len(self._spool)
                    self._spool.add(data)
        place = self._places[row["sha256"]]
        return None if place < 0 else self._spool.read(place)

    def _ids(self, batch_id: str) -> dict[PhotoId, list[int]]:
        """Return the photos that are read from a batch, with their numbers: files of equal bytes may share an id."""
        found: dict[PhotoId, list[int]] = {}
        for number in self._of_batch[batch_id]:
            row = self._chosen[number]
            found.setdefault((row["photo_id"], row["sha256"]), []).append(number)
        return found

    def _read_vectors(self) -> NDArray[np.float16] | None:
        found: dict[int, NDArray[np.float16]] = {}
        for batch_id, numbers in self._of_batch.items():
            if self._has_vectors(self._chosen[numbers[0]]):
                wanted = self._ids(batch_id)
                for photo, vector in read_vectors(self._data_path, batch_id, wanted):
                    found.update(dict.fromkeys(wanted[photo], vector))
        return stacked([found.get(number) for number in range(len(self._chosen))])

    # Results

    def _group_row(self, row: Row) -> Row:
        names = {name: row[name] for name in ("batch_id", "photo_id", "sha256", "path")}
        return {**names, **group_columns(self._groups[row["key"]])}

    def _counts(self) -> dict[Kind, int]:
        kinds = {group["id"]: group["kind"] for group in self._groups.values()}
        return dict(sorted(Counter(kinds.values()).items()))


_NO_HASHES = bytes(ORIENTATIONS * 32)


@dataclass(frozen=True, slots=True)
class _Old:
    """The state of the last update; empty if there is none, or it cannot be used."""

    rows: Sequence[Row] = ()
    edges: Sequence[Row] = ()
    memory: Memory = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


def _read_old(settings: Settings, data_path: Path) -> _Old:
    if not has_groups(data_path):
        return _Old()
    try:
        state, made = read_state(data_path), groups_metadata(data_path).get("made")
    except StoreError as error:
        log.warning("All photos are compared again: %s", error)
        return _Old()
    if state.metadata.get("version") != grouping_rules(settings) or state.metadata.get("made") != made:
        return _Old()
    memory = {row["part"]: json.loads(row["groups"]) for row in state.parts}
    return _Old(list(state.rows), list(state.edges), memory, state.metadata)


def _by_batch(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["batch_id"], []).append(row)
    return found


def _most(versions: Sequence[str | None]) -> str | None:
    """Return the version of most photos. Only data of one version can be compared."""
    counts = Counter(version for version in versions if version is not None)
    return max(counts, key=lambda version: (counts[version], version)) if counts else None
