"""The engines by name, as data: none is imported before it is created."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from curation_features.engines.executor import Executor
from curation_features.errors import SettingsError, require_extra
from curation_features.settings import Settings, nearest


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine.

    Attributes:
        summary: what it does, in a few words.
        factory: `package.module:name` of a function of `EngineOptions` that returns an `Executor`.
        extra: the extra of this package that it needs; empty: none.
    """

    summary: str
    factory: str
    extra: str = ""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of every engine.

    Attributes:
        settings: settings of the run.
        processes: number of processes; None: the engine decides.
        weights_bytes: size of the models' weights that each process loads.
        progress: called with a number of photos, and whether they were worked on (False: finished by an earlier run).
    """

    settings: Settings
    processes: int | None = None
    weights_bytes: int = 0
    progress: Callable[[int, bool], None] = lambda photos, worked: None


ENGINES: Mapping[str, EngineEntry] = MappingProxyType(
    {
        "local": EngineEntry("processes on this machine", "curation_features.engines.local:local_engine"),
        "ray": EngineEntry("actors on a Ray cluster", "curation_features.engines.ray_cluster:ray_engine", "ray"),
    }
)
"""Every engine by name."""


def create_engine(name: str, options: EngineOptions) -> Executor:
    """Import and create an engine.

    Raises:
        SettingsError: the name is unknown, or the engine's extra is not installed.
    """
    entry = ENGINES.get(name)
    if entry is None:
        raise SettingsError(f"unknown engine {name!r}{nearest(name, ENGINES)}; there are: {', '.join(ENGINES)}")
    if entry.extra:
        require_extra(entry.extra)
    module, _, attribute = entry.factory.partition(":")
    engine: Executor = getattr(import_module(module), attribute)(options)
    return engine
