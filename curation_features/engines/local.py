"""The engine `local`: processes on this machine, each with a share of the cores, or with a GPU.

Each process is a fresh interpreter, which imports no module of the caller, inherits no lock and pickles nothing. It
loads the models once and gets one shard after the other. If it dies within a shard, a new process tries the shard
again.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from curation_features.engines.dispatch import RETRIES, Died, Dispatch
from curation_features.engines.executor import Shard, ShardResult, Work
from curation_features.engines.placement import Placement, Slot, place, this_machine
from curation_features.engines.registry import EngineOptions
from curation_features.engines.worker_process import WorkerProcess


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
        return Dispatch(shards, work, _LocalProcesses(self._slots), self._progress, self._retries).results()


class _LocalProcesses:
    """Implements `Processes` on this machine."""

    remedy = "free memory, or use fewer processes (--processes)"

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = len(slots)
        self._environs = [_environ(slot) for slot in slots]
        self._processes: dict[int, WorkerProcess] = {}
        self._selector = selectors.DefaultSelector()

    def start(self, slot: int, work: Work, level: int) -> None:
        """Start a process."""
        process = self._processes[slot] = WorkerProcess(work, self._environs[slot], level)
        self._selector.register(process.connection, selectors.EVENT_READ, slot)

    def send(self, slot: int, message: Mapping[str, Any]) -> None:
        """Send a message."""
        self._processes[slot].send(message)

    def receive(self) -> Sequence[tuple[int, Sequence[Mapping[str, Any]] | Died]]:
        """Wait for messages."""
        return [(key.data, self._received(key.data)) for key, _ in self._selector.select()]

    def _received(self, slot: int) -> Sequence[Mapping[str, Any]] | Died:
        messages = self._processes[slot].receive()
        if messages is not None:
            return messages
        process = self._processes.pop(slot)
        self._selector.unregister(process.connection)
        return Died(_explain(process.close()))

    def close(self) -> None:
        """End all processes."""
        self._selector.close()
        for process in self._processes.values():
            process.end()
        for process in self._processes.values():
            process.close()


def _environ(slot: Slot) -> dict[str, str]:
    """Return the environment of a slot; threads that the user has limited further stay so."""
    environ = dict(os.environ)
    for name, value in slot.environ.items():
        own = environ.get(name, "")
        is_lower = own.isdecimal() and value.isdecimal() and 0 < int(own) < int(value)
        environ[name] = own if name != "CUDA_VISIBLE_DEVICES" and is_lower else value
    return environ


def _explain(code: int) -> str:
    """Describe an exit code."""
    if code == -signal.SIGKILL:
        return "by SIGKILL (out of memory, or killed by a user)"
    with suppress(ValueError):
        if code < 0:
            return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"
