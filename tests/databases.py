"""Dagster's SQLite databases are quicker for runs in the tests' own process; other processes use Dagster as it is.

For each statement Dagster creates an engine, opens a connection, flushes the file and closes the connection: together
half of the time of a short run. It also creates a database with all its tables for each run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from dagster import DagsterInstance
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from sqlalchemy import Engine, create_engine, event


class Engines:
    """The engines of all open databases; each keeps its connection and its compiled statements."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def get(self, url: str, **options: Any) -> Engine:
        """In place of `create_engine`; without Dagster's pool, which closes each connection after use."""
        if url not in self._engines:
            options.pop("poolclass", None)
            engine = self._engines[url] = create_engine(url, **options)
            event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
            engine.dispose = lambda *_, **__: None  # Dagster calls it after each statement
        return self._engines[url]

    def close(self) -> None:
        """Close all connections that are not in use."""
        for engine in self._engines.values():
            Engine.dispose(engine)
        self._engines.clear()


@pytest.fixture(scope="session", autouse=True)
def quick_databases() -> Iterator[None]:
    """Keep connections open until an instance is closed; copy the database of an earlier run for a new one."""
    engines = Engines()
    create, dispose = SqliteEventLogStorage._initdb, DagsterInstance.dispose
    created: dict[bool, bytes] = {}

    def copied(storage: SqliteEventLogStorage, engine: Engine, for_index_shard: bool = False) -> None:
        path = Path(engine.url.database or "")
        if path.exists():
            create(storage, engine, for_index_shard)
        elif for_index_shard in created:
            path.write_bytes(created[for_index_shard])
        else:
            create(storage, engine, for_index_shard)
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            created[for_index_shard] = path.read_bytes()

    def disposed(instance: DagsterInstance) -> None:
        dispose(instance)
        engines.close()

    with pytest.MonkeyPatch.context() as patched:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            patched.setattr(module, "create_engine", engines.get)
        patched.setattr(ScriptDirectory, "from_config", functools.cache(ScriptDirectory.from_config))
        patched.setattr(SqliteEventLogStorage, "_initdb", copied)
        patched.setattr(DagsterInstance, "dispose", disposed)
        yield
    engines.close()
