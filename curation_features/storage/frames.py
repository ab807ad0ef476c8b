"""Finished batches as a pandas DataFrame.

pandas is imported when a table is asked for, and not before.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.errors import StoreError
from curation_features.schema import STATUSES
from curation_features.settings import Settings, load_settings, nearest
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import FEATURE_COLUMNS, METADATA_KEY, Columns, arrow_schema, vectors

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

_CATEGORIES = ("batch_id", "format", "camera", "lens", "label", "version_technical", "version_clip")
_JOINED_ON = ("batch_id", "photo_id", "sha256")


def read_features(
    *batch_ids: str,
    settings: Settings | None = None,
    columns: Sequence[str] | None = None,
    embeddings: bool = False,
    distinct: bool = False,
) -> pd.DataFrame:
    """The features of one or many finished batches, one row for each artifact, in the order of the batches.

    >>> photos = read_features("first-run", columns=["photo_id", "tenengrad", "label"])   # doctest: +SKIP
    >>> photos.nlargest(3, "tenengrad")                                          # doctest: +SKIP

    The index counts rows from 0; `batch_id` and `position` name a row, too (a photo may be in several batches). Where
    nothing was measured a value is missing (NaN, NaT, NA, or None in nested columns), never a default. Columns:

    - text: `string`, or `category` where few values are many times there; `status` is ordered, from ok to failed
    - scores and raw measurements: `float64`; `position`: `int32`; `width`, `height` and `iso`: `Int32`
    - `taken`: `datetime64[ms]`, the camera's clock, without a zone
    - `errors`, `clip_labels`, `label_cosines`: lists of dictionaries, or of numbers

    `attrs` tells what columns mean: `descriptions`, `units`, `ranges` and `directions` ("1 is best") by column, and
    `vocabularies`, the labels of `label_cosines`, by `version_clip`. Batches that were made with other models, settings
    or labels stand together: `version_technical` and `version_clip` tell them apart.

    Args:
        batch_ids: by default all finished batches, sorted.
        settings: of the project; by default those of the current one (see `load_settings`).
        columns: only these, in this order; nothing else is read. By default all.
        embeddings: add `embedding`: the image vector (float32, norm 1), None where there is none.
        distinct: one row for each `photo_id`: the first of it in the batch that was finished last (by the time of its
            JSON file). Rows stay in order.

    Raises:
        StoreError: a batch is not there or not finished, or a file of it cannot be read.
        ValueError: there is no such column.
        SettingsError: settings cannot be used.
    """
    import pandas as pd
    import pyarrow as pa

    store = ArtifactStore((settings or load_settings()).data_path)
    wanted = _chosen(columns)
    needed = _JOINED_ON if embeddings else ("photo_id",) if distinct else ()
    read = [*wanted, *(name for name in needed if name not in wanted)]
    found = _found(store, batch_ids)
    tables = [_table(store.feature_paths(batch_id)[1], read) for batch_id in found]
    table = pa.concat_tables([table for table, _ in tables])
    if distinct:
        finished = [_finished_at(store.feature_paths(batch_id)[0]) for batch_id in found]
        table = table.take(_distinct([table.column("photo_id").to_pylist() for table, _ in tables], finished))
    frame = pd.DataFrame({name: _column(name, table.column(name)) for name in wanted})
    if embeddings:
        frame["embedding"] = pd.Series(_embeddings(store, table.select(_JOINED_ON)), frame.index, dtype=object)
    frame.attrs = {**_facts(wanted), "vocabularies": _vocabularies(tables)}
    return frame


load = read_features
"""The earlier name of `read_features`."""


def _chosen(columns: Sequence[str] | None) -> list[str]:
    wanted = list(FEATURE_COLUMNS if columns is None else [columns] if isinstance(columns, str) else columns)
    for name in wanted:
        if name not in FEATURE_COLUMNS:
            raise ValueError(f"there is no column {name!r}{nearest(name, FEATURE_COLUMNS)}")
    if len(set(wanted)) < len(wanted):
        raise ValueError("a column is asked for twice")
    return wanted


# --- Reading ---


def _found(store: ArtifactStore, batch_ids: Sequence[str]) -> list[str]:
    """The batches to read. Those are finished whose JSON file is there, as it is written last."""
    finished = store.finished_batch_ids()
    folder = store.data_path / "features"
    if not finished and not batch_ids:
        raise StoreError(f"{folder}: has no finished batch; make one: curation-features process MANIFEST")
    for batch_id in batch_ids:
        if batch_id not in finished:
            remedy = nearest(batch_id, finished) or "; finished are those with a .json file there"
            raise StoreError(f"{folder}: has no finished batch {batch_id!r}{remedy}")
    return list(dict.fromkeys(batch_ids)) or finished


def _table(path: Path, names: Sequence[str]) -> tuple[pa.Table, Mapping[str, Any]]:
    """Columns of a table, and its metadata. A column that is not in it, as it is older than that, is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema({name: FEATURE_COLUMNS[name] for name in names}).remove_metadata()
    with _reading(path), pq.ParquetFile(path) as file:
        there = file.schema_arrow
        table = file.read([name for name in names if name in there.names])
        columns = [
            table.column(field.name).cast(field.type) if field.name in there.names else pa.nulls(len(table), field.type)
            for field in schema
        ]
        return pa.table(columns, schema=schema), json.loads((there.metadata or {})[METADATA_KEY])


