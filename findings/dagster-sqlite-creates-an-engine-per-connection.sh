#!/usr/bin/env bash
# Dagster 1.13.27 (dagster==1.13.27, SQLAlchemy 2.1.9, alembic 1.20.1, Python 3.11 to 3.13; SQLite storage)
#
# Expected: an open instance keeps one SQLAlchemy engine per database file (runs, the index of events, and
# one per run), so each kind of statement is compiled once; the scripts of the schema migrations are read at most once
# per kind of storage.
#
# Behaviour: the SQLite storages create an engine for each connection and drop it. SQLAlchemy keeps compiled statements
# per engine, so each statement is compiled again. And each new run has a new database, which is stamped with the newest
# revision: alembic reads and imports all migration scripts of Dagster again for it. Together this is about a third of
# the CPU time of a short run in process. A run of one asset without work, on a warm instance:
#
# Seen:
#   run 1: more than 30 engines for 3 databases, migration scripts read: yes
#   run 2: more than 30 engines for 3 databases, migration scripts read: yes
#   run 3: more than 30 engines for 3 databases, migration scripts read: yes
#
# Remedy for a process of many short runs, such as a test suite: keep the engines by URL, and
# `alembic.script.ScriptDirectory.from_config` by configuration.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "dagster==1.13.27" "sqlalchemy==2.1.9" "alembic==1.20.1"
mkdir "$work/home"
echo 'telemetry: {enabled: false}' > "$work/home/dagster.yaml"
cat > "$work/count.py" <<'PYTHON'
import logging
import sys

import dagster as dg
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from sqlalchemy import create_engine

logging.disable(logging.CRITICAL)
engines: list[str] = []
reads: list[object] = []
read = ScriptDirectory.from_config


def create(url, **options):
    engines.append(str(url))
    return create_engine(url, **options)


def read_scripts(config):
    reads.append(config)
    return read(config)


for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
    module.create_engine = create
ScriptDirectory.from_config = read_scripts


@dg.asset
def nothing() -> None:
    """Does no work."""


with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    for number in range(4):
        engines.clear()
        reads.clear()
        assert dg.materialize([nothing], instance=instance).success
        print(len(engines), len(set(engines)), len(reads), file=sys.stderr)
        if number:  # the first run creates the databases
            many = "more" if len(engines) > 30 else "not more"
            was_read = "yes" if reads else "no"
            print(f"run {number}: {many} than 30 engines for {len(set(engines))} databases, migration scripts read: {was_read}")
PYTHON
"$work/venv/bin/python" -W ignore "$work/count.py" "$work/home" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
run 1: more than 30 engines for 3 databases, migration scripts read: yes
run 2: more than 30 engines for 3 databases, migration scripts read: yes
run 3: more than 30 engines for 3 databases, migration scripts read: yes
SEEN
