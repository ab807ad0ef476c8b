"""The index of image embeddings: half-precision rows of all batches, mapped into memory.

    {data_path}/index/index.json                  batches and their rows; replaced atomically
    {data_path}/index/{version}-{file}.vectors    rows of D float16, norm 1
    {data_path}/index/{version}-{file}.rows       what identifies each row: see `ROW`
    {data_path}/index/{version}-{file}.text       for each row one line of JSON: [photo_id, sha256, [URI, ...]]
    {data_path}/index/{file}.copies               photos of the groups over all batches that are copies: see `COPY`

Everything is derived from the files of finished batches, and may be deleted at any time. Each version of image
embeddings has its own files, so that vectors of two models are never compared. Rows are appended; `index.json` counts
those that are valid, so that a reader never sees rows that are being written, and a killed writer leaves rows that the
next one overwrites. The rows of batches that were deleted or made again stay until `indexing` writes new files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curation_features.atomic_files import reading, store_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1  # increment when the files change their meaning
FOLDER, NAME = "index", "index.json"
VECTOR = np.dtype("<f2")
ROW = np.dtype([("key", "<u8"), ("photo", "<u8"), ("picture", "<u8"), ("offset", "<u8")])
"""`key`: see `key_of`; `photo`: of its id; `picture`: of the groups in its batch; `offset`: of its line, bytes."""
COPY = np.dtype([("key", "<u8"), ("picture", "<u8")])
"""As in `ROW`, of the groups over all batches; in ascending order of keys."""
SUFFIXES = (".vectors", ".rows", ".text")
REMEDY = "delete the folder; the next search makes the index again"

Footprint = tuple[tuple[int, int] | None, ...]
"""Size and time of each file that was read; None: it does not exist."""


class IndexedPhoto(NamedTuple):
    """The line of a row; `uris` has a place for each artifact of the photo in its batch."""

    photo_id: str
    sha256: str
    uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexedBatch:
    """The rows of a batch.

    Attributes:
        files: the footprint of its files.
        version: of its image embeddings; empty: it has none.
        first, count: its rows, in the files of the version.
        content: digest of the rows.
        is_grouped: whether its photos were grouped with those of all batches.
    """

    files: Footprint
    version: str = ""
    first: int = 0
    count: int = 0
    content: str = ""
    is_grouped: bool = False


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The files of one version of embeddings.

    Attributes:
        stem: of the names of its files.
        model: the CLIP model, as in the settings.
        dimension: D.
        rows: number of rows, with those of deleted batches.
        text_bytes: length of the valid part of the text.
    """

    stem: str
    model: str
    dimension: int
    rows: int = 0
    text_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of `index.json`.

    Attributes:
        groups: footprint of the groups over all batches.
        copies: name of the file of copies; empty: there is none.
    """

    batches: Mapping[str, IndexedBatch] = field(default_factory=dict)
    versions: Mapping[str, VersionFiles] = field(default_factory=dict)
    groups: Footprint = ()
    copies: str = ""

    def live_rows(self, version: str) -> int:
        """Return the number of rows of a version that belong to a batch."""
        return sum(batch.count for batch in self.batches.values() if batch.version == version)


class ContentsReader:
    """Reads `index.json` again only after it was replaced. Thread-safe."""

    def __init__(self, data_path: Path) -> None:
        self._path = data_path / FOLDER / NAME
        self._known: tuple[tuple[int, ...], Contents] = ((), Contents())

    def read(self) -> Contents:
        """Return the content of the index; empty if there is none, or it has another format. Raises `StoreError`."""
        file_of, contents = self._known
        with reading(self._path, REMEDY):
            try:
                with self._path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    now = (status.st_ino, status.st_size, status.st_mtime_ns)
                    if now != file_of:
                        contents = _parse(file.read())
            except FileNotFoundError:
                return Contents()
        self._known = now, contents
        return contents


def read_contents(data_path: Path) -> Contents:
    """Return the content of the index; see `ContentsReader.read`."""
    return ContentsReader(data_path).read()


def _parse(data: bytes) -> Contents:
    """Return the content of `index.json`. Raises `ValueError`, `TypeError` or `KeyError`."""
    found = json.loads(data)
    if found["format"] != FORMAT:
        return Contents()
    batches = {
        name: IndexedBatch(**{**value, "files": _footprint(value["files"])}) for name, value in found["batches"].items()
    }
    versions = {name: VersionFiles(**value) for name, value in found["versions"].items()}
    return Contents(batches, versions, _footprint(found["groups"]), found["copies"])


def write_contents(data_path: Path, contents: Contents) -> None:
    """Replace `index.json`. Raises `StoreError`."""
    store_bytes(data_path / FOLDER / NAME, json.dumps({"format": FORMAT, **asdict(contents)}).encode())


def _footprint(value: Sequence[Sequence[int] | None]) -> Footprint:
    return tuple(None if file is None else (file[0], file[1]) for file in value)


def key_of(photo_id: str, sha256: str) -> int:
    """Return what identifies a photo: 64 bits of a digest."""
    return digest64(f"{photo_id}\0{sha256}")


def digest64(text: str) -> int:
    """Return 64 bits of the digest of a text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


_DIGEST_SQL = "('0x' || substr(sha256({}), 1, 16))::UBIGINT"
KEY_IN_BATCH_SQL = f"xor({_DIGEST_SQL.format('photo_id || chr(0) || sha256')}, {_DIGEST_SQL.format('batch_id')})"
"""What identifies a photo and its batch, in DuckDB's SQL."""


def picture_of(group_id: str, best: str) -> int:
    """Return what copies of one picture share: 64 bits of a digest of their group and of the best copy."""
    return key_of(group_id, best)


