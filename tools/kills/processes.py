"""Run commands of the package in forks of one process that has imported everything, with fake models.

A run takes about a second; in a new process imports would take most of its time.

    python tools/kills/processes.py '[["process", "a.json"], ["materialize", "a.json"]]'

runs both at once in the current folder, and prints their exit codes as JSON; their output is in `{number}.log`.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # forking a process with threads is not safe

import importlib
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import PIL.Image

from curation_features import cli
from curation_features.pipeline import Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel

for name in (
    *("dagster", "pyarrow.parquet", "pywt", "requests", "rich.progress", "rich.table", "torch"),
    # Dagster imports these when an instance is opened and when a run begins: half of the time of a run.
    *("dagster._core.execution.execute_in_process", "dagster._core.execution.plan.active", "upath"),
    *("dagster._core.executor.in_process", "dagster._core.instance.factory", "dagster._core.instance.runs.run_domain"),
    *("dagster._core.storage.local_compute_log_manager", "dagster._core.storage.root", "fsspec.implementations.local"),
    *("dagster._core.storage.sqlite_storage", "huggingface_hub.constants", "numpy.ma", "pyarrow.compute"),
    *("dagster._core.secrets.loader", "curation_features.cli.results", "curation_features.processing"),
    *("curation_features.orchestration.launch", "curation_features.orchestration.project", "curation_features.service"),
):
    importlib.import_module(name)
PIL.Image.init()
cv2.setNumThreads(1)


def fake_models(*_: object) -> Models:
    """Return models that need no loading and give the same numbers in every process."""
    return Models(
        LazyModel.ready(FakeClipEngine(), "fake-clip"),
        LazyModel.ready(FakeQualityModel(), "fake-clip-iqa"),
        LazyModel.ready(FakeBrisque(), "fake-brisque"),
    )


def start(
    root: Path, arguments: Sequence[str], log: Path, *, before: Callable[[], None] = lambda: None, **environ: str
) -> int:
    """Start a command in a separate process group; returns its process id.

    Args:
        before: called in the new process before the command.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        os.chdir(root)
        os.environ.update(environ)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        Models.from_settings = fake_models  # type: ignore[method-assign]
        before()
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """Wait for a process; returns its exit code, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill(process: int) -> None:
    """Send SIGKILL to the process group."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or is not a group leader yet
        os.kill(process, signal.SIGKILL)


def main() -> None:
    """Run commands at once."""
    commands: list[list[str]] = json.loads(sys.argv[1])
    here = Path.cwd()
    processes = [start(here, command, here / f"{number}.log") for number, command in enumerate(commands)]
    print(json.dumps([wait(process) for process in processes]))


if __name__ == "__main__":
    main()
