"""Read Parquet files by row groups, and check their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.storage.tables import ROWS_PER_GROUP, Columns, arrow_schema
from curation_features.text import inert
from curation_features.verification.matching import Steps, find_non_finite
from curation_features.verification.report import IN_RANGE, Report, reading

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def usable_columns(path: Path, columns: Columns, name: str, report: Report) -> frozenset[str]:
    """Compare a file's columns with the expected ones; return the correct ones.

    Args:
        name: the file's name in the report.
    """
    import pyarrow.parquet as pq

    with reading(path):
        found = pq.read_schema(path)
    expected = arrow_schema(columns)
    problems = {column: "column is missing" for column in expected.names if column not in found.names}
    for column, count in Counter(found.names).items():
        if column not in columns:
            problems[column] = "column is not expected"
        elif count > 1:
            problems[column] = "column occurs more than once"
        elif (kind := found.field(column).type) != expected.field(column).type:
            problems[column] = f"column is of type {inert(kind)}, not {expected.field(column).type}"
    for column, problem in problems.items():
        report.add(IN_RANGE, f"{name}.{inert(column)}", problem)
    if not problems and found.names != expected.names:
        report.add(IN_RANGE, name, "its columns are in another order")
    return frozenset(columns) - problems.keys()


def read_rows(path: Path, names: frozenset[str]) -> Iterator[tuple[dict[str, Any], list[Steps]]]:
    """Read each row: named columns, and paths of all non-finite numbers.

    Raises:
        StoreError: it cannot be read to its end.
    """
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            columns = list(zip(batch.schema.names, batch.columns, strict=True))
            named = {name: column.to_pylist() for name, column in columns if name in names}
            suspect = [(name, column.to_pylist()) for name, column in columns if not _is_finite(column)]
            for row in range(len(batch)):
                non_finite = [(name, *steps) for name, values in suspect for steps in find_non_finite(values[row])]
                yield {name: values[row] for name, values in named.items()}, non_finite


def _is_finite(column: pa.Array) -> bool:
    """Whether a column has only finite numbers, and no null ones."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        numbers: NDArray[Any] | None = None if column.null_count else np.from_dlpack(column)
        return numbers is not None and bool(np.isfinite(numbers).all())
    if pa.types.is_list(column.type):
        return _is_finite(column.values)
    return not pa.types.is_struct(column.type) or all(map(_is_finite, column.flatten()))
