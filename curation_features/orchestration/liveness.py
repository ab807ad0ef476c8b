"""Runs whose process is gone: told by a lock that the operating system gives back, whatever has ended the process.

Dagster's code server notices when a run that it started dies. Where both die at once (a restart of the machine) nobody
does: the run counts as started for ever, and keeps its place in the pool.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

_UNLOCKED_S = 600.0
"""How long a run may be started without its lock: it is taken when the step begins, and given back when it ends."""


@contextmanager
def alive(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Hold the lock of a run; where none can be had, the run goes on without."""
    path = _lock_path(instance, run_id)
    lock = FileLock(path)
    with suppress(OSError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def silent_runs(instance: dg.DagsterInstance) -> list[str]:
    """Started runs of which no process holds the lock. One that is just ending is among them for a moment."""
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    return [
        record.dagster_run.run_id
        for record in instance.get_run_records(started)
        if _is_ours(record.dagster_run) and _is_silent(instance, record)
    ]


def fail_dead_runs(instance: dg.DagsterInstance, suspects: Collection[str]) -> tuple[list[str], list[str]]:
    """Mark as failed the silent runs that were silent the last time as well.

    Args:
        suspects: the runs that were silent the last time.

    Returns:
        The runs marked as failed, which run retries may start again, and the new suspects.
    """
    silent = silent_runs(instance)
    dead = [run_id for run_id in silent if run_id in suspects]
    for run_id in dead:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(run, "The process of this run is gone: it was killed, or the machine restarted.")
            with suppress(OSError):
                _lock_path(instance, run_id).unlink(missing_ok=True)
    return dead, [run_id for run_id in silent if run_id not in dead]


def _is_ours(run: dg.DagsterRun) -> bool:
    return run.job_name == "extract_features" or run.job_name.startswith("__ASSET_JOB")


def _is_silent(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    path = _lock_path(instance, record.dagster_run.run_id)
    if not path.exists():  # not begun, ended, or at work on another machine, if the storage is shared by several
        begun = record.start_time or time.time()
        return "Sqlite" in type(instance.run_storage).__name__ and time.time() - begun > _UNLOCKED_S
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            return True
    except (Timeout, OSError):
        return False


def _lock_path(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(os.path.abspath(instance.root_directory)) / "running" / f"{run_id}.lock"  # noqa: PTH100
