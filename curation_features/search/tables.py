"""The tables of finished batches as one table of DuckDB, for filters and pages of rows.

A filter is an SQL expression of a user. It can read the tables of features, and nothing else: DuckDB has no access to
other files, to the network or to extensions, and its configuration is locked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curation_features.errors import QueryError, StoreError, require_extra
from curation_features.search.index import KEY_IN_BATCH_SQL
from curation_features.settings import nearest
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.groups import grouped_batches, groups_path, has_groups
from curation_features.storage.tables import FEATURE_COLUMNS, GROUP_COLUMNS, Row

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "float": "FLOAT", "int32": "INTEGER", "bool": "BOOLEAN"}
_GROUP = re.compile(r"\bgroup_", re.IGNORECASE)
_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",
}


class Tables:
    """The rows of finished batches. A context manager: leaving it closes DuckDB.

        with Tables(data_path) as tables:
            tables.rows(["photo_id", "blur_px"], where="camera = 'X100'", order="blur_px", limit=10)

    Columns are those of `read_features`. A column that a table of an earlier release lacks is null. The columns
    `group_*` are those of the groups over all batches, for batches that were grouped.

    Args:
        data_path: the data folder.
        batch_ids: batches to read; by default all finished ones.

    Raises:
        MissingExtraError: DuckDB is not installed.
        StoreError: a batch is not finished, or the folder cannot be listed.
    """

    def __init__(self, data_path: Path, batch_ids: Collection[str] = ()) -> None:
        require_extra("search")
        import duckdb

        store = ArtifactStore(data_path)
        finished = store.finished_batch_ids()
        for batch_id in batch_ids:
            if batch_id not in finished:
                raise StoreError(f"{data_path / 'features'}: has no finished batch {batch_id!r}")
        self._data_path = data_path
        self.batch_ids = sorted(batch_ids) if batch_ids else finished
        self._database = duckdb.connect(":memory:", config=_LOCKED)
        files = [store.feature_paths(batch_id)[1] for batch_id in self.batch_ids]
        folders = [data_path / "features", data_path / "groups"]
        self._database.execute(f"SET allowed_directories = [{', '.join(map(_text, folders))}]")
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")
        self._rows = _all_rows(files)

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def count(self, where: str | None = None) -> int:
        """Return the number of rows that meet a filter. Raises like `rows`."""
        with self._explained(where):
            [(number,)] = self.relation([], where).aggregate("count(*)").fetchall()
        return int(number)

    def rows(
        self,
        columns: Sequence[str],
        where: str | None = None,
        order: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Row]:
        """Return rows as dictionaries.

        Args:
            columns: their names, or SQL expressions (`"avg(blur_px) AS blur"`) of this program.
            where: an SQL expression of a user; rows for which it is true.
            order: an SQL list such as `"taken DESC NULLS LAST, batch_id, position"`.

        Raises:
            QueryError: the filter is wrong; the message has the cause.
            StoreError: a table cannot be read.
        """
        with self._explained(where):
            found = self.relation([*columns, order or ""], where)
            if order:
                found = found.order(order)
            found = found.project(", ".join(columns))
            if limit is not None:
                found = found.limit(limit, offset)
            names = found.columns
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def keys_in_batches(self, where: str) -> NDArray[np.uint64]:
        """Return the key in its batch (see `index`) of each photo that could be read and meets a filter.

        Raises:
            QueryError, StoreError: see `rows`.
        """
        with self._explained(where):
            found = self.relation([], where).filter("sha256 IS NOT NULL").project(f"{KEY_IN_BATCH_SQL} AS key")
            return np.asarray(found.fetchnumpy()["key"], np.uint64)

    def relation(self, texts: Sequence[str], where: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return all columns of the rows that meet a filter, for aggregates of this program.

        Args:
            texts: SQL that will be applied; it decides whether groups are joined.
        """
        has_group = any(_GROUP.search(text) for text in (*texts, where or ""))
        found = self._database.sql(self._grouped if has_group else self._rows)
        return found.filter(where) if where and where.strip() else found

    @cached_property
    def _grouped(self) -> str:
        """Return the query of all rows with the groups over all batches."""
        if not has_groups(self._data_path):
            return self._rows
        grouped = grouped_batches(self._data_path) & set(self.batch_ids)
        batches = f"photos.batch_id IN ({', '.join(map(_text, sorted(grouped)))})" if grouped else "false"
        columns = ", ".join(
            f"CASE WHEN {batches} THEN groups.{name} ELSE photos.{name} END AS {name}" for name in GROUP_COLUMNS
        )
        return f"""
            SELECT photos.* REPLACE ({columns}) FROM ({self._rows}) AS photos
            LEFT JOIN read_parquet({_text(groups_path(self._data_path))}) AS groups
            USING (batch_id, photo_id, sha256)
        """  # noqa: S608 (all texts are quoted)

    @contextmanager
    def _explained(self, where: str | None) -> Iterator[None]:
        """Turn errors of DuckDB into those of this package."""
        import duckdb

        try:
            yield
        except (duckdb.IOException, duckdb.HTTPException) as error:
            raise StoreError(f"{self._data_path / 'features'}: {_cause(error)}") from error
        except duckdb.Error as error:
            raise QueryError(f"the filter {where!r} cannot be used: {_cause(error)}") from error


def _all_rows(files: Sequence[Path]) -> str:
    """Return the query of all rows of tables; columns that all of them lack are null."""
    empty = ", ".join(f"NULL::{_type(column.type)} AS {name}" for name, column in FEATURE_COLUMNS.items())
    query = f"SELECT {empty} WHERE false"
    if not files:
        return query
    paths = ", ".join(map(_text, files))
    read = f"read_parquet([{paths}], union_by_name = true)"
    return f"{query} UNION ALL BY NAME SELECT * FROM {read}"  # noqa: S608 (paths are quoted)


def _text(value: object) -> str:
    """Return a text literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def _type(arrow: str) -> str:
    """Return DuckDB's type of a type of Arrow."""
    if arrow.startswith("list<"):
        return _type(arrow[5:-1]) + "[]"
    if arrow.startswith("struct<"):
        fields = (field.split(": ") for field in arrow[7:-1].split(", "))
        return f"STRUCT({', '.join(f'{name} {_type(kind)}' for name, kind in fields)})"
    return "TIMESTAMP" if arrow.startswith("timestamp") else _TYPES[arrow]


def _cause(error: Exception) -> str:
    """Return the first line of an error of DuckDB, without its kind; similar names for an unknown column."""
    line = re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", str(error).partition("\n")[0])
    if unknown := re.search(r'[Cc]olumn "(.*?)" not found', line):
        return f"there is not a column {unknown[1]!r}{nearest(unknown[1], FEATURE_COLUMNS)}"
    return line
