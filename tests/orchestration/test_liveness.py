"""Runs whose process died are distinguished from runs that are alive."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import should_retry

from curation_features.orchestration.liveness import alive, fail_dead_runs, silent_runs

pytestmark = pytest.mark.long


def started(pipeline, job_name: str = "extract_features") -> dg.DagsterRun:
    job = pipeline.definitions().resolve_job_def("extract_features")
    return pipeline.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)


def killed(pipeline, run: dg.DagsterRun) -> None:
    """Run a process that locks a run, and kill it."""
    program = """
        import os, signal, sys
        import dagster as dg
        from curation_features.orchestration.liveness import alive
        with dg.DagsterInstance.from_config(sys.argv[1]) as instance, alive(instance, sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), pipeline.instance.root_directory, run.run_id]
    assert subprocess.run(command).returncode == -9


def test_a_killed_run_is_marked_as_failed_at_the_second_look(pipeline) -> None:
    run = started(pipeline)
    killed(pipeline, run)
    assert fail_dead_runs(pipeline.instance, []) == ([], [run.run_id])
    assert pipeline.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.STARTED
    assert fail_dead_runs(pipeline.instance, [run.run_id]) == ([run.run_id], [])
    assert pipeline.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert fail_dead_runs(pipeline.instance, [run.run_id]) == ([], [])


def test_a_dead_run_is_retried_once_its_event_is_stored(pipeline, monkeypatch) -> None:
    """Dagster's daemon reads each failure event once: the run must have failed by then, or it is never retried."""
    run = started(pipeline)
    killed(pipeline, run)
    storage, decisions = pipeline.instance.event_log_storage, []
    store_event = storage.store_event

    def store_and_look(event: dg.EventLogEntry) -> None:
        store_event(event)
        if event.dagster_event_type is dg.DagsterEventType.RUN_FAILURE:
            decisions.append(should_retry(pipeline.instance.get_run_by_id(run.run_id), pipeline.instance))

    monkeypatch.setattr(storage, "store_event", store_and_look)
    assert fail_dead_runs(pipeline.instance, [run.run_id]) == ([run.run_id], [])
    assert decisions == [True]


def test_a_run_that_is_alive_is_left_alone(pipeline) -> None:
    run = started(pipeline)
    with alive(pipeline.instance, run.run_id):
        program = "import sys, dagster as dg; from curation_features.orchestration.liveness import silent_runs\n"
        program += "with dg.DagsterInstance.from_config(sys.argv[1]) as instance: print(silent_runs(instance))"
        command = [sys.executable, "-c", program, pipeline.instance.root_directory]
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "[]"


def test_a_run_that_has_just_begun_or_ended_is_not_silent(pipeline) -> None:
    started(pipeline)
    assert silent_runs(pipeline.instance) == []
    assert pipeline.run().success
    assert silent_runs(pipeline.instance) == []
    assert list((Path(pipeline.instance.root_directory) / "running").iterdir()) == []