def _finished_at(path: Path) -> int:
    with _reading(path):
        return path.stat().st_mtime_ns


def _distinct(photo_ids: Sequence[Sequence[str]], finished: Sequence[int]) -> list[int]:
    """The rows of batches, counted through, that hold the first of each photo in the batch that was finished last."""
    starts = [0, *accumulate(map(len, photo_ids))]
    chosen: dict[str, int] = {}
    for batch in sorted(range(len(photo_ids)), key=lambda batch: (-finished[batch], -batch)):
        for place, photo_id in enumerate(photo_ids[batch]):
            chosen.setdefault(photo_id, starts[batch] + place)
    return sorted(chosen.values())


def _embeddings(store: ArtifactStore, rows: pa.Table) -> list[NDArray[np.float32] | None]:
    """The vector of each row that was made of the same bytes; None where there is none."""
    found: dict[tuple[str, str, str], NDArray[np.float32] | None] = {}
    keys = list(zip(*(rows.column(name).to_pylist() for name in _JOINED_ON), strict=True))
    for batch_id in dict.fromkeys(key[0] for key in keys):
        found.update(_stored_vectors(store.embeddings_path(batch_id), batch_id))
    return [found.get(key) for key in keys]


def _stored_vectors(path: Path, batch_id: str) -> Iterator[tuple[tuple[str, str, str], NDArray[np.float32] | None]]:
    import pyarrow.parquet as pq

    if not path.exists():  # of a batch that was made before there were such files
        return
    with _reading(path), pq.ParquetFile(path) as file:
        for part in file.iter_batches(columns=["photo_id", "sha256", "embedding"]):
            photo_ids, digests = part.column("photo_id").to_pylist(), part.column("sha256").to_pylist()
            for photo_id, sha256, vector in zip(photo_ids, digests, vectors(part.column("embedding")), strict=True):
                yield (batch_id, photo_id, sha256), vector


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever keeps a table from being read into a `StoreError` that names it."""
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would wait for ever
            raise ValueError("is not a regular file")
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
    ) as error:  # what pyarrow raises derives from these
        cause = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{path}: cannot be read ({cause}); make the batch again: curation-features process MANIFEST"
        ) from error


# --- Columns as pandas has them ---


def _column(name: str, values: pa.ChunkedArray) -> pd.Series[Any]:
    """A column with the type that it has in every table, whatever is null in this one."""
    import pandas as pd

    if name == "status":
        return pd.Series(pd.Categorical(values.to_pylist(), STATUSES, ordered=True))
    if name in _CATEGORIES:
        texts = values.to_pylist()
        return pd.Series(pd.Categorical(texts, sorted({text for text in texts if text is not None})))
    kind = FEATURE_COLUMNS[name].type
    if kind.startswith("list"):
        return pd.Series(values.to_pylist(), dtype=object)
    if kind == "string":
        return pd.Series(values.to_pylist(), dtype="string")
    if kind == "int32" and name != "position":
        return pd.Series(values.to_pylist(), dtype="Int32")
    return pd.Series(values.to_numpy())


def _facts(names: Sequence[str]) -> dict[Hashable, Any]:
    columns: Columns = {name: FEATURE_COLUMNS[name] for name in names}
    return {
        "descriptions": {name: column.description for name, column in columns.items()},
        "units": {name: column.unit for name, column in columns.items() if column.unit},
        "ranges": {name: column.range for name, column in columns.items() if column.range},
        "directions": {name: column.facts["direction"] for name, column in columns.items() if column.best is not None},
    }


def _vocabularies(tables: Iterable[tuple[pa.Table, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """The labels of each version of labels, once."""
    return {metadata["version"]["clip"]: metadata["labels"] for _, metadata in tables}
