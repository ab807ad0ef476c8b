"""The pipeline unattended: real daemon, code server, webserver and run processes; real kills."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import fake_definitions
import numpy as np
import pytest
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.tags import PARTITION_NAME_TAG
from devserver import Query, dagster_dev, process, project, wait_for
from PIL import Image

from curation_features.cli import main
from curation_features.manifest import batch_from
from curation_features.orchestration import launch
from curation_features.pipeline import Models
from curation_features.settings import load_settings
from curation_features.storage.artifacts import ArtifactStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FEATURES = dg.AssetKey("features")
SELECTOR = {"repositoryLocationName": "curation_features", "repositoryName": "__repository__"}

BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL_STATUS = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status runs(limit: 50) { id status } } } }"""
RELOAD = """mutation { reloadRepositoryLocation(repositoryLocationName: "curation_features") { __typename } }"""
START = """mutation ($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }"""
TICKS = """query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor {
  sensorState { ticks(limit: 1, statuses: [SUCCESS, SKIPPED]) { id } } } } }"""
EVERYTHING = ["label_embeddings", "technical_metrics", "image_embeddings", "clip_labels", "features"]
LABELS = {"one", "two", "three", "four", "five"}
OTHER_LABELS = {"sea", "sky", "sand", "sun", "ship"}
RUN_EVENTS = """query ($run: ID!) { logsForRun(runId: $run, limit: 1000) { ... on EventConnection {
  events { __typename ... on MessageEvent { message } } } } }"""


ASSETS = "{ assetNodes { assetKey { path } partitionKeys isObservable opVersion } }"
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on RunConfigValidationInvalid { errors { message } }
  ... on PythonError { message } } }"""
STATUS = """query ($run: ID!) { runOrError(runId: $run) { ... on Run {
  status stats { ... on RunStatsSnapshot { stepsSucceeded } } } } }"""
MATERIALIZED = """query ($batches: [String!]!, $keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) {
  assetKey { path }
  staleStatusByPartition(partitions: $batches)
  assetMaterializations(limit: 1, partitions: $batches) { runId metadataEntries { label } } } }"""


INSTANCES: dict[Path, dg.DagsterInstance] = {}
"""The instance of each project, open as long as its test runs: opening one takes half a second of CPU time."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project, the current one, with fake models and a Dagster instance that looks often."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "data" / "dagster"))
    monkeypatch.setenv("CURATION_FEATURES_DEVICE", "cpu")  # to look for others, a run would import torch
    project(tmp_path, with_fakes=True, poll_interval_seconds="3")
    with launch.project_instance(load_settings(tmp_path)):
        pass
    with dg.DagsterInstance.from_config(str(tmp_path / "data" / "dagster")) as INSTANCES[tmp_path]:
        yield tmp_path
    del INSTANCES[tmp_path]


def manifest(root: Path, batch_id: str, photos: int = 1, seed: int = 0) -> dict[str, Any]:
    """Write photos and return their manifest; the same bytes in every project."""
    artifacts = []
    for number in range(photos):
        path = root / "photos" / f"{batch_id}_{seed}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng([*batch_id.encode(), seed, number]).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        artifacts.append({"photo_id": path.stem, "original_uri": f"./photos/{path.name}", "exif": {"iso": 64}})
    return {"batch_id": batch_id, "artifacts": artifacts}


def drop(root: Path, document: dict[str, Any], name: str | None = None) -> None:
    folder = root / "data" / "incoming"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".new").write_text(json.dumps(document))
    (folder / ".new").rename(folder / f"{name or document['batch_id']}.json")


def runs(root: Path) -> list[dg.DagsterRun]:
    return [run for run in INSTANCES[root].get_runs() if run.job_name != "group_photos"]


def succeeded(root: Path) -> list[dg.DagsterRun]:
    return [run for run in runs(root) if run.is_success]


def a_tick_more(root: Path, sensor: str) -> None:
    """Wait for another tick of a sensor; the runs that it launches exist by then."""
    now = time.time()

    def looked(instance: dg.DagsterInstance) -> bool:
        states = [state for state in instance.all_instigator_state() if state.name == sensor]
        ticks = [instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1) for state in states]
        return any(tick.timestamp > now and tick.status is not TickStatus.STARTED for tick, *_ in filter(None, ticks))

    instance = INSTANCES[root]
    wait_for(lambda: looked(instance), 400)


def outputs(root: Path) -> dict[str, bytes]:
    """Finished features and events, by path."""
    folders = (root / "data" / "features", root / "data" / "events" / "features.completed")
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def events(root: Path) -> list[str]:
    return sorted(name for name in outputs(root) if name.startswith("data/events/"))