class Index:
    """One version of the index, mapped for reading. It stays valid if the index is replaced.

    Attributes:
        version: of the image embeddings.
        model: the CLIP model, as in the settings.
        vectors: (N, D) float16. Rows that belong to no batch have to be ignored: see `ranges`.
        batches: those of this version, by id.
    """

    def __init__(self, data_path: Path, contents: Contents, version: str) -> None:
        files = contents.versions[version]
        self._folder = folder = data_path / FOLDER
        self.version = version
        self.model = files.model
        self.batches = {name: batch for name, batch in contents.batches.items() if batch.version == version}
        self._starts = sorted((batch.first, name) for name, batch in self.batches.items() if batch.count)
        with reading(folder, REMEDY):
            vectors = _mapped(folder / f"{files.stem}.vectors", VECTOR, files.rows * files.dimension)
            self.vectors = vectors.reshape(files.rows, files.dimension)
            self._rows = _mapped(folder / f"{files.stem}.rows", ROW, files.rows)
            self._text = _mapped(folder / f"{files.stem}.text", np.dtype(np.uint8), files.text_bytes)
            self._copies = np.fromfile(folder / contents.copies, COPY) if contents.copies else np.empty(0, COPY)

    def __len__(self) -> int:
        """The number of photos; one in two batches counts twice."""
        return sum(batch.count for batch in self.batches.values())

    def ranges(self, batch_ids: Iterable[str] = ()) -> list[slice]:
        """Return the rows of some batches, or of all, in ascending order; neighbours are joined."""
        wanted = set(batch_ids) or self.batches.keys()
        found: list[slice] = []
        for first, name in self._starts:
            if name not in wanted:
                continue
            end = first + self.batches[name].count
            if found and found[-1].stop == first:
                found[-1] = slice(found[-1].start, end)
            else:
                found.append(slice(first, end))
        return found

    def batch_of(self, row: int) -> str:
        """Return the batch of a row."""
        return self._starts[int(np.searchsorted(self._firsts, row, side="right")) - 1][1]

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.array([first for first, _ in self._starts], np.int64)

    def keys_in_batches(self, batch_ids: Iterable[str] = ()) -> NDArray[np.uint64]:
        """Return what identifies each photo and its batch, in the order of `ranges`; `KEY_IN_BATCH_SQL` is the same."""
        wanted = set(batch_ids) or self.batches.keys()
        found = [np.empty(0, np.uint64)]
        for first, name in self._starts:
            if name in wanted:
                keys = self._rows["key"][first : first + self.batches[name].count]
                found.append(keys ^ np.uint64(digest64(name)))
        return np.concatenate(found)

    def photo(self, row: int) -> IndexedPhoto:
        """Return the photo of a row. Raises `StoreError`."""
        begin = int(self._rows["offset"][row])
        end = int(self._rows["offset"][row + 1]) if row + 1 < len(self._rows) else len(self._text)
        with reading(self._folder, REMEDY):
            photo_id, sha256, uris = json.loads(self._text[begin:end].tobytes())
            return IndexedPhoto(photo_id, sha256, tuple(uris))

    def keys(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the keys of some rows."""
        return np.asarray(self._rows["key"][rows])

    def pictures(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return what the copies of each photo share with it; its key if it has no copy."""
        keys, pictures = self.keys(rows), self._rows["picture"][rows]
        if len(self._copies):
            places = np.searchsorted(self._copies["key"], keys).clip(max=len(self._copies) - 1)
            copied = np.where(self._copies["key"][places] == keys, self._copies["picture"][places], np.uint64(0))
        else:
            copied = np.zeros_like(pictures)
        pictures = np.where(self._are_grouped[np.searchsorted(self._firsts, rows, side="right") - 1], copied, pictures)
        return np.where(pictures, pictures, keys)

    @cached_property
    def _are_grouped(self) -> NDArray[np.bool_]:
        return np.array([self.batches[name].is_grouped for _, name in self._starts], np.bool_)

    def find(self, photo_id: str, sha256: str = "") -> int | None:
        """Return the first row of a photo, of any bytes without `sha256`; None if it has none."""
        name, key = ("key", key_of(photo_id, sha256)) if sha256 else ("photo", digest64(photo_id))
        for rows in self.ranges():
            places = np.flatnonzero(self._rows[name][rows] == np.uint64(key))
            if places.size:
                return int(rows.start) + int(places[0])
        return None

    def copies(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many photos of other bytes show the picture of each photo."""
        pictures = self.pictures(rows)
        first, after = (np.searchsorted(self._copied, pictures, side=side) for side in ("left", "right"))
        found: NDArray[np.int64] = np.maximum(after - first - 1, 0)
        return found

    @cached_property
    def _copied(self) -> NDArray[np.uint64]:
        """Return the picture of each photo that is a copy, in ascending order."""
        found = [self._copies]
        for part in self.ranges():
            rows = self._rows[part]
            found.append(rows[rows["picture"] != 0][["key", "picture"]].astype(COPY))
        table = np.concatenate(found)
        table = table[np.lexsort((table["key"], table["picture"]))]
        is_repeated = table[1:] == table[:-1]  # in two batches, or in both kinds of groups
        return np.asarray(np.delete(table["picture"], np.flatnonzero(is_repeated)))


def _mapped(path: Path, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    """Map the first `count` elements of a file. Raises `ValueError`: it is shorter."""
    if not count:
        return np.empty(0, kind)
    if path.stat().st_size < count * kind.itemsize:
        raise ValueError(f"{path.name} is shorter than the index says")
    return np.asarray(np.memmap(path, kind, mode="r", shape=(count,)))  # a plain array: each slice is ten times as fast
