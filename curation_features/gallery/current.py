"""The tables of all finished batches as they are now: opened again when a batch is finished, made again or deleted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from curation_features.errors import StoreError
from curation_features.search.tables import Tables
from curation_features.storage.groups import groups_path

T = TypeVar("T")

QUERY_S = 20.0
_LISTING_S = 2.0  # between two looks at the folder
_KEPT_VIEWS = 12


class CurrentTables:
    """Answers questions about the tables, one after the other, on one thread.

    Args:
        data_path: the data folder.
        query_s: a question that takes longer is stopped.
    """

    def __init__(self, data_path: Path, query_s: float = QUERY_S) -> None:
        self._data_path = data_path
        self._query_s = query_s
        self._thread = ThreadPoolExecutor(1, "tables")
        self._opened: OpenTables | None = None
        self._looked = 0.0

    async def ask(self, question: Callable[[OpenTables], T]) -> T:
        """Return the answer to a question.

        Raises:
            QueryError: a filter is wrong, or takes too long.
            StoreError: a table cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.answer, question)

    def answer(self, question: Callable[[OpenTables], T]) -> T:
        """Return the answer to a question, on this thread. Raises like `ask`."""
        try:
            return self._limited(question, self._current())
        except StoreError:  # a batch was deleted meanwhile
            self._looked = 0.0
            return self._limited(question, self._current())

    def close(self) -> None:
        """Stop the running question, and close the tables."""
        if self._opened is not None:
            self._opened.tables.interrupt()
        self._thread.shutdown(cancel_futures=True)
        if self._opened is not None:
            self._opened.close()

    def _limited(self, question: Callable[[OpenTables], T], opened: OpenTables) -> T:
        with opened.tables.limited(self._query_s):
            return question(opened)

    def _current(self) -> OpenTables:
        now = time.monotonic()
        if self._opened is None or now - self._looked > _LISTING_S:
            version = _listing_version(self._data_path)
            if self._opened is None or self._opened.version != version:
                if self._opened is not None:
                    self._opened.close()
                    self._opened = None
                self._opened = OpenTables(Tables(self._data_path), version)
            self._looked = now
        return self._opened


class OpenTables:
    """Tables of one state of the data folder, and the selections that are kept.

    Attributes:
        version: digest of the listing.
    """

    def __init__(self, tables: Tables, version: str) -> None:
        self.tables = tables
        self.version = version
        self._kept: OrderedDict[str, int] = OrderedDict()

    def keep(self, name: str, make: Callable[[], int]) -> int:
        """Return the number of rows that `make` keeps under a name; it is called if they are not kept yet."""
        if name not in self._kept:
            self._kept[name] = make()
            while len(self._kept) > _KEPT_VIEWS:
                self.tables.forget(self._kept.popitem(last=False)[0])
        self._kept.move_to_end(name)
        return self._kept[name]

    def close(self) -> None:
        """Close the tables."""
        self.tables.__exit__()


def _listing_version(data_path: Path) -> str:
    """Return a digest of the finished batches and groups: names, sizes and times of their files."""
    found = []
    with suppress(FileNotFoundError), os.scandir(data_path / "features") as entries:
        for entry in entries:
            if entry.name.endswith((".json", ".parquet")):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ino))
    with suppress(FileNotFoundError):
        status = groups_path(data_path).stat()
        found.append(("", status.st_size, status.st_mtime_ns, status.st_ino))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:16]
