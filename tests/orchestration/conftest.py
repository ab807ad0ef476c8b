"""The pipeline on a real Dagster instance, with fake models that count."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest
from dagster._core.storage.tags import RUN_KEY_TAG
from worlds import World

from curation_features.errors import MissingWeightsError
from curation_features.events.outbox import Outbox
from curation_features.inbox.folders import submit
from curation_features.manifest import Batch
from curation_features.orchestration import launch
from curation_features.orchestration.partitions import DIMENSION
from curation_features.orchestration.project import build_definitions
from curation_features.processing import ProcessedBatch, accept_without_dagster, process_batch
from curation_features.schema import ASSETS
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.weights import LazyModel, Weights


@pytest.fixture
def missing_model() -> LazyModel[Any]:
    """A model without weights."""

    def locate() -> Weights:
        raise MissingWeightsError("CLIP is not here")

    return LazyModel(locate, lambda _: None)


@dataclass
class Pipeline:
    """A Dagster instance over a world. Every run gets new stages, like a new process."""

    world: Any
    instance: dg.DagsterInstance
    settings: Settings
    models: dict[str, Any] = field(default_factory=dict)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.settings.data_path)

    def definitions(self) -> dg.Definitions:
        stages = self.world.stages(self.settings, **self.models)
        return build_definitions(self.settings, resources={"stages": stages, "store": self.store})

    def accept(self, batch: Batch) -> None:
        launch.accept(batch, self.store, self.instance)

    def process(self, batch: Batch, *, retry_failed: bool = False) -> ProcessedBatch:
        """Process a batch without Dagster, like the command."""
        accept_without_dagster(batch, self.store)
        with self.store.exclusive(batch.batch_id):
            return process_batch(
                batch, self.world.stages(self.settings, **self.models), self.store, self.outbox,
                retry_failed=retry_failed,
            )  # fmt: skip

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.settings.data_path)

    def features(self, batch_id: str = "batch_1") -> dict[str, Any]:
        """The finished features of a batch on disk."""
        return json.loads(self.store.feature_paths(batch_id)[0].read_bytes())

    def write_labels(self, labels: str = "abcdef") -> None:
        """Configure other labels, one per character."""
        path = self.world.root / "config" / "labels.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"labels": list(labels)}))

    @staticmethod
    def failure_of(result: dg.ExecuteInProcessResult) -> str:
        """The error of the failed step of a run."""
        [failure] = result.filter_events(lambda event: event.is_step_failure)
        return failure.step_failure_data.error.to_string()

    def run(self, batch_id: str = "batch_1", *assets: str) -> dg.ExecuteInProcessResult:
        job = self.definitions().resolve_job_def("extract_features")
        selection = [dg.AssetKey(name) for name in assets] or None
        return job.execute_in_process(
            instance=self.instance, partition_key=batch_id, asset_selection=selection, raise_on_error=False
        )

    def run_range(self, first: str, last: str, *assets: str) -> dg.ExecuteInProcessResult:
        """One run over the partitions from `first` to `last`, like a backfill."""
        job = self.definitions().resolve_job_def("extract_features")
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        selection = [dg.AssetKey(name) for name in assets] or None
        return job.execute_in_process(
            instance=self.instance, tags=tags, asset_selection=selection, raise_on_error=False
        )

    def run_checks(self, batch_id: str | None = "batch_1", names: set[str] | None = None) -> dg.ExecuteInProcessResult:
        """Run only the checks of finished artifacts, like the button in the UI; of one batch, or all."""
        definitions = self.definitions()
        keys = definitions.resolve_asset_graph().asset_check_keys
        chosen = {key for key in keys if (key.name in names if names else key.asset_key.path == ["features"])}
        job = definitions.resolve_implicit_global_asset_job_def()
        job = job.get_subset(asset_selection=set(), asset_check_selection=chosen)
        return job.execute_in_process(instance=self.instance, partition_key=batch_id, raise_on_error=False)

    def accept_many(self, count: int) -> list[str]:
        """Accept batches of one photo each."""
        batch_ids = [f"b{number:02}" for number in range(count)]
        for number, batch_id in enumerate(batch_ids):
            self.accept(self.world.batch([self.world.photo(f"{batch_id}.png", 100 + number)], batch_id))
        return batch_ids

    def checks(self, batch_id: str = "batch_1") -> dict[str, bool]:
        """The latest result of each check of a batch."""
        storage = self.instance.event_log_storage
        found = {}
        for key in sorted(self.definitions().resolve_asset_graph().asset_check_keys):
            for record in storage.get_asset_check_execution_history(key, limit=50):
                evaluation = record.event and record.event.dagster_event.event_specific_data
                if isinstance(evaluation, dg.AssetCheckEvaluation) and evaluation.partition == batch_id:
                    found.setdefault(key.name, evaluation.passed)
        return found

    def observations(self, batch_id: str = "batch_1") -> list[dg.EventLogRecord]:
        """Observations of the manifest, oldest first."""
        wanted = dg.AssetRecordsFilter(dg.AssetKey("preprocess_batches"), asset_partitions=[batch_id])
        return list(self.instance.fetch_observations(wanted, limit=20, ascending=True).records)

    def materialized(self, batch_id: str = "batch_1") -> dict[str, int]:
        """Number of materializations of each asset of a batch."""
        wanted = {name: dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=[batch_id]) for name in ASSETS}
        return {
            name: len(self.instance.fetch_materializations(records, limit=50).records)
            for name, records in wanted.items()
        }

    def record(self, asset: str, batch_id: str = "batch_1") -> dg.EventLogRecord:
        wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[batch_id])
        found = self.instance.fetch_materializations(wanted, limit=1).records
        assert found, f"{asset} was never materialized"
        return found[0]

    def materialization(self, asset: str, batch_id: str = "batch_1") -> dg.AssetMaterialization:
        found = self.record(asset, batch_id).asset_materialization
        assert found is not None
        return found

    def data_versions(self, batch_id: str = "batch_1") -> dict[str, str]:
        return {name: (self.materialization(name, batch_id).tags or {})["dagster/data_version"] for name in ASSETS}

    def events(self) -> list[str]:
        """Names of the published events."""
        folder = self.settings.data_path / "events" / "features.completed"
        return sorted(path.name for path in folder.glob("*"))

    def changed_by(self, action: Callable[[], Any]) -> set[str]:
        before = self.data_versions()
        action()
        return {name for name, version in self.data_versions().items() if version != before[name]}


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new DAGSTER_HOME to copy; creating its databases takes half a second."""
    root = tmp_path_factory.mktemp("new")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", str(root / "home"))
        with launch.project_instance(Settings(root=root)):
            pass
    return root / "home"


