"""Writes record batches as Parquet files of limited size, in large row groups."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curation_features.dataset.targets import Target
from curation_features.storage.tables import METADATA_KEY

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 122_880
"""Rows of a row group, the number that DuckDB writes and recommends (its guide to file formats)."""
BYTES_PER_GROUP = 1 << 27
"""Size of a row group in memory, at which it ends earlier: readers hold a whole one."""
_BYTES_PER_CHUNK = 512  # of page headers, and of the footer with statistics, for a column of a row group

Versions = tuple[tuple[str, str], ...]
"""Parts of results and their versions, of a row."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Most rows and bytes of a file; one with a single row group may have more bytes."""

    rows: float = math.inf
    bytes: float = math.inf


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a dataset; `name` is relative to the dataset's folder."""

    name: str
    rows: int
    bytes: int


class PartsWriter:
    """Writes one table as files `part-00000.parquet`, `part-00001.parquet`, ... in constant memory.

    Every method raises `StoreError` if a file cannot be written.

    Args:
        name_of: the name of a file by its number.
        describe: the metadata of a file, of the number of its rows by their versions.
        parquet: options of `pyarrow.parquet.ParquetWriter`.

    Attributes:
        parts: the finished files.
        versions: number of written rows by their versions.
    """

    def __init__(
        self,
        target: Target,
        name_of: Callable[[int], str],
        schema: pa.Schema,
        limits: Limits,
        describe: Callable[[Mapping[Versions, int]], Mapping[str, Any]],
        parquet: Mapping[str, Any],
    ) -> None:
        self.parts: list[Part] = []
        self.versions: Counter[Versions] = Counter()
        self._target, self._name_of, self._schema, self._describe = target, name_of, schema, describe
        self._limits, self._parquet = limits, parquet
        self._group: list[pa.RecordBatch] = []
        self._group_bytes = 0
        self._group_versions: Counter[Versions] = Counter()
        self._closing = ExitStack()
        self._file: pa.NativeFile = None  # None: the next group begins a file
        self._writer: Any = None
        self._file_groups = 0
        self._file_versions: Counter[Versions] = Counter()
        self._schema_bytes = 4 * schema.serialize().size // 3  # in the footer, in base64

    @property
    def rows(self) -> int:
        """Number of rows in finished files."""
        return sum(part.rows for part in self.parts)

    def add(self, rows: pa.RecordBatch, versions: Versions) -> None:
        """Add rows of one version."""
        while rows.num_rows:
            count = min(rows.num_rows, self._room())
            self._group.append(rows.slice(0, count))
            self._group_bytes += self._group[-1].nbytes
            self._group_versions[versions] += count
            rows = rows.slice(count)
            if not self._room() or self._group_bytes >= BYTES_PER_GROUP:
                self._write_group()

    def finish(self) -> None:
        """Write the last rows, and close the file. A table without rows has one file."""
        if self._group or not (self.parts or self._file):
            self._write_group()
        self._end_file()

    def abandon(self) -> None:
        """Close the file of an interrupted run."""
        with suppress(Exception):  # pyarrow raises again what interrupted it
            self._closing.close()

    def _room(self) -> int:
        """Rows that the present group and file can still take."""
        left = self._limits.rows - self._file_versions.total()
        return int(min(ROWS_PER_GROUP, left)) - self._group_versions.total()

    def _size_with_group(self) -> int:
        """An upper limit of the file's size, if it ended after the present group."""
        columns = len(self._schema) * (self._file_groups + 1)
        size: int = self._file.tell() + self._group_bytes + self._schema_bytes + columns * _BYTES_PER_CHUNK
        return size

    def _write_group(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_batches(self._group, self._schema)
        with self._target.writing(self._name_of(len(self.parts))):
            if self._file is not None and self._size_with_group() > self._limits.bytes:
                self._end_file()
            if self._file is None:
                self._begin_file()
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._file_groups += 1
        self._file_versions += self._group_versions
        self._group, self._group_bytes, self._group_versions = [], 0, Counter()
        if self._file_versions.total() >= self._limits.rows:
            self._end_file()

    def _begin_file(self) -> None:
        import pyarrow.parquet as pq

        # If `ParquetWriter` opened the file, a failed last write would leave it open.
        self._file = self._closing.enter_context(self._target.open(self._name_of(len(self.parts))))
        writer = pq.ParquetWriter(self._file, self._schema, **self._parquet)
        self._writer = self._closing.enter_context(writer)

    def _end_file(self) -> None:
        if self._file is None:
            return
        name = self._name_of(len(self.parts))
        metadata = {METADATA_KEY: json.dumps(self._describe(self._file_versions), sort_keys=True).encode()}
        with self._target.writing(name):
            self._writer.add_key_value_metadata(metadata)
            self._writer.close()
            size = self._file.tell()
            self._closing.close()
        self.parts.append(Part(name, self._file_versions.total(), size))
        self.versions += self._file_versions
        self._file, self._file_groups, self._file_versions = None, 0, Counter()
