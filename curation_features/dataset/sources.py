"""The tables of finished batches: their footers, and their rows once all of them could be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.atomic_files import open_regular, reading
from curation_features.errors import StoreError
from curation_features.storage.places import EMBEDDINGS, TABLE, Found, Listing
from curation_features.storage.tables import METADATA_KEY

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_READ = 1024  # per record batch
_HELD_ROWS, _HELD_BYTES = 1 << 16, 1 << 26  # of a table that is held while it is checked; a larger one is read twice

Prepare = Callable[["pa.RecordBatch"], "pa.RecordBatch"]


@dataclass(frozen=True, slots=True)
class Vectors:
    """The embeddings of a batch: file, version (None: unknown) and model, and length of a vector."""

    path: Path
    found: Found
    version: str | None
    model: str | None
    dimension: int


@dataclass(frozen=True, slots=True)
class Source:
    """The table of a finished batch, as its footer describes it.

    Attributes:
        found: size and time of the file, which must still be the same when its rows are read.
        versions: of the parts `technical`, `clip` and, since there are any, `signals` and `groups`.
        labels: the vocabulary of the batch.
        vectors: None: there are none, or they are not wanted.
    """

    batch_id: str
    path: Path
    found: Found
    rows: int
    versions: Mapping[str, str]
    labels: tuple[str, ...]
    vectors: Vectors | None


def read_source(data_path: Path, batch_id: str, listing: Listing, *, embeddings: bool) -> tuple[Source, pa.Schema]:
    """Read the footers of a batch's tables. Raises `StoreError` if one is missing or damaged."""
    path, found = TABLE.path(data_path, batch_id), listing[TABLE].get(batch_id)
    if found is None:
        raise StoreError(f"{path}: is missing: {_remedy(batch_id)}")
    with _opened(path, found, batch_id) as file, reading(path, _remedy(batch_id)):
        schema: pa.Schema = file.schema_arrow
        metadata = json.loads((schema.metadata or {})[METADATA_KEY])
        versions = {str(part): str(version) for part, version in metadata["version"].items()}
        labels = tuple(map(str, metadata["labels"]))
        rows: int = file.metadata.num_rows
    vectors = _read_vectors(data_path, batch_id, listing) if embeddings else None
    return Source(batch_id, path, found, rows, versions, labels, vectors), schema


def _read_vectors(data_path: Path, batch_id: str, listing: Listing) -> Vectors | None:
    path, found = EMBEDDINGS.path(data_path, batch_id), listing[EMBEDDINGS].get(batch_id)
    if found is None:  # a batch of an early release
        return None
    with _opened(path, found, batch_id) as file, reading(path, _remedy(batch_id)):
        metadata = json.loads((file.schema_arrow.metadata or {})[METADATA_KEY])
        dimension = metadata["dimension"]
        return dimension and Vectors(path, found, metadata["version"], metadata["model"], int(dimension))


def checked_rows(
    path: Path, found: Found, batch_id: str, prepare: Prepare, files: ExitStack
) -> Iterator[pa.RecordBatch]:
    """Return the prepared rows of a table, after all of them could be read and prepared.

    A table of usual size is held meanwhile; a large one is read twice.

    Args:
        files: closes the file.

    Raises:
        StoreError: the table is damaged, or was replaced since `found`.
    """
    file = files.enter_context(_opened(path, found, batch_id))
    with reading(path, _remedy(batch_id)):
        size = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
        if file.metadata.num_rows <= _HELD_ROWS and size <= _HELD_BYTES:
            return iter([prepare(rows) for rows in file.iter_batches(ROWS_READ)])
        for rows in file.iter_batches(ROWS_READ):
            prepare(rows)
    return _stream(file, path, batch_id, prepare)


def _stream(file: pq.ParquetFile, path: Path, batch_id: str, prepare: Prepare) -> Iterator[pa.RecordBatch]:
    with reading(path, _remedy(batch_id)):
        for rows in file.iter_batches(ROWS_READ):
            yield prepare(rows)


@contextmanager
def _opened(path: Path, found: Found, batch_id: str) -> Iterator[pq.ParquetFile]:
    """Open a table. Raises `StoreError` if it is not the file that was `found`."""
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        with reading(path, _remedy(batch_id)):
            open_regular(path).close()  # pyarrow would block on a FIFO
            status = path.lstat()
            if (status.st_size, status.st_mtime_ns) != found:
                raise StoreError(f"{path}: was replaced meanwhile: gather again")
            file = stack.enter_context(pq.ParquetFile(path))
        yield file


def _remedy(batch_id: str) -> str:
    return f"compute the batch again: curation-features process {batch_id}"


def check_batch_id(rows: pa.RecordBatch, batch_id: str) -> None:
    """Raise `ValueError` if a row is of another batch, as in a renamed table."""
    import pyarrow.compute as pc

    ids: Any = pc.unique(rows.column("batch_id")).to_pylist()
    if rows.num_rows and ids != [batch_id]:
        other = next(one for one in ids if one != batch_id)
        raise ValueError(f"it has a row of batch {other!r}")
