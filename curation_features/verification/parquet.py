"""Parquet files, read a row group at a time as a consumer would, with what is wrong with their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.storage.tables import ROWS_PER_GROUP, Columns, arrow_schema
from curation_features.verification.matching import Steps, non_finite
from curation_features.verification.reading import reading
from curation_features.verification.report import IN_RANGE, Report
from curation_features.verification.text import inert

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def usable_columns(path: Path, columns: Columns, name: str, report: Report) -> frozenset[str]:
    """Hold the columns of a file against those it should have; returns those that are there, once, with their type.

    Args:
        name: what a report calls the file.
    """
    import pyarrow.parquet as pq

    with reading(path):
        found = pq.read_schema(path)
    expected = arrow_schema(columns)
    wrong = {column: "column is missing" for column in expected.names if column not in found.names}
    for column, count in Counter(found.names).items():
        if column not in columns:
            wrong[column] = "no such column is expected"
        elif count > 1:
            wrong[column] = "column is there more than once"
        elif found.field(column).type != expected.field(column).type:
            wrong[column] = f"column is of type {inert(found.field(column).type)}, not {expected.field(column).type}"
    for column, problem in wrong.items():
        report.add(IN_RANGE, f"{name}.{inert(column)}", problem)
    if not wrong and found.names != expected.names:
        report.add(IN_RANGE, name, "its columns stand in another order")
    return frozenset(columns) - wrong.keys()


Chunk = tuple[dict[str, list[Any]], list[tuple[int, Steps]]]


def chunks(path: Path, usable: frozenset[str]) -> Iterator[Chunk]:
    """A file, a row group at a time: its usable columns, and where a number is not finite (row, then steps).

    Raises:
        StoreError: it cannot be read, or not to its end.
    """
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            named = list(zip(batch.schema.names, batch.columns, strict=True))
            yield (
                {name: column.to_pylist() for name, column in named if name in usable},
                [found for name, column in named for found in _non_finite_rows(name, column)],
            )


def _all_finite(column: pa.Array) -> bool:
    """Whether a column holds no NaN and no infinity, in its lists and structures neither, nor in what is null."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        return _numbers_finite(column)
    if pa.types.is_list(column.type):
        return _all_finite(column.values)
    return not pa.types.is_struct(column.type) or all(_all_finite(part) for part in column.flatten())


def _numbers_finite(column: pa.Array) -> bool:
    if not column.null_count:
        numbers: NDArray[Any] = np.from_dlpack(column)
        return bool(np.isfinite(numbers).all())
    import pyarrow.compute as pc  # not above: where nothing is missing, it takes longer to import than to check

    return pc.all(pc.is_finite(column)).as_py() is not False  # None: all are null


def _non_finite_rows(name: str, column: pa.Array) -> Iterator[tuple[int, Steps]]:
    for row, value in enumerate(() if _all_finite(column) else column.to_pylist()):
        for steps in non_finite(value):
            yield row, (name, *steps)
