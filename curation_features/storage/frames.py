"""Reads finished batches as a pandas DataFrame; the first call imports pandas."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.atomic_files import open_regular, reading
from curation_features.errors import StoreError
from curation_features.schema import STATUSES
from curation_features.settings import Settings, load_settings, nearest
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.distinct import COLUMNS, Copy, Distinct, distinct_rows, of_all_batches
from curation_features.storage.tables import FEATURE_COLUMNS, METADATA_KEY, Columns, arrow_schema, read_rows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

_CATEGORIES = (
    *("batch_id", "format", "camera", "lens", "label", "group_kind", "group_what"),
    *("version_technical", "version_clip", "version_signals", "version_groups"),
)
_JOIN_KEYS = ("batch_id", "photo_id", "sha256")
_REMEDY = "recompute the batch: curation-features process MANIFEST"


def read_features(
    *batch_ids: str,
    settings: Settings | None = None,
    columns: Sequence[str] | None = None,
    embeddings: bool = False,
    distinct: Distinct = False,
) -> pd.DataFrame:
    """Read the features of finished batches, one row per artifact.

    >>> photos = read_features("first-run", columns=["photo_id", "blur_px", "flags"])   # doctest: +SKIP
    >>> photos.nsmallest(3, "blur_px")  # the sharpest                                   # doctest: +SKIP

    Rows are in the order of the batches and their manifests. The index counts rows from 0; `batch_id` and `position`
    also identify a row (a photo may be in several batches). A value that was not measured is missing (NaN, NaT, NA, or
    None in nested columns), never a default. Columns:

    - text: `string`, or `category` if few values repeat; `status` is ordered, from ok to failed
    - scores and raw measurements: `float64`; `position`: `int32`; `width`, `height` and `iso`: `Int32`
    - `taken`: `datetime64[ms]`, the camera's clock, without a time zone
    - `errors`, `clip_labels`, `label_cosines`: lists of dictionaries, or of numbers

    `attrs` documents the columns: `descriptions`, `units`, `ranges` and `directions` ("1 is best") by column, and
    `vocabularies`, the labels of `label_cosines`, by `version_clip`. Batches of different models, settings or labels
    are in one frame: `version_technical` and `version_clip` distinguish them.

    Args:
        batch_ids: by default all finished batches, sorted.
        settings: settings of the project; by default those of the current project (see `load_settings`).
        columns: the columns to read, in this order; by default all.
        embeddings: add the column `embedding`: the image embedding (float32, norm 1), or None.
        distinct: keep one row per picture: of the rows with one `photo_id` the first in the batch finished last (by the
            modification time of the JSON file), and of the copies of a picture the best, also of files with one
            `photo_id`. Copies are those of the groups over all batches (`curation-features groups`), if they were made,
            else of the groups within each batch. Frames of bursts and sets all stay. `"bytes"`: only files with equal
            bytes are copies. Rows stay in order.

    Raises:
        StoreError: a batch is missing or not finished, or a file of it cannot be read.
        ValueError: a column does not exist.
        TypeError: an id is not text, such as a list of ids.
        SettingsError: the settings are invalid.
    """
    import pandas as pd
    import pyarrow as pa

    store = ArtifactStore((settings or load_settings()).data_path)
    names = _check_columns(columns)
    needed = (*(_JOIN_KEYS if embeddings else ()), *(COLUMNS if distinct else ()))
    read = [*names, *dict.fromkeys(name for name in needed if name not in names)]
    selected = _select_batches(store, batch_ids)
    tables = [_read_table(store.feature_paths(batch_id)[1], read) for batch_id in selected]
    table = pa.concat_tables([_schema(read).empty_table(), *(table for table, _ in tables)], promote_options="default")
    if distinct:
        finished = [_read_finish_time(store.feature_paths(batch_id)[0]) for batch_id in selected]
        table = table.take(_choose(store.data_path, selected, [table for table, _ in tables], finished, distinct))
    frame = _frame(table, names, [metadata for _, metadata in tables])
    if embeddings:
        frame["embedding"] = pd.Series(_read_embeddings(store, table.select(_JOIN_KEYS)), frame.index, dtype=object)
    return frame


def read_rows_of(
    settings: Settings,
    key: Sequence[str],
    wanted: Sequence[tuple[object, ...]],
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return some rows of `read_features`, in this order; other rows are not converted.

    Args:
        key: columns that identify a row, the first of them `batch_id`; of several rows the first one is meant.
        wanted: values of these columns.
        columns: as for `read_features`.

    Raises:
        StoreError, ValueError: see `read_features`.
    """
    import pyarrow as pa

    store = ArtifactStore(settings.data_path)
    names = _check_columns(columns)
    read = list(dict.fromkeys([*names, *key]))
    in_batch: dict[str, list[int]] = {}  # places in `wanted`
    for place, (batch_id, *_) in enumerate(wanted):
        in_batch.setdefault(str(batch_id), []).append(place)
    parts, known = [_schema(read).empty_table()], []
    for batch_id in _select_batches(store, list(in_batch)) if in_batch else ():
        table, metadata = _read_table(store.feature_paths(batch_id)[1], read)
        rows = list(zip(*(table.column(name).to_pylist() for name in key), strict=True))
        first = {values: row for row, values in reversed([*enumerate(rows)])}
        chosen = [first[wanted[place]] for place in in_batch[batch_id]]
        parts.append(table.take(pa.array(chosen, pa.int64())))
        known.append(metadata)
    order = {place: row for row, place in enumerate(place for places in in_batch.values() for place in places)}
    in_order = pa.array([order[place] for place in range(len(wanted))], pa.int64())
    return _frame(pa.concat_tables(parts, promote_options="default").take(in_order), names, known)


