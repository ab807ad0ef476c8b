"""Makes the index of image embeddings, incrementally.

Only batches that are new or were made again are read, and rows are appended. If the rows of a batch are equal to those
in the index, as after new labels, nothing is appended. Rows of batches that were deleted or changed are dropped when
they are a quarter of all; if a user deletes photos, they are overwritten at once (`forget`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.atomic_files import FEATURES_AGAIN, flush, open_regular, reading, sweep, write_bytes, writing
from curation_features.errors import BusyError, StoreError
from curation_features.search.index import (
    COPY,
    FOLDER,
    NAME,
    ROW,
    SUFFIXES,
    VECTOR,
    Contents,
    Footprint,
    IndexedBatch,
    VersionFiles,
    digest64,
    key_of,
    picture_of,
    read_contents,
    write_contents,
)
from curation_features.settings import Settings
from curation_features.storage import locks, places
from curation_features.storage.groups import grouped_batches, groups_path, has_groups, read_groups, state_path

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

Advance = Callable[[int], object]
Reading = Callable[[int], "AbstractContextManager[Advance]"]

_MOST_DEAD = 0.25  # share of the rows of a version that belong to no batch
_FILES = (places.FEATURES, places.TABLE, places.EMBEDDINGS)
_COPIED_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class IndexUpdate:
    """The result of an update.

    Attributes:
        batches: number of finished batches.
        photos: number of photos with a vector, of all versions; one in two batches counts twice.
        read: number of batches that were new or had changed; one that cannot be read is reported as a warning.
        added: number of rows that were written for them.
        versions: number of photos by version.
        contents: digest of the rows of each batch.
        is_new: whether the index has changed.
    """

    batches: int
    photos: int
    read: int
    added: int
    versions: Mapping[str, int]
    contents: Mapping[str, str]
    is_new: bool


def update_index(data_path: Path, reading_batches: Reading | None = None, *, wait: bool = True) -> IndexUpdate:
    """Bring the index up to date with the finished batches.

    Args:
        reading_batches: opens the progress of batches that are read, of their number.
        wait: for another process that updates the index.

    Raises:
        BusyError: another process updates it (without `wait`).
        StoreError: a file cannot be written; the old index stays.
    """
    with locked(data_path, wait=wait):
        return _Update(data_path).run(reading_batches)


def refresh_index(settings: Settings) -> None:
    """Bring the index up to date after batches were finished, if settings want it; a failure is logged.

    A search brings it up to date, too: if another process updates it now, nothing is lost.
    """
    if not settings.search_index:
        return
    try:
        update_index(settings.data_path, wait=False)
    except BusyError as error:
        log.debug("%s", error)
    except StoreError as error:
        log.warning("The index for search is not up to date: %s", error)


def is_due(data_path: Path, contents: Contents) -> bool:
    """Whether batches or groups have changed since an index with this content was made. Raises `StoreError`."""
    known = {name: batch.files for name, batch in contents.batches.items()}
    return known != list_finished(data_path) or contents.groups != _groups_footprint(data_path)


def forget_batches(data_path: Path, batch_ids: Collection[str]) -> None:
    """Erase the rows of some batches; the next update adds those that still exist. Raises `StoreError`."""
    if (data_path / FOLDER / NAME).exists():
        with locked(data_path):
            _Update(data_path).forget(batch_ids)


def list_finished(data_path: Path) -> dict[str, Footprint]:
    """Return the footprints of the finished batches, sorted by id. Raises `StoreError`."""
    listing = places.list_places(data_path, _FILES)
    batch_ids = sorted(listing[places.FEATURES].keys() & listing[places.TABLE].keys())
    return {batch_id: tuple(listing[place].get(batch_id) for place in _FILES) for batch_id in batch_ids}


def _groups_footprint(data_path: Path) -> Footprint:
    with suppress(FileNotFoundError):  # deleted in the meantime
        if has_groups(data_path):
            found = groups_path(data_path).stat(), state_path(data_path).stat()
            return tuple((status.st_size, status.st_mtime_ns) for status in found)
    return ()


def locked(data_path: Path, *, wait: bool = True) -> AbstractContextManager[None]:
    """Hold the lock of the index. Raises `BusyError` (without `wait`) or `StoreError`."""
    return locks.locked(data_path, "index", "updates the index", wait=wait)


@dataclass(slots=True)
class _Rows:
    """The rows of a batch."""

    vectors: NDArray[np.float16]
    keys: list[int] = field(default_factory=list)
    photos: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    def digest(self) -> str:
        content = hashlib.sha256(self.vectors.tobytes())
        content.update(np.array([self.keys, self.pictures], np.uint64).tobytes())
        content.update(b"".join(self.lines))
        return content.hexdigest()[:32]


class _Update:
    """One update. The caller holds the lock."""

    def __init__(self, data_path: Path) -> None:
        self._data_path = data_path
        self._folder = data_path / FOLDER
        self._old = _read_old(data_path)
        self._batches = dict(self._old.batches)
        self._versions = dict(self._old.versions)
        self._added = 0

    def run(self, reading_batches: Reading | None) -> IndexUpdate:
        finished = list_finished(self._data_path)
        unread = [name for name, files in finished.items() if self._files_of(name) != files]
        self._batches = {name: batch for name, batch in self._batches.items() if name in finished}
        with reading_batches(len(unread)) if reading_batches else nullcontext(_ignore) as advance:
            for batch_id in unread:
                try:
                    version, model, rows = _read_batch(self._data_path, batch_id)
                    self._check_dimension(batch_id, version, rows)
                except StoreError as error:  # its former rows stay; the next update tries again
                    log.warning("Batch %s is not added to the index: %s", batch_id, error)
                else:
                    self._add(batch_id, finished[batch_id], version, model, rows)
                advance(1)
        self._compact()
        self._publish()
        versions = {name: self._contents.live_rows(name) for name in self._contents.versions}
        return IndexUpdate(
            batches=len(finished),
            photos=sum(versions.values()),
            read=len(unread),
            added=self._added,
            versions=versions,
            contents={name: batch.content for name, batch in self._batches.items()},
            is_new=self._contents != self._old,
        )

    def forget(self, batch_ids: Collection[str]) -> None:
        for batch_id in batch_ids:
            if batch_id in self._batches:
                self._erase(self._batches[batch_id])  # before `index.json` forgets the place
                del self._batches[batch_id]
        self._compact()
        self._publish()

    def _files_of(self, batch_id: str) -> Footprint | None:
        batch = self._batches.get(batch_id)
        return batch.files if batch else None

    # Rows

    def _check_dimension(self, batch_id: str, version: str, rows: _Rows | None) -> None:
        files = self._versions.get(version)
        if rows and files and rows.vectors.shape[1] != files.dimension:
            path, numbers = places.EMBEDDINGS.path(self._data_path, batch_id), rows.vectors.shape[1]
            cause = f"has vectors of {numbers} numbers, others of its version {files.dimension}"
            raise StoreError(f"{path}: {cause}: {FEATURES_AGAIN}")

    def _add(self, batch_id: str, files: Footprint, version: str, model: str, rows: _Rows | None) -> None:
        old = self._batches.get(batch_id)
        content = rows.digest() if rows else ""
        if rows is None:
            self._batches[batch_id] = IndexedBatch(files)
        elif old and (old.version, old.content) == (version, content):
            self._batches[batch_id] = replace(old, files=files)
        else:
            first = self._append(version, model, rows)
            self._batches[batch_id] = IndexedBatch(files, version, first, len(rows.keys), content)

    def _append(self, version: str, model: str, rows: _Rows) -> int:
        """Write rows behind the valid ones of a version, and return the number of the first."""
        dimension = rows.vectors.shape[1]
        files = self._versions.get(version) or VersionFiles(_stem(version), model, dimension)
        lengths = [len(line) for line in rows.lines]
        table = np.zeros(len(lengths), ROW)
        table["key"], table["photo"], table["picture"] = rows.keys, rows.photos, rows.pictures
        table["offset"] = files.text_bytes + np.cumsum([0, *lengths[:-1]])
        text = b"".join(rows.lines)
        starts = (files.rows * dimension * VECTOR.itemsize, files.rows * ROW.itemsize, files.text_bytes)
        contents = (rows.vectors.astype(VECTOR, copy=False).tobytes(), table.tobytes(), text)
        for suffix, start, data in zip(SUFFIXES, starts, contents, strict=True):
            path = self._folder / f"{files.stem}{suffix}"
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:  # noqa: PTH123 (keeps content)
                    file.truncate(start)  # the rows of a killed writer
                    file.seek(start)
                    file.write(data)
        first = files.rows
        self._added += len(lengths)
        self._versions[version] = replace(files, rows=first + len(lengths), text_bytes=files.text_bytes + len(text))
        return first

    def _erase(self, batch: IndexedBatch) -> None:
        """Overwrite the rows of a batch."""
        if not batch.count:
            return
        files = self._versions[batch.version]
        vectors, rows, text = (self._folder / f"{files.stem}{suffix}" for suffix in SUFFIXES)
        size = files.dimension * VECTOR.itemsize
        with writing(self._folder):
            table = np.fromfile(rows, ROW, batch.count + 1, offset=batch.first * ROW.itemsize)
            begin, *_, end = [*table["offset"], files.text_bytes][: batch.count + 1]
            erased = np.zeros(batch.count, ROW)
            erased["offset"] = table["offset"][: batch.count]
            _overwrite(vectors, batch.first * size, bytes(batch.count * size))
            _overwrite(rows, batch.first * ROW.itemsize, erased.tobytes())
            _overwrite(text, int(begin), b" " * int(end - begin))

    def _compact(self) -> None:
        """Write new files for versions with many rows that belong to no batch."""
        contents = Contents(self._batches, self._versions)
        for version, files in list(self._versions.items()):
            live = contents.live_rows(version)
            if not live:
                del self._versions[version]
            elif files.rows - live > _MOST_DEAD * files.rows:
                self._rewrite(version)

    def _rewrite(self, version: str) -> None:
        """Copy the rows of all batches of a version to new files."""
        old = self._versions[version]
        new = replace(old, stem=_stem(version), rows=0, text_bytes=0)
        names = [name for name, batch in self._batches.items() if batch.version == version]
        size = old.dimension * VECTOR.itemsize
        with ExitStack() as stack, writing(self._folder):
            source, target = (
                [stack.enter_context((self._folder / f"{files.stem}{suffix}").open(mode)) for suffix in SUFFIXES]
                for files, mode in ((old, "rb"), (new, "wb"))
            )
            table = np.fromfile(source[1], ROW, old.rows)
            ends = [*table["offset"][1:], old.text_bytes]
            for name in sorted(names, key=lambda name: self._batches[name].first):
                batch = self._batches[name]
                of = slice(batch.first, batch.first + batch.count)
                begin, end = int(table["offset"][of.start]), int(ends[of.stop - 1])
                moved = table[of].copy()
                moved["offset"] = moved["offset"] - np.uint64(begin) + np.uint64(new.text_bytes)
                _copy(source[0], target[0], of.start * size, batch.count * size)
                target[1].write(moved.tobytes())
                _copy(source[2], target[2], begin, end - begin)
                self._batches[name] = replace(batch, first=new.rows)
                new = replace(new, rows=new.rows + batch.count, text_bytes=new.text_bytes + end - begin)
        self._versions[version] = new

    # Groups over all batches

    def _mark_grouped(self) -> tuple[Footprint, str]:
        """Bring the copies up to date; return the footprint of the groups and the name of the file of copies."""
        now = _groups_footprint(self._data_path)
        if now == self._old.groups and (not self._old.copies or (self._folder / self._old.copies).exists()):
            grouped = frozenset(name for name, batch in self._old.batches.items() if batch.is_grouped)
            copies = self._old.copies
        else:
            grouped, copies = self._read_groups() if now else (frozenset(), "")
        for name, batch in self._batches.items():
            self._batches[name] = replace(batch, is_grouped=name in grouped)
        return now, copies

    def _read_groups(self) -> tuple[frozenset[str], str]:
        """Return the batches that were grouped, and the name of the new file of copies; none if they are damaged."""
        try:
            grouped, rows = grouped_batches(self._data_path), read_groups(self._data_path)
        except StoreError as error:
            log.warning("The groups over all batches are not used: %s", error)
            return frozenset(), ""
        return grouped, _write_copies(self._data_path, rows)

    # Files

    def _publish(self) -> None:
        """Replace `index.json`, and delete files that it does not name."""
        groups, copies = self._mark_grouped()
        self._contents = Contents(dict(sorted(self._batches.items())), self._versions, groups, copies)
        if not self._batches:
            self._delete_unused(set())
        elif self._contents != self._old:
            used = [f"{files.stem}{suffix}" for files in self._versions.values() for suffix in SUFFIXES]
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                for name in used:
                    flush(self._folder / name)
                flush(self._folder)
            write_contents(self._data_path, self._contents)
            self._delete_unused({*used, copies, NAME})
        sweep(self._folder)

    def _delete_unused(self, used: set[str]) -> None:
        if not self._folder.exists():
            return
        with writing(self._folder), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name not in used and not entry.name.startswith("."):
                    Path(entry.path).unlink(missing_ok=True)


def _read_old(data_path: Path) -> Contents:
    """Return the index as it is; empty if it cannot be used."""
    try:
        contents = read_contents(data_path)
    except StoreError as error:
        log.warning("The index is made again: %s", error)
        return Contents()
    folder = data_path / FOLDER
    for files in contents.versions.values():
        sizes = (files.rows * files.dimension * VECTOR.itemsize, files.rows * ROW.itemsize, files.text_bytes)
        for suffix, size in zip(SUFFIXES, sizes, strict=True):
            path = folder / f"{files.stem}{suffix}"
            if not path.is_file() or path.stat().st_size < size:
                log.warning("The index is made again: %s is missing or short", path)
                return Contents()
    return contents


def _read_batch(data_path: Path, batch_id: str) -> tuple[str, str, _Rows | None]:
    """Return version, model and rows of a batch; None: it has no vectors. Raises `StoreError`."""
    from curation_features.storage.tables import read_metadata, read_rows

    path = places.EMBEDDINGS.path(data_path, batch_id)
    if not path.is_file():  # a batch of an early release
        return "", "", None
    with reading(path, FEATURES_AGAIN):
        open_regular(path).close()
        metadata = read_metadata(path)
        version, model = metadata.get("version") or "", metadata.get("model") or ""
        found = [
            (row["photo_id"], row["sha256"], row["embedding"])
            for row in read_rows(path, ("photo_id", "sha256", "embedding"))
            if row["embedding"] is not None and row["sha256"]
        ]
    if not version or not found:
        return "", "", None
    uris, pictures = _read_table(places.TABLE.path(data_path, batch_id))
    rows = _Rows(np.stack([vector for *_, vector in found]).astype(VECTOR))
    for photo_id, sha256, _ in found:
        line = json.dumps([photo_id, sha256, uris.get((photo_id, sha256), [])], separators=(",", ":"))
        rows.keys.append(key_of(photo_id, sha256))
        rows.photos.append(digest64(photo_id))
        rows.pictures.append(pictures.get((photo_id, sha256), 0))
        rows.lines.append(line.encode() + b"\n")
    return version, model, rows


_TABLE_COLUMNS = ("photo_id", "sha256", "original_uri", "image_uri", "group_id", "group_copy_of")


def _read_table(path: Path) -> tuple[dict[tuple[str, str], list[str]], dict[tuple[str, str], int]]:
    """Return the URIs of each photo of a batch, and what copies in it share."""
    from curation_features.storage.tables import column_names, read_rows

    uris: dict[tuple[str, str], list[str]] = {}
    with reading(path, FEATURES_AGAIN):
        open_regular(path).close()
        names = set(column_names(path))
        rows = list(read_rows(path, [name for name in _TABLE_COLUMNS if name in names]))
    for row in rows:
        uris.setdefault((row["photo_id"], row["sha256"]), []).append(row["original_uri"] or row["image_uri"])
    return uris, _pictures(rows)


def _pictures(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """Return what the copies of one picture share, by photo."""
    copied = {(row["group_id"], row["group_copy_of"]) for row in rows if row.get("group_copy_of")}
    found = {}
    for row in rows:
        best = row.get("group_copy_of") or row["photo_id"]
        if (row.get("group_id"), best) in copied:
            found[row["photo_id"], row["sha256"]] = picture_of(row["group_id"], best)
    return found


def _write_copies(data_path: Path, groups: list[dict[str, Any]]) -> str:
    """Write the copies of the groups over all batches, and return the name of the file."""
    pictures = {key_of(*photo): picture for photo, picture in _pictures(groups).items()}
    table = np.array(sorted(pictures.items()), COPY) if pictures else np.empty(0, COPY)
    name = f"{secrets.token_hex(8)}.copies"
    with writing(data_path / FOLDER / name):
        write_bytes(data_path / FOLDER / name, table.tobytes(), durable=False)
    return name


def _stem(version: str) -> str:
    return f"{version[:16]}-{secrets.token_hex(8)}"


def _overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def _copy(source: Any, target: Any, start: int, size: int) -> None:
    """Copy a part of a file."""
    source.seek(start)
    while size:
        data = source.read(min(size, _COPIED_BYTES))
        if not data:
            raise OSError("a file of the index ends too early")
        target.write(data)
        size -= len(data)


def _ignore(count: int) -> None:
    return None
