"""Image embeddings as a column of fixed-size lists, without nulls.

A photo without an embedding has no row: pyarrow before 26 cannot read a null in a fixed-size list from Parquet
(apache/arrow#35692).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.storage.arrow import arrow_array
from curation_features.storage.tables import EMBEDDING_COLUMNS, Column, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_VERSION = Column("string", "version of the vector: only vectors of one version are comparable; null if unknown")
_ROUNDED = "CLIP image vector, of norm 1, each number rounded to half precision"


def vectors_schema(dimension: int, *, float16: bool) -> pa.Schema:
    """Return the schema of the embeddings: those of a batch, and `version_embedding`."""
    import pyarrow as pa

    schema = arrow_schema({**EMBEDDING_COLUMNS, "version_embedding": _VERSION}).remove_metadata()
    description = _ROUNDED if float16 else "CLIP image vector, of norm 1"
    numbers = pa.float16() if float16 else pa.float32()
    field = pa.field("embedding", pa.list_(numbers, dimension), metadata={"description": description})
    return schema.set(schema.get_field_index("embedding"), field)


def prepare_vectors(rows: pa.RecordBatch, version: str | None, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows that have a vector, in `schema`.

    Raises:
        ValueError: a vector has another length, or a null in it.
        LookupError: a column is missing.
    """
    import pyarrow as pa

    rows = rows.filter(rows.column("embedding").is_valid())
    kind = schema.field("embedding").type
    numbers = _numbers(rows.column("embedding").cast(pa.list_(pa.float32())), kind.list_size)
    values: Any = numbers.astype(kind.value_type.to_pandas_dtype(), copy=False)
    vectors = pa.FixedSizeListArray.from_arrays(arrow_array(values, kind.value_type), type=kind)
    norm = schema.field("embedding_norm").type
    has_norm = "embedding_norm" in rows.schema.names  # tables of an earlier release have none
    columns = {
        "embedding_norm": rows.column("embedding_norm").cast(norm) if has_norm else pa.nulls(rows.num_rows, norm),
        **{name: rows.column(name).cast(pa.string()) for name in ("batch_id", "photo_id", "sha256")},
        "embedding": vectors,
        "version_embedding": arrow_array([version] * rows.num_rows, pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _numbers(column: pa.Array, dimension: int) -> NDArray[Any]:
    """Return the numbers of all vectors, one after the other."""
    flat = column.flatten()
    ends: NDArray[Any] = np.from_dlpack(column.offsets)
    if flat.null_count or (np.diff(ends) != dimension).any():
        raise ValueError(f"a vector does not have {dimension} numbers")
    numbers: NDArray[Any] = np.from_dlpack(flat)
    return numbers
