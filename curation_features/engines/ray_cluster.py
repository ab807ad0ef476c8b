"""The engine `ray`: actors on a Ray cluster, or on a Ray that starts on this machine.

An actor is a process that loads the models once and gets one shard after the other, as those of `local` do. Only JSON
passes through Ray, and results are files: the data folder must be shared by the driver and all nodes, under one path.
The death of an actor is handled here; Ray's own restarts and retries are off, because they would not know the shard.
"""

from __future__ import annotations

import logging
import os
import socket
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from curation_features import __version__
from curation_features.engines.dispatch import RETRIES, Died, Dispatch
from curation_features.engines.executor import Shard, ShardResult, Work
from curation_features.engines.ray_actor import ShardActor
from curation_features.engines.ray_placement import ActorSlot, place_actors
from curation_features.engines.registry import EngineOptions
from curation_features.errors import SettingsError

_PENDING_S = 60.0  # after which a run without a ready process says so
_ENDS_WITHIN_S = 5.0
_ANSWERS_WITHIN_S = 10.0
_CAUSE = 300  # characters of Ray's explanation

log = logging.getLogger("curation_features.engines")


def ray_engine(options: EngineOptions) -> RayEngine:
    """Create the engine; `run` connects it."""
    return RayEngine(options)


class RayEngine:
    """An `Executor` of actors on the cluster of `RAY_ADDRESS`, on a Ray of this machine, or on one that it starts."""

    def __init__(self, options: EngineOptions) -> None:
        self.description = "Ray, not connected"
        self._options = options

    def run(self, shards: Sequence[Shard], work: Work) -> Iterator[ShardResult]:
        """Process shards in order, one per actor at a time; see `Executor`.

        Raises:
            SettingsError: the cluster cannot be joined.
        """
        is_ours = not ray.is_initialized()
        if is_ours:
            _connect()
        try:
            uses_gpus = self._options.settings.device in ("auto", "cuda")
            slots = place_actors(ray.nodes(), self._options.processes, self._options.weights_bytes, uses_gpus)
            self.description = _describe(slots)
            yield from Dispatch(shards, work, _Actors(slots), self._options.progress, RETRIES).results()
        finally:
            if is_ours:
                ray.shutdown()


def _describe(slots: Sequence[ActorSlot]) -> str:
    count, nodes, gpus = len(slots), len({slot.node for slot in slots}), sum(slot.gpus for slot in slots)
    kind = f"{gpus:g} GPUs" if gpus else "CPUs"
    return f"{count} Ray {'actor' if count == 1 else 'actors'} on {kind} of {nodes} {'node' if nodes == 1 else 'nodes'}"


def _connect() -> None:
    """Connect to Ray, or start it. It sends no usage statistics, and starts no dashboard.

    Raises:
        SettingsError: the cluster cannot be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    given: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _check_reachable(address)
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **given)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, its own ones and others
        where = f"of {address}" if address else "on this machine"
        remedy = (
            "RAY_ADDRESS names the cluster; it needs the driver's release of Ray and Python, and the cluster's token "
            "in RAY_AUTH_TOKEN, or in the file of RAY_AUTH_TOKEN_PATH (Ray 2.60 asks for one by default)"
        )
        raise SettingsError(f"the Ray {where} cannot be used: {_shorten(error)}; {remedy}") from error


def _check_reachable(address: str) -> None:
    """Raise `OSError` if no process listens at an address: Ray would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()


class _Actors:
    """Implements `Processes` by Ray actors."""

    remedy = "each node needs this release of curation-features with the same extras, and enough memory"

    def __init__(self, slots: Sequence[ActorSlot]) -> None:
        self.slots = len(slots)
        self._places = slots
        self._class = ray.remote(ShardActor)
        self._actors: dict[int, Any] = {}
        self._taking: dict[Any, int] = {}  # by the reference of the awaited messages
        self._has_received = False

    def start(self, slot: int, work: Work, level: int) -> None:
        """Create an actor."""
        place = self._places[slot]
        self._actors[slot] = self._class.options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
            runtime_env={"env_vars": dict(place.environ)},
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=True),
        ).remote(__version__)
        self.send(slot, {"function": work.function, "settings": dict(work.settings), "level": level})
        self._take(slot)

    def send(self, slot: int, message: Mapping[str, Any]) -> None:
        """Send a message; that the actor has died is noticed by `receive`."""
        self._actors[slot].post.remote(dict(message))

    def receive(self) -> Sequence[tuple[int, Sequence[Mapping[str, Any]] | Died]]:
        """Wait for messages."""
        timeout = None if self._has_received else _PENDING_S
        ready, _ = ray.wait([*self._taking], num_returns=1, timeout=timeout)
        if not ready and not self._has_received:
            log.warning(
                "No Ray actor is ready after %.0f s: it imports its libraries, or waits for resources; %s are free",
                _PENDING_S,
                _free(),
            )
        self._has_received = True
        return [(self._taking[reference], self._received(reference)) for reference in ready]

    def _received(self, reference: Any) -> Sequence[Mapping[str, Any]] | Died:
        slot = self._taking.pop(reference)
        try:
            messages: list[Mapping[str, Any]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            with suppress(Exception):  # an actor that cannot be reached may still live
                ray.kill(self._actors.pop(slot))
            return Died(f"({_shorten(error)})")
        self._take(slot)
        return messages

    def _take(self, slot: int) -> None:
        self._taking[self._actors[slot].take.remote()] = slot

    def close(self) -> None:
        """End all actors at once, and wait for their end."""
        for actor in self._actors.values():
            with suppress(Exception):
                ray.kill(actor)
        if self._taking:
            with suppress(Exception):
                ray.wait([*self._taking], num_returns=len(self._taking), timeout=_ENDS_WITHIN_S)


def _free() -> str:
    free = ray.available_resources()
    return f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"


def _shorten(error: BaseException) -> str:
    """Return the last line of an error, which says most in Ray's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[-1] if lines else type(error).__name__, _CAUSE, placeholder=" ...")
