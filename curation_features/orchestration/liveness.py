"""Detect runs whose process died.

Each run holds a file lock, which the operating system releases when the process ends. Dagster's code server notices the
death of a run that it started. If both die at once, as when the machine restarts, nothing does: the run stays started
indefinitely and keeps its slot in the pool.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

_UNLOCKED_S = 600.0
"""A run without a lock file counts as dead after this time. Its step creates the file first and deletes it last."""


@contextmanager
def alive(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Hold the lock of a run; the run continues without it if it cannot be acquired."""
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
    """Ids of started runs whose lock is free; briefly includes a run that is just ending."""
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    return [
        record.dagster_run.run_id
        for record in instance.get_run_records(started)
        if _is_ours(record.dagster_run) and _is_silent(instance, record)
    ]


def fail_dead_runs(instance: dg.DagsterInstance, suspects: Collection[str]) -> tuple[list[str], list[str]]:
    """Mark runs as failed that were silent in two successive calls.

    Args:
        suspects: ids that the previous call returned.

    Returns:
        The ids of the failed runs, which Dagster may retry, and the new suspects.
    """
    silent = silent_runs(instance)
    dead = [run_id for run_id in silent if run_id in suspects]
    for run_id in dead:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is dg.DagsterRunStatus.STARTED:
            _fail(instance, run)
            with suppress(OSError):
                _lock_path(instance, run_id).unlink(missing_ok=True)
    return dead, [run_id for run_id in silent if run_id not in dead]


def _fail(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Mark a run as failed: first its status, then the event.

    `report_run_failed` does the opposite. If Dagster's daemon reads the event before the status, it does not retry the
    run, and never reads the event again.
    """
    message = "The process of this run died: it was killed, or the machine restarted."
    failure = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name, message=message)
    instance.run_storage.handle_run_event(run.run_id, failure, datetime.now(UTC))
    instance.report_run_failed(run, message)


def _is_ours(run: dg.DagsterRun) -> bool:
    return run.job_name == "extract_features" or run.job_name.startswith("__ASSET_JOB")


def _is_silent(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    path = _lock_path(instance, record.dagster_run.run_id)
    if not path.exists():  # not started, ended, or on another machine if several share the storage
        started = record.start_time or time.time()
        return "Sqlite" in type(instance.run_storage).__name__ and time.time() - started > _UNLOCKED_S
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            return True
    except (Timeout, OSError):
        return False


def _lock_path(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(os.path.abspath(instance.root_directory)) / "running" / f"{run_id}.lock"  # noqa: PTH100