def _frame(table: pa.Table, names: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return columns of a table as a DataFrame, with their descriptions."""
    import pandas as pd

    frame = pd.DataFrame({name: _to_pandas(name, table.column(name)) for name in names})
    vocabularies = {one["version"]["clip"]: one["labels"] for one in metadata}
    frame.attrs = {**_describe(names), "vocabularies": vocabularies}
    return frame


load = read_features
"""The earlier name of `read_features`."""


def _check_columns(columns: Sequence[str] | None) -> list[str]:
    names = list(FEATURE_COLUMNS if columns is None else [columns] if isinstance(columns, str) else columns)
    for name in names:
        if name not in FEATURE_COLUMNS:
            raise ValueError(f"no column {name!r}{nearest(name, FEATURE_COLUMNS)}")
    if len(set(names)) < len(names):
        raise ValueError("a column is requested twice")
    return names


# --- Reading ---


def _select_batches(store: ArtifactStore, batch_ids: Sequence[str]) -> list[str]:
    """Return the batches to read. Raises `StoreError` for an unfinished one."""
    finished = store.finished_batch_ids()
    folder = store.data_path / "features"
    if not finished and not batch_ids:
        raise StoreError(f"{folder}: has no finished batch; compute one: curation-features process MANIFEST")
    for batch_id in batch_ids:
        if not isinstance(batch_id, str):
            given = type(batch_id).__name__
            raise TypeError(f'a batch id is text, not {given}; give several as read_features("a", "b")')
        if batch_id not in finished:
            remedy = nearest(batch_id, finished) or "; a finished batch has a .json file there"
            raise StoreError(f"{folder}: has no finished batch {batch_id!r}{remedy}")
    return list(dict.fromkeys(batch_ids)) or finished


def _read_table(path: Path, names: Sequence[str]) -> tuple[pa.Table, Mapping[str, Any]]:
    """Read columns of a table, as far as it has them, and its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, _REMEDY):
        open_regular(path).close()  # pyarrow would block on a FIFO
        with pq.ParquetFile(path) as file:
            stored = file.schema_arrow
            fields = [field for field in _schema(names) if field.name in stored.names]
            table = file.read([field.name for field in fields]).select([field.name for field in fields])
            return table.cast(pa.schema(fields)), json.loads((stored.metadata or {})[METADATA_KEY])


def _schema(names: Sequence[str]) -> pa.Schema:
    return arrow_schema({name: FEATURE_COLUMNS[name] for name in names}).remove_metadata()


def _read_finish_time(path: Path) -> int:
    with reading(path, _REMEDY):
        return path.stat().st_mtime_ns


def _choose(
    data_path: Path, batch_ids: Sequence[str], tables: Sequence[pa.Table], finished: Sequence[int], distinct: Distinct
) -> list[int]:
    """Return the distinct rows; see `read_features`. A table of an earlier release has no groups."""
    batches = {}
    for batch_id, table in zip(batch_ids, tables, strict=True):
        missing = [None] * table.num_rows
        names = table.column_names
        values = (table.column(name).to_pylist() if name in names else missing for name in COLUMNS)
        batches[batch_id] = [Copy(*row) for row in zip(*values, strict=True)]
    if distinct == "bytes":
        return distinct_rows(list(batches.values()), finished, of_bytes=True)
    return distinct_rows(of_all_batches(data_path, batches), finished)


def _read_embeddings(store: ArtifactStore, rows: pa.Table) -> list[NDArray[np.float32] | None]:
    """Return the embedding of each row with the same bytes, or None."""
    stored: dict[tuple[str, ...], NDArray[np.float32] | None] = {}
    keys = list(zip(*(rows.column(name).to_pylist() for name in _JOIN_KEYS), strict=True))
    for path in map(store.embeddings_path, dict.fromkeys(batch_id for batch_id, *_ in keys)):
        if path.exists():  # a batch of an older version has none
            with reading(path, _REMEDY):
                open_regular(path).close()
                for row in read_rows(path, [*_JOIN_KEYS, "embedding"]):
                    stored[tuple(row[name] for name in _JOIN_KEYS)] = row["embedding"]
    return [stored.get(key) for key in keys]


# --- Conversion to pandas ---


def _to_pandas(name: str, values: pa.ChunkedArray) -> pd.Series[Any]:
    """Convert a column to its type, regardless of null values."""
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
    if kind == "bool":
        return pd.Series(values.to_pylist(), dtype="boolean")
    if kind == "int32" and name != "position":
        return pd.Series(values.to_pylist(), dtype="Int32")
    return pd.Series(values.to_numpy())


def _describe(names: Sequence[str]) -> dict[Hashable, Any]:
    columns: Columns = {name: FEATURE_COLUMNS[name] for name in names}
    return {
        "descriptions": {name: column.description for name, column in columns.items()},
        "units": {name: column.unit for name, column in columns.items() if column.unit},
        "ranges": {name: column.range for name, column in columns.items() if column.range},
        "directions": {name: column.facts["direction"] for name, column in columns.items() if column.best is not None},
    }
