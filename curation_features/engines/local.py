"""The engine `local`: processes on this machine, each with a share of the cores, or with a GPU.

Each process is a fresh interpreter, which imports no module of the caller, inherits no lock and pickles nothing. It
loads the models once and gets one shard after the other. If it dies within a shard, a new process tries the shard
again.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from curation_features.engines.executor import Shard, ShardResult, Work
from curation_features.engines.placement import Placement, Slot, place, this_machine
from curation_features.engines.registry import EngineOptions
from curation_features.engines.worker_process import WorkerProcess
from curation_features.errors import (
    CurationError,
    InvalidWeightsError,
    MissingWeightsError,
    ResourceError,
    SettingsError,
    WeightsError,
)

RETRIES = 1
"""How often a shard is tried again whose process died."""

_FAILED_STARTS = 3  # in a row, after which no process can be started

log = logging.getLogger("curation_features.engines")


def local_engine(options: EngineOptions) -> LocalEngine:
    """Create the engine, placed on this machine."""
    placement = place(this_machine(options.settings), options.processes, options.weights_bytes)
    return LocalEngine(placement, progress=options.progress)


class LocalEngine:
    """An `Executor` of processes on this machine.

    Args:
        placement: the place of each process.
        progress: see `EngineOptions`.
        retries: how often a shard is tried again whose process died.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        progress: Callable[[int, bool], None] = lambda photos, worked: None,
        retries: int = RETRIES,
    ) -> None:
        self.description = placement.description
        self._slots = placement.slots
        self._progress = progress
        self._retries = retries

    def run(self, shards: Sequence[Shard], work: Work) -> Iterator[ShardResult]:
        """Process shards in order, one per process at a time; see `Executor`."""
        return _Run(shards, work, self._slots, self._progress, self._retries).results()


@dataclass
class _Task:
    """A shard and what has happened to it.

    Attributes:
        wait: wait for another process that works on the shard.
        deaths: number of processes that died within it.
        counted: photos of the current attempt; `shown`: photos that were reported as progress.
    """

    shard: Shard
    wait: bool = False
    deaths: int = 0
    counted: int = 0
    shown: int = 0


@dataclass
class _Worker:
    """A process in its slot, and its shard.

    Attributes:
        task: the shard that it processes; before it is ready, the one that it is started for, or None.
    """

    number: int
    process: WorkerProcess
    task: _Task | None = None
    is_ready: bool = False


