"""`dagster dev -w workspace.yaml`: the real daemon, code server and webserver, driven over GraphQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curation_features.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
Query = Callable[..., dict[str, Any]]

ASSETS = "{ assetNodes { assetKey { path } partitionKeys isObservable opVersion } }"
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on RunConfigValidationInvalid { errors { message } }
  ... on PythonError { message } } }"""
STATUS = """query ($run: ID!) { runOrError(runId: $run) { ... on Run {
  status stats { ... on RunStatsSnapshot { stepsSucceeded } } } } }"""
MATERIALIZED = """{ assetNodes { assetKey { path } staleStatusByPartition(partitions: ["trip"])
  assetMaterializations(limit: 1, partitions: ["trip"]) { runId metadataEntries { label } } } }"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(found: Callable[[], Any], seconds: float) -> Any:
    """What `found` gives once it is true; fails after a while."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.3)
    return result


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_models: dict[str, str]) -> Iterator[Query]:
    """A project with one accepted batch under `dagster dev`; gives a function that runs a query."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**small_models, "DAGSTER_HOME": str(tmp_path / "data" / "dagster")}.items():
        monkeypatch.setenv(name, value)
    shutil.copy(REPOSITORY / "workspace.yaml", tmp_path)
    assert main(["ingest", "--samples", "--batch-id", "trip"]) == 0
    assert main(["materialize", "data/incoming/trip.json"]) == 0
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    with (tmp_path / "dev.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=os.environ)

    def query(text: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def ready() -> bool:
        assert process.poll() is None, (tmp_path / "dev.log").read_text()
        try:
            return bool(query(ASSETS)["assetNodes"])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    try:
        wait_for(ready, 120)
        yield query
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_ui_shows_the_assets_and_launches_a_run_with_its_own_settings(server: Query, tmp_path: Path) -> None:
    nodes = {node["assetKey"]["path"][0]: node for node in server(ASSETS)["assetNodes"]}
    assert set(nodes) == {
        "preprocess_batches", "label_embeddings", "technical_metrics", "image_embeddings", "clip_labels", "features",
    }  # fmt: skip
    assert all(node["partitionKeys"] == ["trip"] for node in nodes.values())
    assert nodes["preprocess_batches"]["isObservable"]

    before = (tmp_path / "data" / "features" / "trip.json").read_bytes()
    params = {
        "selector": {
            "repositoryLocationName": "curation_features",
            "repositoryName": "__repository__",
            "pipelineName": "extract_features",
        },
        "runConfigData": {"resources": {"settings": {"config": {"overrides": {"sharpness_scale": "100000"}}}}},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "trip"}]},
    }
    launched = server(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = server(STATUS, run=run_id)["runOrError"]
        return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    run = wait_for(ended, 120)
    assert (run["status"], run["stats"]["stepsSucceeded"]) == ("SUCCESS", 4)
    after = (tmp_path / "data" / "features" / "trip.json").read_bytes()
    for old, new in zip(json.loads(before)["artifacts"], json.loads(after)["artifacts"], strict=True):
        assert new["features"]["tech"]["sharpness"] < old["features"]["tech"]["sharpness"]
        assert new["features"]["clip_labels"] == old["features"]["clip_labels"]

    shown = {node["assetKey"]["path"][0]: node for node in server(MATERIALIZED)["assetNodes"]}
    for name in set(nodes) - {"preprocess_batches"}:
        assert shown[name]["staleStatusByPartition"] == ["FRESH"], name
        assert shown[name]["assetMaterializations"][0]["runId"] == run_id
    labels = {entry["label"] for entry in shown["features"]["assetMaterializations"][0]["metadataEntries"]}
    assert {"photos_ok", "labels", "photos", "json", "parquet"} <= labels
