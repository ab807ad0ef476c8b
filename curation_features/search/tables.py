"""The tables of finished batches as one table of DuckDB, for filters and pages of rows.

A filter is an SQL expression of a user. It can read the tables of features, and nothing else: DuckDB has no access to
other files, to the network or to extensions, and its configuration is locked.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from curation_features.atomic_files import FEATURES_AGAIN
from curation_features.errors import QueryError, StoreError, require_extra
from curation_features.search.index import KEY_IN_BATCH_SQL
from curation_features.settings import nearest
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.groups import GROUPS_AGAIN, grouped_batches, groups_path, has_groups
from curation_features.storage.tables import FEATURE_COLUMNS, GROUP_COLUMNS, Row

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

T = TypeVar("T")

log = logging.getLogger(__name__)

_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "float": "FLOAT", "int32": "INTEGER", "bool": "BOOLEAN"}
_SLICE = 25  # batches that are loaded at once
_GROUP = re.compile(r"\bgroup_", re.IGNORECASE)
_DEEPEST = 200  # DuckDB's parser takes a time that is the square of it, and cannot be interrupted
_NO_GROUPS = "The groups over all batches are not used: %s"
_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",
}


def _dictionaries(found: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return the rows of a result as dictionaries."""
    names = [name for name, *_ in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _tuples(found: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Return the rows of a result."""
    return list(found.fetchall())


def _keys(found: duckdb.DuckDBPyConnection) -> NDArray[np.uint64]:
    return np.asarray(found.fetchnumpy()["key"], np.uint64)


def _is_of_file(error: Exception) -> bool:
    """Whether an error of DuckDB comes from reading a file: it quotes the call then."""
    import duckdb

    return isinstance(error, duckdb.IOException) or (isinstance(error, duckdb.Error) and "read_parquet(" in str(error))


class Tables:
    """The rows of finished batches. A context manager: leaving it closes DuckDB.

        with Tables(data_path) as tables:
            tables.rows(["photo_id", "blur_px"], where="camera = 'X100'", order="blur_px", limit=10)

    Columns are those of `read_features`. A column that a table of an earlier release lacks is null. The columns
    `group_*` are those of the groups over all batches, for batches that were grouped.

    A table that cannot be read is skipped with a warning, and so is that of the groups. A batch that is named must be
    readable.

    Args:
        data_path: the data folder.
        batch_ids: batches to read; by default all finished ones.

    Raises:
        MissingExtraError: DuckDB is not installed.
        StoreError: a batch is not finished, or the folder cannot be listed. All methods: a named batch cannot be read.
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
        self._is_strict = bool(batch_ids)
        folders = [data_path / "features", data_path / "groups"]
        self._database.execute(f"SET allowed_directories = [{', '.join(map(literal, folders))}]")
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET enable_progress_bar = false")  # it is printed on standard output, even into a pipe
        self._database.execute("SET lock_configuration = true")
        self._rows = self._rows_in(self.batch_ids)
        self._loaded = 0  # batches

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def count(self, where: str | None = None) -> int:
        """Return the number of rows that meet a filter. Raises like `rows`."""
        [(number,)] = self._ask(lambda: self._select(["count(*)"], where), where, _tuples)
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
        rest = f"ORDER BY {order}" if order else ""
        if limit is not None:
            rest += f" LIMIT {int(limit)} OFFSET {int(offset)}"
        return self._ask(lambda: self._select(columns, where, rest=rest), where)

    def check(self, where: str | None) -> None:
        """Raise `QueryError` unless a filter is one expression over the columns; reads no table."""
        if where and where.strip():
            if max(accumulate((one == "(") - (one == ")") for one in where)) > _DEEPEST:
                raise QueryError(f"the filter has more than {_DEEPEST} parentheses in each other: use a simpler one")
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
        self._ask(
            lambda: f"CREATE OR REPLACE TABLE {name} AS {self._select(columns, where, also, rest)}", where, _tuples
        )
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

        def query() -> str:
            inner = self._select(columns, where, also)
            return f"SELECT grouping_id({names}), {names}, count(*) FROM ({inner}) GROUP BY GROUPING SETS ({sets})"  # noqa: S608

        for mask, *of, number in self._ask(query, where, _tuples):
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
        pairs = ", ".join(f"({literal(batch_id)}, {literal(photo)}::{kind})" for batch_id, photo in wanted)

        def query() -> str:
            chosen = f"SELECT * FROM ({self._rows_in({one for one, _ in wanted})}) WHERE (batch_id, {key}) IN ({pairs})"  # noqa: S608
            rows = self._with_groups(chosen) if any(map(_GROUP.search, columns)) else chosen
            return f"SELECT {', '.join(columns)} FROM ({rows})"  # noqa: S608

        return self._ask(query)

    def members(self, batch_id: str, group_id: str) -> list[tuple[str, str]]:
        """Return the photos of a group, each as batch and `photo_id`. Raises `StoreError`.

        Args:
            batch_id: the batch of one of them: a batch that was not grouped with all others has separate groups.
        """

        def query() -> str:
            groups = f"SELECT * FROM {_read([groups_path(self._data_path)])}"  # noqa: S608 (paths are quoted)
            rows = groups if batch_id in self._grouped_batches else self._rows_in({batch_id})
            return f"SELECT batch_id, photo_id FROM ({rows}) WHERE group_id = {literal(group_id)}"  # noqa: S608

        found = self._ask(query, None, _tuples)
        return [(one, photo_id) for one, photo_id in found if one in set(self.batch_ids)]

    def keys_in_batches(self, where: str) -> NDArray[np.uint64]:
        """Return the key in its batch (see `index`) of each photo that could be read and meets a filter.

        Raises:
            QueryError, StoreError: see `rows`.
        """
        return self._ask(
            lambda: self._select([f"{KEY_IN_BATCH_SQL} AS key"], where, "sha256 IS NOT NULL"), where, _keys
        )

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
        if not self._loaded:
            self._database.execute(f"CREATE OR REPLACE TABLE loaded AS SELECT {names} FROM ({_all_rows([])})")  # noqa: S608
        batch_ids = self.batch_ids[self._loaded : self._loaded + most]
        if not batch_ids:
            return 1.0
        with self._explained(None):
            try:
                self._load(names, batch_ids)
            except Exception as error:
                if not (_is_of_file(error) and self._skip_unreadable()):
                    raise
                return 0.0
        self._loaded += len(batch_ids)
        return self._loaded / len(self.batch_ids)

    def _load(self, names: str, batch_ids: Sequence[str]) -> None:
        """Load columns of some batches; a quarter faster if no table lacks one of them."""
        import duckdb

        def load(rows: str) -> None:
            rows = self._with_groups(rows, batch_ids)
            self._database.execute(f"INSERT INTO loaded SELECT {names} FROM ({rows})")  # noqa: S608

        try:
            load(f"SELECT * FROM {_read(map(self._path, batch_ids))}")  # noqa: S608 (paths are quoted)
        except (duckdb.BinderException, duckdb.InvalidInputException):
            load(self._rows_in(batch_ids))

    @property
    def is_loaded(self) -> bool:
        """Whether columns of all batches are in memory."""
        return 0 < self._loaded == len(self.batch_ids)

    def interrupt(self) -> None:
        """Stop the query that another thread runs; it raises `QueryError`."""
        self._database.interrupt()

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Stop a query of the block that runs after some seconds; it raises `QueryError`. None: no limit."""
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            self.interrupt()

        timer = threading.Timer(0 if seconds is None else seconds, stop)
        timer.daemon = True
        if seconds is not None:
            timer.start()
        try:
            yield
        except QueryError as error:
            if is_late.is_set():
                raise QueryError(f"the filter takes longer than {seconds:g} s: use a simpler one") from error
            raise
        finally:
            timer.cancel()

    def _ask(
        self,
        query: Callable[[], str],
        where: str | None = None,
        read: Callable[[duckdb.DuckDBPyConnection], T] = _dictionaries,  # type: ignore[assignment]
    ) -> T:
        """Return the result of a query, as `read` gives it; without the tables that cannot be read."""
        with self._explained(where):
            text = query()
            try:
                return self._run(text, read)
            except Exception as error:
                if not (_is_of_file(error) and self._skip_unreadable()):
                    raise
            return self._run(query(), read)

    def _run(self, text: str, read: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Run a query in another thread: in the main thread, Ctrl-C would wait for the end of a task, maybe hours."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(lambda: read(self._database.execute(text)))
            try:
                return running.result()
            except BaseException:  # Ctrl-C, or of another signal's handler
                while not running.done():  # not at once, if it had not begun
                    self.interrupt()
                    wait([running], 0.1)
                raise

    def _skip_unreadable(self) -> bool:
        """Skip tables that cannot be read from now on; return whether there are any. Raises `StoreError`."""
        found = {one: problem for one in self.batch_ids if (problem := self._find_problem(self._path(one)))}
        groups = groups_path(self._data_path)
        groups_problem = self._grouped_batches and self._find_problem(groups)
        for batch_id, problem in found.items():
            path = self._path(batch_id)
            message = f"{path}: cannot be read ({problem}): {FEATURES_AGAIN}"
            if self._is_strict:
                raise StoreError(message)
            if path.exists():  # it was not deleted in the meantime
                log.warning("Batch %s is skipped: %s", batch_id, message)
        if groups_problem:
            log.warning(_NO_GROUPS, f"{groups}: cannot be read ({groups_problem}): {GROUPS_AGAIN}")
            vars(self)["_grouped_batches"] = frozenset()
        if found or groups_problem:
            self.batch_ids = [one for one in self.batch_ids if one not in found]
            self._rows, self._loaded = self._rows_in(self.batch_ids), 0
            vars(self).pop("_grouped", None)
        return bool(found or groups_problem)

    def _find_problem(self, path: Path) -> str:
        """Return why a table cannot be read; empty if it can. All of it is read: only the damaged part may be wrong."""
        import duckdb

        try:
            self._run(f"SELECT count(COLUMNS(*)) FROM {_read([path])}", _tuples)  # noqa: S608
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            return _cause(error)
        return ""

    def _path(self, batch_id: str) -> Path:
        return self._store.feature_paths(batch_id)[1]

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
        known = sorted(set(batch_ids).intersection(self.batch_ids))
        return _all_rows([self._path(batch_id) for batch_id in known])

    @cached_property
    def _grouped(self) -> str:
        """Return the query of all rows with the groups over all batches."""
        return self._with_groups(self._rows)

    def _with_groups(self, rows: str, batch_ids: Collection[str] | None = None) -> str:
        """Return the query of rows, of some batches or of all, with their groups over all batches."""
        grouped = self._grouped_batches & set(self.batch_ids if batch_ids is None else batch_ids)
        if not grouped:
            return rows
        batches = f"photos.batch_id IN ({', '.join(map(literal, sorted(grouped)))})"
        columns = ", ".join(
            f"CASE WHEN {batches} THEN groups.{name} ELSE photos.{name} END AS {name}" for name in GROUP_COLUMNS
        )
        return f"""
            SELECT photos.* REPLACE ({columns}) FROM ({rows}) AS photos
            LEFT JOIN (SELECT * FROM {_read([groups_path(self._data_path)])} AS photos WHERE {batches}) AS groups
            ON (photos.batch_id, photos.photo_id, photos.sha256, coalesce(photos.original_uri, photos.image_uri))
                = (groups.batch_id, groups.photo_id, groups.sha256, groups.path)
        """  # noqa: S608 (all texts are quoted)

    @cached_property
    def _grouped_batches(self) -> frozenset[str]:
        try:
            return (
                grouped_batches(self._data_path) & set(self.batch_ids) if has_groups(self._data_path) else frozenset()
            )
        except StoreError as error:
            log.warning(_NO_GROUPS, error)
            return frozenset()

    @contextmanager
    def _explained(self, where: str | None) -> Iterator[None]:
        """Turn errors of DuckDB into those of this package."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            if _is_of_file(error):
                raise StoreError(f"{self._data_path / 'features'}: {_cause(error)}") from error
            of = "the query" if where is None else f"the filter {where!r}"
            raise QueryError(f"{of} cannot be used: {_cause(error)}") from error


def _name(word: str) -> str:
    """Return a name of SQL."""
    return '"' + word.replace('"', '""') + '"'


def _all_rows(files: Sequence[Path]) -> str:
    """Return the query of all rows of tables; columns that all of them lack are null."""
    empty = ", ".join(f"NULL::{_type(column.type)} AS {name}" for name, column in FEATURE_COLUMNS.items())
    query = f"SELECT {empty} WHERE false"
    if not files:
        return query
    return f"{query} UNION ALL BY NAME SELECT * FROM {_read(files, 'union_by_name = true')}"  # noqa: S608 (paths are quoted)


def _read(files: Iterable[Path], *options: str) -> str:
    """Return the call that reads tables; names of folders do not become columns."""
    paths = f"[{', '.join(map(literal, files))}]"
    return f"read_parquet({', '.join((paths, *options, 'hive_partitioning = false'))})"


def literal(value: object) -> str:
    """Return a text literal of SQL; NUL, which DuckDB's parser does not accept, becomes another character."""
    return "'" + str(value).replace("\0", "\ufffd").replace("'", "''") + "'"


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