@pytest.fixture
def home(new_home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(new_home, tmp_path / "home")


@pytest.fixture
def pipeline(world, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with launch.project_instance(world.settings) as instance:
        found = Pipeline(world, instance, world.settings)
        found.accept(world.batch([world.photo(f"{n}.png", n) for n in range(3)]))
        yield found


@pytest.fixture(scope="session")
def finished_project(new_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project to copy, in which `batch_1` (three photos) and `batch_2` (one) are finished."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", str(shutil.copytree(new_home, root / "home")))
        world = World(root)
        with launch.project_instance(world.settings) as instance:
            pipeline = Pipeline(world, instance, world.settings)
            pipeline.accept(world.batch([world.photo(f"{n}.png", n) for n in range(3)]))
            pipeline.accept(world.batch([world.photo("9.png", 9)], "batch_2"))
            assert all(pipeline.run(batch_id).success for batch_id in ("batch_1", "batch_2"))
    return root


@pytest.fixture
def finished(world, finished_project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    shutil.copytree(finished_project, world.root, dirs_exist_ok=True)
    monkeypatch.setenv("DAGSTER_HOME", str(world.root / "home"))
    with launch.project_instance(world.settings) as instance:
        yield Pipeline(world, instance, world.settings)


class Daemon:
    """Evaluates the sensor on a real instance, and applies the result like Dagster's daemon."""

    def __init__(self, pipeline) -> None:
        self.pipeline = pipeline
        self.instance = pipeline.instance
        self.cursor: str | None = None
        self.skipped = ""

    @property
    def folder(self) -> Path:
        return self.pipeline.settings.data_path / "incoming"

    def drop(self, artifacts, batch_id: str = "batch_9", name: str | None = None) -> None:
        document = {"batch_id": batch_id, "artifacts": artifacts}
        submit(json.dumps(document).encode(), self.folder, name or batch_id)

    def evaluate(self):
        definitions = self.pipeline.definitions()
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursor,
            repository_def=definitions.get_repository_def(),
            resources=dict(definitions.resources or {}),
        )
        return definitions.resolve_sensor_def("preprocess_outputs").evaluate_tick(context)

    def tick(self, *, dies_before: str = "") -> list[str]:
        """Run a tick; return the launched batches. It may die before `events`, `partitions` or `runs`."""
        data = self.evaluate()
        self.skipped = data.skip_message or ""
        if dies_before == "events":
            return []
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        if dies_before == "partitions":
            return []
        for request in data.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(DIMENSION, request.partition_keys)
        if dies_before == "runs":
            return []
        self.cursor = data.cursor  # stored together with the run requests
        return [batch for request in data.run_requests if (batch := self._launch(request))]

    def _launch(self, request: dg.RunRequest) -> str:
        key = {RUN_KEY_TAG: request.run_key}
        if self.instance.get_runs(dg.RunsFilter(tags=key), limit=1):
            return ""
        job = self.pipeline.definitions().resolve_job_def("extract_features")
        job.execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags={**request.tags, **key},
            raise_on_error=False,
        )  # fmt: skip
        return request.partition_key

    def finished(self, batch_id: str = "batch_9") -> list[str]:
        """URIs of the photos in the finished features of a batch."""
        path, _ = self.pipeline.store.feature_paths(batch_id)
        return [artifact["original_uri"] for artifact in json.loads(path.read_bytes())["artifacts"]]


@pytest.fixture
def daemon(pipeline) -> Iterator[Daemon]:
    return Daemon(pipeline)


class Reconciler:
    """Evaluates the conditions like the daemon, with a cursor from tick to tick."""

    def __init__(self, pipeline) -> None:
        self.pipeline = pipeline
        self.cursor = None

    def tick(self) -> dict[str, set[str]]:
        """The requested batches, by asset."""
        instance = self.pipeline.instance
        once = functools.cache(instance.get_dynamic_partitions)  # the daemon does not query 500 times a tick
        with mock.patch.object(instance, "get_dynamic_partitions", once):
            result = dg.evaluate_automation_conditions(self.pipeline.definitions(), instance, cursor=self.cursor)
        self.cursor = result.cursor
        requested = {name: set(result.get_requested_partitions(dg.AssetKey(name))) for name in ASSETS}
        return {name: batches for name, batches in requested.items() if batches}


@pytest.fixture
def new_reconciler() -> type[Reconciler]:
    return Reconciler


@pytest.fixture
def new_archive(world, new_home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """A function that creates a project with a separate instance, as a context manager."""

    @contextmanager
    def new() -> Iterator[tuple[Pipeline, Daemon, Reconciler]]:
        root = tmp_path_factory.mktemp("archive")
        monkeypatch.setenv("DAGSTER_HOME", str(shutil.copytree(new_home, root / "home")))
        apart = type(world)(root)
        with launch.project_instance(apart.settings) as instance:
            found = Pipeline(apart, instance, apart.settings)
            yield found, Daemon(found), Reconciler(found)
        shutil.rmtree(root)

    return new
