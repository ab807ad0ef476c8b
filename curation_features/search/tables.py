"""The tables of finished batches as one table of DuckDB, for filters and pages of rows.

A filter is an SQL expression of a user. It can read the tables of features, and nothing else: DuckDB has no access to
other files, to the network or to extensions, and its configuration is locked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
_SLICE = 25  # batches that are loaded at once
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

        self._store = store = ArtifactStore(data_path)
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
        self._loaded = 0  # batches

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def count(self, where: str | None = None) -> int:
        """Return the number of rows that meet a filter. Raises like `rows`."""
        with self._explained(where):
            [(number,)] = self._database.sql(self._select(["count(*)"], where)).fetchall()
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
            rest = f"ORDER BY {order}" if order else ""
            if limit is not None:
                rest += f" LIMIT {int(limit)} OFFSET {int(offset)}"
            return _dictionaries(self._database.execute(self._select(columns, where, rest=rest)))

    def check(self, where: str | None) -> None:
        """Raise `QueryError` unless a filter is one expression over the columns; reads no table."""
        if where and where.strip():
            with self._explained(where):
                self._database.sql(_all_rows([])).filter(where)

    def keep(self, name: str, columns: Sequence[str], where: str | None, also: str = "", rest: str = "") -> int:
        """Keep rows in memory under a name, in their order, so that pages of them are read without sorting again.

        Args:
            name: a word; rows that were kept under it are replaced.
            columns: few and small ones, as for `rows`.
            where: an SQL expression of a user, as for `rows`.
            also: an SQL expression of this program; rows must meet both.
            rest: `GROUP BY` and `ORDER BY` of this program.

        Returns:
            The number of rows. Raises like `rows`.
        """
        with self._explained(where):
            self._database.execute(f"CREATE OR REPLACE TABLE {name} AS {self._select(columns, where, also, rest)}")
            [(number,)] = self._database.execute(f"SELECT count(*) FROM {name}").fetchall()  # noqa: S608 (a word)
        return int(number)

    def kept(self, name: str, start: int, count: int) -> list[Row]:
        """Return the rows from `start` on that were kept under a name, at most `count`."""
        query = f"SELECT * FROM {name} WHERE rowid >= ? AND rowid < ? ORDER BY rowid"  # noqa: S608 (a word)
        return _dictionaries(self._database.execute(query, [start, start + count]))

    def forget(self, name: str) -> None:
        """Forget the rows that were kept under a name."""
        self._database.execute(f"DROP TABLE IF EXISTS {name}")

    def tally(self, values: Mapping[str, str], where: str | None, also: str = "") -> dict[str, dict[str | None, int]]:
        """Count the rows with each value of some columns, in one pass.

        Args:
            values: name -> SQL expression of this program, whose values are texts.
            where: an SQL expression of a user, as for `rows`.
            also: an SQL expression of this program; rows must meet both.

        Returns:
            Name -> value -> number of rows. Raises like `rows`.
        """
        columns = [f"{value} AS {_name(name)}" for name, value in values.items()]
        names = ", ".join(map(_name, values))
        sets = ", ".join(f"({_name(name)})" for name in values)
        counts: dict[str, dict[str | None, int]] = {name: {} for name in values}
        with self._explained(where):
            inner = self._select(columns, where, also)
            query = f"SELECT grouping_id({names}), {names}, count(*) FROM ({inner}) GROUP BY GROUPING SETS ({sets})"  # noqa: S608
            rows = self._database.execute(query).fetchall()
        for mask, *of, number in rows:
            place = next(i for i in range(len(of)) if not mask >> (len(of) - 1 - i) & 1)
            counts[list(values)[place]][of[place]] = int(number)
        return counts

    def rows_of(self, columns: Sequence[str], photos: Sequence[tuple[str, str | int]]) -> list[Row]:
        """Return the rows of some photos, in any order; only the tables of their batches are read.

        Args:
            columns: as for `rows`.
            photos: each a batch, and the photo's `photo_id` or `position` in it; those of other batches are skipped.

        Raises:
            StoreError: a table cannot be read.
        """
        known = set(self.batch_ids)
        wanted = [(batch_id, photo) for batch_id, photo in photos if batch_id in known]
        if not wanted:
            return []
        key, kind = ("position", "INTEGER") if isinstance(wanted[0][1], int) else ("photo_id", "VARCHAR")
        pairs = ", ".join(f"({_text(batch_id)}, {_text(photo)}::{kind})" for batch_id, photo in wanted)
        chosen = f"SELECT * FROM ({self._rows_in({one for one, _ in wanted})}) WHERE (batch_id, {key}) IN ({pairs})"  # noqa: S608
        query = self._with_groups(chosen) if any(map(_GROUP.search, columns)) else chosen
        with self._explained(None):
            return _dictionaries(self._database.execute(f"SELECT {', '.join(columns)} FROM ({query})"))  # noqa: S608

    def members(self, batch_id: str, group_id: str) -> list[tuple[str, str]]:
        """Return the photos of a group, each as batch and `photo_id`. Raises `StoreError`.

        Args:
            batch_id: the batch of one of them: a batch that was not grouped with all others has separate groups.
        """
        if batch_id in self._grouped_batches:
            rows = f"SELECT * FROM read_parquet({_text(groups_path(self._data_path))})"  # noqa: S608
        else:
            rows = self._rows_in({batch_id})
        query = f"SELECT batch_id, photo_id FROM ({rows}) WHERE group_id = ?"  # noqa: S608
        with self._explained(None):
            found = self._database.execute(query, [group_id]).fetchall()
        return [(one, photo_id) for one, photo_id in found if one in set(self.batch_ids)]

    def keys_in_batches(self, where: str) -> NDArray[np.uint64]:
        """Return the key in its batch (see `index`) of each photo that could be read and meets a filter.

        Raises:
            QueryError, StoreError: see `rows`.
        """
        with self._explained(where):
            query = self._select([f"{KEY_IN_BATCH_SQL} AS key"], where, "sha256 IS NOT NULL")
            return np.asarray(self._database.execute(query).fetchnumpy()["key"], np.uint64)

    def load(self, columns: Sequence[str], most: int = _SLICE) -> float:
        """Load columns of some more batches into memory, and return the share of all batches that are loaded.

        When all are loaded, queries that need no other columns read no files.

        Args:
            columns: names; the same at each call.
            most: number of batches.

        Raises:
            StoreError: a table cannot be read.
        """
        names = ", ".join(columns)
        batch_ids = self.batch_ids[self._loaded : self._loaded + most]
        with self._explained(None):
            if not self._loaded:
                self._database.execute(f"CREATE OR REPLACE TABLE loaded AS SELECT {names} FROM ({_all_rows([])})")  # noqa: S608
            if batch_ids:
                self._load(names, batch_ids)
        self._loaded += len(batch_ids)
        return self._loaded / len(self.batch_ids) if self.batch_ids else 1.0

    def _load(self, names: str, batch_ids: Sequence[str]) -> None:
        """Load columns of some batches; a quarter faster if no table lacks one of them."""
        import duckdb

        files = ", ".join(_text(self._store.feature_paths(batch_id)[1]) for batch_id in batch_ids)

        def load(rows: str) -> None:
            rows = self._with_groups(rows, batch_ids)
            self._database.execute(f"INSERT INTO loaded SELECT {names} FROM ({rows})")  # noqa: S608

        try:
            load(f"SELECT * FROM read_parquet([{files}])")  # noqa: S608 (paths are quoted)
        except (duckdb.BinderException, duckdb.InvalidInputException):
            load(self._rows_in(batch_ids))

    @property
    def is_loaded(self) -> bool:
        """Whether columns of all batches are in memory."""
        return 0 < self._loaded == len(self.batch_ids)

    def interrupt(self) -> None:
        """Stop the query that another thread runs; it raises `QueryError`."""
        self._database.interrupt()

    def _select(self, columns: Sequence[str], where: str | None, also: str = "", rest: str = "") -> str:
        """Return a query as one text.

        For a relation, DuckDB reads the footers of all files twice: when it is made, and when it runs. A filter that is
        one expression, alone, has balanced parentheses, and ends its texts and comments.
        """
        import duckdb

        self.check(where)
        conditions = " AND ".join(f"(\n{text}\n)" for text in (where or "", also) if text.strip())

        def select(rows: str) -> str:
            return f"SELECT {', '.join(columns)} FROM ({rows}) {'WHERE' if conditions else ''} {conditions} {rest}"  # noqa: S608

        if self.is_loaded:
            with suppress(duckdb.BinderException):  # it needs another column
                self._database.sql(select("SELECT * FROM loaded"))
                return select("SELECT * FROM loaded")
        has_group = any(map(_GROUP.search, (*columns, where or "", also, rest)))
        return select(self._grouped if has_group else self._rows)

    def _rows_in(self, batch_ids: Collection[str]) -> str:
        """Return the query of all rows of some batches."""
        return _all_rows([self._store.feature_paths(batch_id)[1] for batch_id in sorted(batch_ids)])

    @cached_property
    def _grouped(self) -> str:
        """Return the query of all rows with the groups over all batches."""
        return self._with_groups(self._rows)

    def _with_groups(self, rows: str, batch_ids: Collection[str] | None = None) -> str:
        """Return the query of rows, of some batches or of all, with their groups over all batches."""
        grouped = self._grouped_batches & set(self.batch_ids if batch_ids is None else batch_ids)
        if not grouped:
            return rows
        batches = f"photos.batch_id IN ({', '.join(map(_text, sorted(grouped)))})"
        columns = ", ".join(
            f"CASE WHEN {batches} THEN groups.{name} ELSE photos.{name} END AS {name}" for name in GROUP_COLUMNS
        )
        return f"""
            SELECT photos.* REPLACE ({columns}) FROM ({rows}) AS photos
            LEFT JOIN (
                SELECT * FROM read_parquet({_text(groups_path(self._data_path))}) AS photos WHERE {batches}
            ) AS groups
            ON (photos.batch_id, photos.photo_id, photos.sha256, coalesce(photos.original_uri, photos.image_uri))
                = (groups.batch_id, groups.photo_id, groups.sha256, groups.path)
        """  # noqa: S608 (all texts are quoted)

    @cached_property
    def _grouped_batches(self) -> frozenset[str]:
        return grouped_batches(self._data_path) & set(self.batch_ids) if has_groups(self._data_path) else frozenset()

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


def _name(word: str) -> str:
    """Return a name of SQL."""
    return '"' + word.replace('"', '""') + '"'


def _dictionaries(found: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return the rows of a result as dictionaries."""
    names = [name for name, *_ in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


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
