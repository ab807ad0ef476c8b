"""`dagster dev -w workspace.yaml`: the real daemon, code server and webserver, driven over GraphQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devserver import Query, dagster_dev, project, wait_for

from curation_features.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ASSETS = "{ assetNodes { assetKey { path } partitionKeys isObservable opVersion } }"
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on RunConfigValidationInvalid { errors { message } }
  ... on PythonError { message } } }"""
STATUS = """query ($run: ID!) { runOrError(runId: $run) { ... on Run {
  status stats { ... on RunStatsSnapshot { stepsSucceeded } } } } }"""
MATERIALIZED = """{ assetNodes { assetKey { path } staleStatusByPartition(partitions: ["trip"])
  assetMaterializations(limit: 1, partitions: ["trip"]) { runId metadataEntries { label } } } }"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_models: dict[str, str]) -> Iterator[Query]:
    """A project with one accepted batch under `dagster dev`; yields a function that runs a query."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**small_models, "DAGSTER_HOME": str(tmp_path / "data" / "dagster")}.items():
        monkeypatch.setenv(name, value)
    project(tmp_path)
    assert main(["ingest", "--samples", "--batch-id", "trip"]) == 0
    assert main(["materialize", "data/batches/trip.json"]) == 0
    with dagster_dev(tmp_path) as query:
        yield query


def test_the_ui_launches_a_run_with_other_settings(server: Query, tmp_path: Path) -> None:
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

    run = wait_for(ended, 400)
    assert (run["status"], run["stats"]["stepsSucceeded"]) == ("SUCCESS", 1)
    after = (tmp_path / "data" / "features" / "trip.json").read_bytes()
    for old, new in zip(json.loads(before)["artifacts"], json.loads(after)["artifacts"], strict=True):
        assert new["features"]["tech"]["sharpness"] < old["features"]["tech"]["sharpness"]
        assert new["features"]["clip_labels"] == old["features"]["clip_labels"]

    shown = {node["assetKey"]["path"][0]: node for node in server(MATERIALIZED)["assetNodes"]}
    for name in set(nodes) - {"preprocess_batches"}:
        # the run had other settings, so the assets they affect are stale
        assert shown[name]["staleStatusByPartition"] == ["STALE" if name == "technical_metrics" else "FRESH"], name
        assert shown[name]["assetMaterializations"][0]["runId"] == run_id
    labels = {entry["label"] for entry in shown["features"]["assetMaterializations"][0]["metadataEntries"]}
    assert {"artifacts_ok", "labels", "json", "parquet"} <= labels