class _Run:
    """One run over shards."""

    def __init__(
        self,
        shards: Sequence[Shard],
        work: Work,
        slots: Sequence[Slot],
        progress: Callable[[int, bool], None],
        retries: int,
    ) -> None:
        self._work = work
        self._slots = slots
        self._progress = progress
        self._retries = retries
        self._waiting = deque(map(_Task, shards))
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0

    def results(self) -> Iterator[ShardResult]:
        """Yield the result of each shard."""
        left = len(self._waiting)
        try:
            for number in range(min(len(self._slots), left)):
                self._start(number, None)
            while left:
                for key, _ in self._selector.select():
                    for result in self._handle(key.data):
                        left -= 1
                        yield result
        finally:
            self._selector.close()
            for worker in self._workers:
                worker.process.end()
            for worker in self._workers:
                worker.process.close()

    def _start(self, number: int, task: _Task | None) -> None:
        """Start a process in a slot, for a shard or for the next one."""
        process = WorkerProcess(self._work, _environ(self._slots[number]), log.getEffectiveLevel())
        worker = _Worker(number, process, task)
        self._workers.append(worker)
        self._selector.register(process.connection, selectors.EVENT_READ, worker)

    def _handle(self, worker: _Worker) -> Iterator[ShardResult]:
        """Handle the messages of a process, or its end."""
        messages = worker.process.receive()
        if messages is None:
            self._selector.unregister(worker.process.connection)
            self._workers.remove(worker)
            yield from self._died(worker, worker.process.close())
            return
        for message in messages:
            yield from self._obey(worker, message)

    def _obey(self, worker: _Worker, message: Mapping[str, Any]) -> Iterator[ShardResult]:
        task = worker.task
        if "log" in message:
            name, level, text = message["log"]
            logging.getLogger(name).log(level, "%s", text)
        elif "fatal" in message:
            raise _error_of(*message["fatal"])
        elif "ready" in message:
            worker.is_ready, self._failed_starts = True, 0
            self._give(worker, task)
        elif task is not None and "photos" in message:
            task.counted += message["photos"]
            self._show(task, task.counted, worked=True)
        elif task is not None and "busy" in message:
            task.wait = True
            self._waiting.append(task)
            self._give(worker, None)
        elif task is not None and "result" in message:
            result = ShardResult(**message["result"])
            self._show(task, task.shard.photos, worked=result.state == "done")
            self._give(worker, None)
            log.info("Shard %s: %s", task.shard.batch_id, describe(result))
            yield result

    def _give(self, worker: _Worker, task: _Task | None) -> None:
        """Give a process its next shard; without one it waits, and is closed at the end."""
        worker.task = task or (self._waiting.popleft() if self._waiting else None)
        if worker.task is not None:
            worker.task.counted = 0
            worker.process.send({"shard": worker.task.shard.to_json(), "wait": worker.task.wait})

    def _show(self, task: _Task, photos: int, *, worked: bool) -> None:
        """Report photos as progress, each once although a shard may be tried again."""
        if photos > task.shown:
            self._progress(photos - task.shown, worked)
            task.shown = photos

    def _died(self, worker: _Worker, code: int) -> Iterator[ShardResult]:
        """Replace a process that died; its shard is tried again, or has failed."""
        task, cause = worker.task, _explain(code)
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise ResourceError(
                    f"no process can be started: {_FAILED_STARTS} ended at once, the last one {cause}; free memory, "
                    "or use fewer processes (--processes)"
                )
        elif task is not None:
            task.deaths += 1
            if task.deaths > self._retries:
                reason = f"its process died {task.deaths} times, the last one {cause}"
                result = ShardResult(task.shard.batch_id, "failed", reason, photos=task.shard.photos)
                self._show(task, task.shard.photos, worked=False)
                log.warning("Shard %s: %s", task.shard.batch_id, describe(result))
                task = None
                yield result
            else:
                log.warning("Shard %s: its process ended %s; it is tried again", task.shard.batch_id, cause)
        if task is not None or self._waiting:
            self._start(worker.number, task)


def describe(result: ShardResult) -> str:
    """Describe a result in a line."""
    state = result.state.replace("_", " ")
    statuses = ", ".join(f"{count} {status}" for status, count in result.statuses.items() if count)
    return f"{state}, {result.photos} photos in {result.seconds:.1f} s{f': {result.reason or statuses}'}"


def _environ(slot: Slot) -> dict[str, str]:
    """Return the environment of a slot; threads that the user has limited further stay so."""
    environ = dict(os.environ)
    for name, value in slot.environ.items():
        own = environ.get(name, "")
        is_lower = own.isdecimal() and value.isdecimal() and 0 < int(own) < int(value)
        environ[name] = own if name != "CUDA_VISIBLE_DEVICES" and is_lower else value
    return environ


def _error_of(name: str, message: str) -> CurationError:
    """Return the error of a process that can process no shard."""
    kinds: Mapping[str, Callable[[str], CurationError]] = {
        "SettingsError": SettingsError,
        "MissingExtraError": SettingsError,
        "MissingWeightsError": MissingWeightsError,
        "InvalidWeightsError": InvalidWeightsError,
        "WeightsError": lambda text: WeightsError("load_failed", text),
    }
    return kinds.get(name, CurationError)(message)


def _explain(code: int) -> str:
    """Describe an exit code."""
    if code == -signal.SIGKILL:
        return "by SIGKILL (out of memory, or killed by a user)"
    with suppress(ValueError):
        if code < 0:
            return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"
