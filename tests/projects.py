"""A project with fake models that is used by commands, with captured output and logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from curation_features.cli import main
from curation_features.inbox.folders import submit
from curation_features.orchestration import launch
from curation_features.orchestration.project import build_definitions
from curation_features.pipeline import FeatureStages, Models
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel


@dataclass
class Project:
    """A project's folder, and the output of its commands.

    Attributes:
        terminal: standard output and standard error of the commands.
        logs: records of `curation_features` and Pillow, at DEBUG.
    """

    root: Path
    models: Models
    terminal: StringIO = field(default_factory=StringIO)
    logs: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(root=self.root, device="cpu")

    def command(self, *arguments: str) -> int:
        with redirect_stdout(self.terminal), redirect_stderr(self.terminal):
            return main(["--root", str(self.root), *arguments])

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with launch.project_instance(self.settings) as instance:
            yield instance

    def definitions(self, store: ArtifactStore | None = None) -> dg.Definitions:
        stages = FeatureStages(self.settings, models=self.models)
        store = store or ArtifactStore(self.settings.data_path)
        return build_definitions(self.settings, resources={"stages": stages, "store": store})

    def tick(self, manifests: dict[str, str]) -> Any:
        """Drop manifests, and run a tick of the sensor; its events are stored like by the daemon."""
        for name, text in manifests.items():
            submit(text.encode(), self.settings.data_path / "incoming", name)
        definitions = self.definitions()
        with self.instance() as instance:
            context = dg.build_sensor_context(
                instance=instance,
                instance_ref=instance.get_ref(),
                repository_def=definitions.get_repository_def(),
                resources=dict(definitions.resources or {}),
            )
            found = definitions.resolve_sensor_def("preprocess_outputs").evaluate_tick(context)
            for event in found.asset_events:
                instance.report_runless_asset_event(event)
        return found

    def manifest(self, batch_id: str) -> dict[str, Any]:
        """The manifest written by `ingest`."""
        manifest: dict[str, Any] = json.loads(self.manifest_path(batch_id).read_bytes())
        return manifest

    def manifest_path(self, batch_id: str) -> Path:
        return self.settings.data_path / "batches" / f"{batch_id}.json"


class _Listener(logging.Handler):
    """Stores every record as text with its traceback."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(logging.Formatter("%(levelname)s:%(name)s:%(message)s").format(record))


@contextmanager
def project_at(root: Path) -> Iterator[Project]:
    """A project in an empty folder, with a separate instance of Dagster."""
    fakes = (FakeClipEngine(), FakeQualityModel(), FakeBrisque())
    project = Project(root, Models(*(LazyModel.ready(fake, type(fake).__name__) for fake in fakes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(project.settings.data_path / "dagster"))
        patch.setattr(Models, "from_settings", lambda *_: project.models)
        yield project


@contextmanager
def listening(project: Project) -> Iterator[None]:
    """Store log records in `project.logs`."""
    listener, loggers = _Listener(project.logs), [logging.getLogger(name) for name in ("PIL", "curation_features")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(listener)
            logger.setLevel(level)