DIES_ONCE = """
import os, signal, sys
from pathlib import Path

def dies(owner, name, moment_of):
    inner = getattr(owner, name)
    def outer(*args, **kwargs):
        result = inner(*args, **kwargs)
        file = Path(os.environ["DIE_ONCE"], str(moment_of(*args)))
        if file.is_file():
            file.unlink()
            os.killpg(0, signal.SIGKILL) if os.environ.get("WITH_ALL_OTHERS") else os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, outer)

sys.path.remove(os.path.dirname(__file__))
del sys.modules["sitecustomize"]
import sitecustomize  # of tests/impatient
command = " ".join(sys.orig_argv)
if "_daemon" in command:
    import dagster._daemon.sensor as sensor
    dies(sensor, "_handle_dynamic_partitions_requests", lambda *_: "daemon")
if "spawn_main" in command:
    from curation_features.events.outbox import FileSink
    from curation_features.orchestration.batch_run import BatchRun
    from curation_features.storage.artifacts import ArtifactStore
    only = lambda moment, batch_id: batch_id if moment == batch_id else None
    dies(ArtifactStore, "write_features", lambda store, document, *_: only("artifacts", document["batch_id"]))
    dies(FileSink, "deliver", lambda sink, event: only("event", event["subject"]))
    dies(BatchRun, "_report", lambda run, batch, made, *_: only(made.asset, batch.batch_id))
"""


def dying(root: Path, *moments: str) -> dict[str, str]:
    """An environment in which Dagster's processes are killed, once at each moment; WITH_ALL_OTHERS: their group, too.

    A moment is `daemon` (before the runs of a tick are launched), or the name of a batch: `artifacts` (its features
    are written), `event` (it is delivered), or an asset (it is reported).
    """
    (root / "patch").mkdir()
    (root / "patch" / "sitecustomize.py").write_text(DIES_ONCE)
    (root / "die").mkdir()
    for moment in moments:
        (root / "die" / moment).touch()
    path = os.pathsep.join((str(root / "patch"), os.environ["PYTHONPATH"]))
    return {"PYTHONPATH": path, "DIE_ONCE": str(root / "die")}


MOMENTS = ("artifacts", "features", "event")


