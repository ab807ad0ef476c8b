"""The example of jobs by Dagster Pipes: numbers and logs come back to the partition."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import dagster as dg
import pytest
from worlds import World

from curation_features.manifest import to_json
from curation_features.storage.adoptions import Adoptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dagster_shared.utils.warnings.PreviewWarning"),  # raised inside Dagster
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster_jobs.py"


def test_a_job_reports_to_its_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    world = World(tmp_path)
    folder = tmp_path / "data" / "shards" / "trip"
    folder.mkdir(parents=True)
    batch = world.batch([world.photo("a.png", 1), {"photo_id": "gone", "original_uri": "./photos/gone.png"}], "trip-1")
    (folder / "trip-1.json").write_bytes(to_json(batch.document))
    (folder / "bad.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE.parents[1]))
    monkeypatch.setenv("CURATION_FEATURES_MODEL", "local-dir:nowhere")
    monkeypatch.setenv("CURATION_FEATURES_CLIP_IQA_WEIGHTS", "nowhere.pt")
    monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "nowhere.pt")  # without it no process needs torch
    monkeypatch.setenv("CURATION_FEATURES_ON_MISSING_WEIGHTS", "degrade")
    monkeypatch.setenv("CURATION_FEATURES_DEVICE", "cpu")
    spec = importlib.util.spec_from_file_location("cluster_jobs", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"jobs": dg.PipesSubprocessClient()}
        done = dg.materialize([example.processed_shard], instance=instance, resources=resources, partition_key="trip-1")
        assert done.success
        (event,) = done.asset_materializations_for_node("processed_shard")
        numbers = {name: value.value for name, value in event.metadata.items()}
        assert (numbers["state"], numbers["photos"], numbers["degraded"], numbers["failed"]) == ("done", 2, 1, 1)
        assert "Batch trip-1: done, 2 photos" in capfd.readouterr().err
        assert Adoptions(tmp_path / "data").waiting() == ["trip-1"]

        failed = dg.materialize(
            [example.processed_shard], instance=instance, resources=resources, partition_key="bad", raise_on_error=False
        )
        assert not failed.success
        assert "repair or delete it" in capfd.readouterr().err
