"""One schema for tables of different releases: columns are matched by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curation_features.errors import StoreError
from curation_features.storage.tables import FEATURE_COLUMNS, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa


class UnifiedSchema:
    """The columns of all added tables: the documented ones in their order, then others.

    A documented column keeps its documented type. Another column gets the narrowest type that holds the values of all
    tables.
    """

    def __init__(self) -> None:
        self._fields: dict[str, pa.Field] = {field.name: field for field in arrow_schema(FEATURE_COLUMNS)}
        self._first: dict[str, str] = {}  # other column -> the batch that has it first
        self._seen: list[pa.Schema] = []

    def add(self, batch_id: str, schema: pa.Schema) -> None:
        """Add the columns of a batch's table. Raises `StoreError` for a type that does not fit the others'."""
        if any(schema.equals(seen) for seen in self._seen):
            return
        for field in schema:
            known = self._fields.setdefault(field.name, field.with_nullable(True))
            if not known.type.equals(field.type):
                self._fields[field.name] = known.with_type(self._common_type(known, field, batch_id))
            if field.name not in FEATURE_COLUMNS:
                self._first.setdefault(field.name, batch_id)
        self._seen.append(schema)

    def without(self, names: tuple[str, ...]) -> pa.Schema:
        """Return the schema without some columns."""
        import pyarrow as pa

        return pa.schema([field for name, field in self._fields.items() if name not in names])

    def _common_type(self, known: pa.Field, field: pa.Field, batch_id: str) -> pa.DataType:
        import pyarrow as pa

        single = [pa.schema([pa.field(field.name, kind)]) for kind in (known.type, field.type)]
        try:
            common = pa.unify_schemas(single, promote_options="permissive").field(0).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            common = None
        is_documented = field.name in FEATURE_COLUMNS
        if common is None or (is_documented and common != known.type):
            other = "this release has" if is_documented else f"batch {self._first[field.name]!r} has"
            raise StoreError(
                f"batch {batch_id!r}: column {field.name!r} is of type {field.type}, and {other} {known.type}: compute "
                f"the batch again (curation-features process {batch_id}), or name the batches to gather"
            )
        return common


def conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the columns of `schema`: missing ones null, others cast. Raises `ValueError` for a value."""
    import pyarrow as pa

    places = {name: place for place, name in enumerate(rows.schema.names)}
    if len(places) < rows.num_columns:
        raise ValueError("two columns have the same name")
    columns = []
    for field in schema:
        if field.name not in places:
            columns.append(pa.nulls(rows.num_rows, field.type))
        else:
            column = rows.column(places[field.name])
            columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
