"""The seam between a run over many batches and the engine that spreads it over processes or machines.

An engine knows nothing of photos. It gets shards (manifest files), and work: the name of an importable function and
JSON settings, so that nothing is pickled and the work can run in any process that has this package. Results are files.
The work writes the marker of a finished batch last, so every process on every machine can tell what is finished, and
makes nothing twice; an engine that loses a process, or a driver, loses only the unfinished shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

State = Literal["done", "already_done", "failed"]
STATES: tuple[State, ...] = get_args(State)
"""What became of a shard: processed now, finished by an earlier run, or not finished."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A batch to process.

    Attributes:
        manifest: path of its manifest.
        photos: number of its artifacts.
    """

    batch_id: str
    manifest: Path
    photos: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "manifest": str(self.manifest)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Shard:
        """Return the shard of `to_json`."""
        return cls(**{**fields, "manifest": Path(fields["manifest"])})


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of a shard.

    Attributes:
        reason: why it failed; empty otherwise.
        seconds: time that its work took.
        photos: number of its artifacts.
        statuses: number of `ok`, `degraded` and `failed` artifacts; empty if the shard failed.
    """

    batch_id: str
    state: State
    reason: str = ""
    seconds: float = 0.0
    photos: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class ShardFunction(Protocol):
    """Processes shards, one after the other, with models that it loads once."""

    def __call__(self, shard: Shard, progress: Callable[[int], None], *, wait: bool) -> ShardResult:
        """Process a shard, unless it is finished.

        Args:
            progress: called with the number of photos measured since the last call.
            wait: wait if another process works on the shard.

        Raises:
            BusyError: another process works on it (without `wait`).
            WeightsError: no shard can be processed.
            CurationError: this shard failed.
        """


@dataclass(frozen=True, slots=True)
class Work:
    """Work by name.

    Attributes:
        function: `package.module:name` of a function of the settings that returns a `ShardFunction`.
        settings: its argument, JSON without secrets: job descriptions and logs of clusters show it.
    """

    function: str
    settings: Mapping[str, Any]

    def prepare(self) -> ShardFunction:
        """Import the function and call it; once per process."""
        module, _, name = self.function.partition(":")
        return cast("ShardFunction", getattr(import_module(module), name)(self.settings))


class Executor(Protocol):
    """An engine.

    Attributes:
        description: where and with how many processes it works, in one line.
    """

    description: str

    def run(self, shards: Sequence[Shard], work: Work) -> Iterator[ShardResult]:
        """Process shards; yield the result of each, in any order. All processes have ended when the iterator is closed.

        A shard that fails does not affect the others. A shard whose process dies is tried again.

        Raises:
            SettingsError, WeightsError: no shard can be processed.
            ResourceError: no process can be started.
        """
