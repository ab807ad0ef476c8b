"""Gives shards to the processes of an engine, and survives their deaths: the part that all engines share."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from curation_features.engines.executor import Shard, ShardResult, Work
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


@dataclass(frozen=True, slots=True)
class Died:
    """The end of a process. `cause` completes "ended ...", as in "by SIGKILL"."""

    cause: str


class Processes(Protocol):
    """Processes that run `worker.serve`, at most one in each slot.

    Attributes:
        slots: number of slots.
        remedy: advice if no process can be started.
    """

    slots: int
    remedy: str

    def start(self, slot: int, work: Work, level: int) -> None:
        """Start a process in a free slot.

        Args:
            level: of its logging.

        Raises:
            ResourceError: it cannot be started.
        """

    def send(self, slot: int, message: Mapping[str, Any]) -> None:
        """Send a message to the process of a slot."""

    def receive(self) -> Sequence[tuple[int, Sequence[Mapping[str, Any]] | Died]]:
        """Wait; return what the processes of some slots have sent. A process that died has left its slot."""

    def close(self) -> None:
        """End all processes at once."""


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
    """A process, and its shard.

    Attributes:
        task: the shard that it processes; before it is ready, the one that it is started for, or None.
    """

    slot: int
    task: _Task | None = None
    is_ready: bool = False


class Dispatch:
    """One run over shards: in order, one per process at a time.

    Args:
        processes: those of the engine; closed at the end.
        progress: see `EngineOptions`.
        retries: how often a shard is tried again whose process died.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        work: Work,
        processes: Processes,
        progress: Callable[[int, bool], None],
        retries: int = RETRIES,
    ) -> None:
        self._work = work
        self._processes = processes
        self._progress = progress
        self._retries = retries
        self._waiting = deque(map(_Task, shards))
        self._workers: dict[int, _Worker] = {}
        self._failed_starts = 0

    def results(self) -> Iterator[ShardResult]:
        """Yield the result of each shard; see `Executor.run`."""
        left = len(self._waiting)
        try:
            for slot in range(min(self._processes.slots, left)):
                self._start(slot, None)
            while left:
                for slot, messages in self._processes.receive():
                    for result in self._handle(self._workers[slot], messages):
                        left -= 1
                        yield result
        finally:
            self._processes.close()

    def _start(self, slot: int, task: _Task | None) -> None:
        """Start a process in a slot, for a shard or for the next one."""
        self._workers[slot] = _Worker(slot, task)
        self._processes.start(slot, self._work, log.getEffectiveLevel())

    def _handle(self, worker: _Worker, messages: Sequence[Mapping[str, Any]] | Died) -> Iterator[ShardResult]:
        """Handle the messages of a process, or its end."""
        if isinstance(messages, Died):
            yield from self._died(worker, messages.cause)
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
            self._processes.send(worker.slot, {"shard": worker.task.shard.to_json(), "wait": worker.task.wait})

    def _show(self, task: _Task, photos: int, *, worked: bool) -> None:
        """Report photos as progress, each once although a shard may be tried again."""
        if photos > task.shown:
            self._progress(photos - task.shown, worked)
            task.shown = photos

    def _died(self, worker: _Worker, cause: str) -> Iterator[ShardResult]:
        """Replace a process that died; its shard is tried again, or has failed."""
        task = worker.task
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise ResourceError(
                    f"no process can be started: {_FAILED_STARTS} ended at once, the last one {cause}; "
                    f"{self._processes.remedy}"
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
            self._start(worker.slot, task)


def describe(result: ShardResult) -> str:
    """Describe a result in a line."""
    state = result.state.replace("_", " ")
    statuses = ", ".join(f"{count} {status}" for status, count in result.statuses.items() if count)
    return f"{state}, {result.photos} photos in {result.seconds:.1f} s{f': {result.reason or statuses}'}"


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