def test_manifests_are_processed_unattended(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First with kills: of the daemon between adding partitions and launching their runs, of a machine, of runs.

    Each of these batches is named after the moment at which its first run is killed.
    """
    documents = {moment: manifest(root, moment, photos=3) for moment in MOMENTS}
    for document in documents.values():
        drop(root, document)
    command, patched = ["dagster._daemon", "run", "-w", "workspace.yaml"], dying(root, "daemon", *MOMENTS)
    with process(command, root / "daemon.log", **patched) as daemon:
        wait_for(lambda: daemon.poll() is not None, 400)
        assert daemon.returncode == -signal.SIGKILL
    assert set(INSTANCES[root].get_dynamic_partitions("batch_id")) == set(MOMENTS)
    assert not runs(root)
    with process(command, root / "daemon.log", **patched, WITH_ALL_OTHERS="1") as daemon:
        wait_for(lambda: daemon.poll() is not None, 400)
    assert [run.status for run in runs(root)].count(dg.DagsterRunStatus.STARTED) == 1
    with process(command, root / "daemon.log", **patched):
        wait_for(lambda: len(succeeded(root)) == len(MOMENTS), 1000)
        a_tick_more(root, "preprocess_outputs")
        retried = outputs(root)
        statuses = sorted((run.tags[PARTITION_NAME_TAG], run.status.value) for run in runs(root))
        _deliveries(root)
    assert not list((root / "die").iterdir())
    assert statuses == sorted((moment, status) for moment in MOMENTS for status in ("FAILURE", "SUCCESS"))
    assert retried == _undisturbed(documents, tmp_path_factory.mktemp("undisturbed"), monkeypatch)
    assert len([name for name in retried if name.startswith("data/events/")]) == len(MOMENTS)


def _deliveries(root: Path) -> None:
    """A batch delivered twice, again, and changed; and a file that is written slowly, beside two that are invalid."""
    before, incoming = len(succeeded(root)), root / "data" / "incoming"
    twice, slow = manifest(root, "twice"), manifest(root, "slow")
    drop(root, twice)
    drop(root, twice, name="delivered-twice")
    text = json.dumps(slow)
    (incoming / "half.json").write_text(text[:50])
    (incoming / "broken.json").write_text('{"batch_id": "x" "artifacts": []}')
    (incoming / "wrong.json").write_text('{"batch_id": "../x", "artifacts": []}')
    wait_for(lambda: len(succeeded(root)) == before + 1, 400)
    assert (incoming / "half.json").exists()
    with (incoming / "half.json").open("a") as file:
        file.write(text[50:])
    changed = manifest(root, "twice", photos=2, seed=1)
    drop(root, changed)
    wait_for(lambda: len(succeeded(root)) == before + 3, 400)
    drop(root, changed, name="and-once-more")
    wait_for(lambda: not list(incoming.glob("*.json")), 400)
    a_tick_more(root, "preprocess_outputs")
    assert len(succeeded(root)) == before + 3
    assert all(run.is_finished for run in runs(root))
    ids = {run.run_id for run in succeeded(root)}  # the pool: one run at a time holds the models
    records = [record for record in INSTANCES[root].get_run_records() if record.dagster_run.run_id in ids]
    spans = sorted((record.start_time, record.end_time) for record in records)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    quarantined = {path.name for path in (root / "data" / "quarantine").glob("*.json")}
    assert quarantined == {"broken.json", "broken.reason.json", "wrong.json", "wrong.reason.json"}
    named = [json.loads(outputs(root)[name]) for name in events(root)]
    assert sorted(event["subject"] for event in named) == sorted([*MOMENTS, "twice", "twice", "slow"])
    assert len({event["id"] for event in named}) == len(named)
    features = json.loads((root / "data" / "features" / "twice.json").read_bytes())
    assert [artifact["photo_id"] for artifact in features["artifacts"]] == [
        artifact["photo_id"] for artifact in changed["artifacts"]
    ]


def _undisturbed(
    documents: dict[str, dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """The files of the same batches without a kill."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.setattr(Models, "from_settings", lambda *_: fake_definitions.models())
    for moment, document in documents.items():
        manifest(folder, moment, photos=3)
        (folder / "manifest.json").write_text(json.dumps(document))
        assert main(["materialize", "manifest.json"]) == 0
    return outputs(folder)


def backfill(query: Query, batch_ids: list[str], assets: list[str]) -> dict[str, Any]:
    """Run a backfill and return its final state."""
    params = {
        "partitionNames": batch_ids,
        "assetSelection": [{"path": [name]} for name in assets],
        "fromFailure": False,
    }
    launched = query(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = query(BACKFILL_STATUS, id=launched["backfillId"])["partitionBackfillOrError"]
        return found if found["status"].startswith("COMPLETED") or found["status"] in ("FAILED", "CANCELED") else None

    return wait_for(ended, 1000)


def messages(query: Query, run_id: str) -> list[str]:
    return [event.get("message") or "" for event in query(RUN_EVENTS, run=run_id)["logsForRun"]["events"]]


def test_backfills_and_reconciliation(root: Path) -> None:
    """One server for all: starting it takes as long as a test."""
    batch_ids = [f"batch_{number:02}" for number in range(fake_definitions.BATCHES_PER_RUN + 2)]
    store = ArtifactStore(load_settings(root).data_path)
    for batch_id in batch_ids:
        launch.accept(batch_from(manifest(root, batch_id)), store, INSTANCES[root])
    store.manifest_path("batch_03").write_text("{")
    with dagster_dev(root) as query:
        _all_but_the_poisoned_batch(root, query, store, batch_ids)
        _a_run_of_the_ui_with_other_settings(query, store, batch_ids)
        _new_labels_without_photos(root, query, store, batch_ids)
        _reconciliation_relabels_once(root, query, store, batch_ids)


def _all_but_the_poisoned_batch(root: Path, query: Query, store: ArtifactStore, batch_ids: list[str]) -> None:
    ended = backfill(query, batch_ids, EVERYTHING)
    assert ended["status"] == "COMPLETED_FAILED"
    assert len(ended["runs"]) == 2
    told = {run["id"]: messages(query, run["id"]) for run in ended["runs"]}
    for lines in told.values():
        assert len([line for line in lines if line.startswith("Loading the fake CLIP")]) == 1
    [failed] = [run["id"] for run in ended["runs"] if run["status"] == "FAILURE"]
    assert any("batch_03" in line and "manifest" in line for line in told[failed])
    assert INSTANCES[root].get_materialized_partitions(FEATURES) == set(batch_ids) - {"batch_03"}
    assert len(events(root)) == len(batch_ids) - 1
    store.put_manifest(batch_from(manifest(root, "batch_03")))
    assert backfill(query, ["batch_03"], EVERYTHING)["status"] == "COMPLETED_SUCCESS"


def _a_run_of_the_ui_with_other_settings(query: Query, store: ArtifactStore, batch_ids: list[str]) -> None:
    nodes = {node["assetKey"]["path"][0]: node for node in query(ASSETS)["assetNodes"]}
    assert set(nodes) == {"preprocess_batches", *EVERYTHING, "groups", "search_index"}
    assert {name for name, node in nodes.items() if node["partitionKeys"] == batch_ids} == set(nodes) - {
        "groups",
        "search_index",
    }
    assert nodes["preprocess_batches"]["isObservable"]
    before = _features(store, "batch_00")
    run_id = _launch(query, "batch_00", sharpness_scale="1000000")

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = query(STATUS, run=run_id)["runOrError"]
        return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    run = wait_for(ended, 400)
    assert (run["status"], run["stats"]["stepsSucceeded"]) == ("SUCCESS", 1)
    for old, new in zip(before, _features(store, "batch_00"), strict=True):
        assert new["tech"]["sharpness"] < old["tech"]["sharpness"]
        assert new["clip_labels"] == old["clip_labels"]
    found = query(MATERIALIZED, batches=["batch_00"], keys=[{"path": [name]} for name in EVERYTHING])
    shown = {node["assetKey"]["path"][0]: node for node in found["assetNodes"]}
    for name in EVERYTHING:
        # the run had other settings, so the assets they affect are stale
        assert shown[name]["staleStatusByPartition"] == ["STALE" if name == "technical_metrics" else "FRESH"], name
        assert shown[name]["assetMaterializations"][0]["runId"] == run_id
    labels = {entry["label"] for entry in shown["features"]["assetMaterializations"][0]["metadataEntries"]}
    assert {"artifacts_ok", "labels", "json", "parquet"} <= labels
    assert backfill(query, ["batch_00"], EVERYTHING)["status"] == "COMPLETED_SUCCESS"
    assert _features(store, "batch_00") == before


def _launch(query: Query, batch_id: str, **overrides: str) -> str:
    """Launch the job of a batch as the user interface does, and return the id of its run."""
    params = {
        "selector": {
            "repositoryLocationName": "curation_features",
            "repositoryName": "__repository__",
            "pipelineName": "extract_features",
        },
        "runConfigData": {"resources": {"settings": {"config": {"overrides": overrides}}}},
        "executionMetadata": {"tags": [{"key": PARTITION_NAME_TAG, "value": batch_id}]},
    }
    launched = query(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def _new_labels_without_photos(root: Path, query: Query, store: ArtifactStore, batch_ids: list[str]) -> None:
    before = {batch_id: _features(store, batch_id) for batch_id in batch_ids}
    for photo in (root / "photos").iterdir():  # a run that opened a photo would fail
        photo.unlink()
    for entry in load_settings(root).cache_path.glob("*.json"):  # and the cache would not help it
        entry.unlink()
    _change_labels(root, query, LABELS)
    ended = backfill(query, batch_ids, ["label_embeddings", "clip_labels", "features"])
    assert ended["status"] == "COMPLETED_SUCCESS"
    for batch_id in batch_ids:
        for old, new in zip(before[batch_id], _features(store, batch_id), strict=True):
            assert new["tech"] == old["tech"]
            assert new["status"] == "ok"
            assert {label["label"] for label in new["clip_labels"]} == LABELS


def _reconciliation_relabels_once(root: Path, query: Query, store: ArtifactStore, batch_ids: list[str]) -> None:
    earlier, published = {run.run_id for run in runs(root)}, len(events(root))
    selector = {**SELECTOR, "sensorName": "reconcile"}
    assert query(START, sensor=selector)["startSensor"]["__typename"] == "Sensor"
    wait_for(lambda: query(TICKS, sensor=selector)["sensorOrError"]["sensorState"]["ticks"], 400)
    _change_labels(root, query, OTHER_LABELS)

    def relabelled() -> bool:
        found = (_features(store, batch_id)[0]["clip_labels"] for batch_id in batch_ids)
        return all({label["label"] for label in labels} == OTHER_LABELS for labels in found)

    wait_for(relabelled, 400)
    wait_for(lambda: all(run.is_finished for run in runs(root)), 400)
    launched = [run for run in runs(root) if run.run_id not in earlier]
    a_tick_more(root, "reconcile")
    instance = INSTANCES[root]
    wait_for(lambda: all(found.status.value.startswith("COMPLETED") for found in instance.get_backfills()), 400)
    assert len(runs(root)) == len(earlier) + len(launched)
    assert len(launched) == 2  # each takes some of the batches
    for run in launched:
        assert {key.path[-1] for key in run.asset_selection or ()} == {"label_embeddings", "clip_labels", "features"}
    assert len(events(root)) == published + len(batch_ids)


def _change_labels(root: Path, query: Query, labels: set[str]) -> None:
    (root / "config").mkdir(exist_ok=True)
    (root / "config" / "labels.json").write_text(json.dumps({"labels": sorted(labels)}))
    assert query(RELOAD)["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"


def _features(store: ArtifactStore, batch_id: str) -> list[dict[str, Any]]:
    document = json.loads(store.feature_paths(batch_id)[0].read_bytes())
    return [artifact["features"] for artifact in document["artifacts"]]
