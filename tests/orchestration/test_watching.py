"""The sensor on watched folders, its job, and the hand-over to the sensor on manifests."""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import RUN_KEY_TAG

from curation_features.orchestration.project import build_definitions
from curation_features.watching import Watch

pytestmark = pytest.mark.long


def tick(pipeline: Any) -> Any:
    """Evaluate the sensor."""
    definitions = pipeline.definitions()
    context = dg.build_sensor_context(
        instance=pipeline.instance,
        instance_ref=pipeline.instance.get_ref(),
        repository_def=definitions.get_repository_def(),
        resources=dict(definitions.resources or {}),
    )
    return definitions.resolve_sensor_def("watched_folders").evaluate_tick(context)


def launch(pipeline: Any, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """Run the requested job like the daemon does."""
    job = pipeline.definitions().resolve_job_def("ingest_watched")
    tags = {**request.tags, RUN_KEY_TAG: request.run_key}
    return job.execute_in_process(
        instance=pipeline.instance, run_config=request.run_config, tags=tags, raise_on_error=False
    )


@pytest.fixture
def watching(pipeline, world) -> Any:
    (world.root / "config").mkdir(exist_ok=True)
    text = 'watch_folders = ["photos"]\nwatch_batches = "folder"\nwatch_settle_seconds = 0\nisolate_decoders = false\n'
    (world.root / "config" / "settings.toml").write_text(text)
    return pipeline


def test_new_photos_become_a_batch_and_are_processed(watching, daemon, world) -> None:
    assert "no new photos" in tick(watching).skip_message  # those of `batch_1` are known by its manifest
    world.photo("new.png", 40)
    [request] = tick(watching).run_requests
    assert [again.run_key for again in tick(watching).run_requests] == [request.run_key]  # Dagster launches it once
    assert launch(watching, request).success
    assert daemon.tick() == ["photos"]
    assert daemon.finished("photos") == ["./photos/new.png"]
    assert "no new photos" in tick(watching).skip_message
    world.photo("late.png", 50)
    [request] = tick(watching).run_requests
    assert launch(watching, request).success
    assert daemon.tick() == ["photos-2"]
    assert daemon.finished("photos-2") == ["./photos/late.png"]


def test_a_failed_run_is_requested_again_after_a_pause(watching, world, monkeypatch) -> None:
    world.photo("new.png", 60)
    [request] = tick(watching).run_requests
    away = (world.root / "photos").rename(world.root / "away")
    assert not launch(watching, request).success
    first, second = tick(watching), tick(watching)
    assert "does not exist" in first.skip_message
    assert "does not exist" in second.skip_message
    away.rename(world.root / "photos")
    assert not tick(watching).run_requests  # this tick records the failure
    later = time.time() + 70
    monkeypatch.setattr(time, "time", lambda: later)
    [again] = tick(watching).run_requests
    assert again.run_key != request.run_key
    assert again.run_config == request.run_config


def test_the_sensor_leaves_the_folders_to_the_command(watching, world) -> None:
    watch = Watch(world.settings.replace(watch_folders=("photos",)))
    with watch.exclusive():
        assert "another process watches" in tick(watching).skip_message
    watch.close()


@pytest.mark.parametrize(("folders", "status"), [((), "STOPPED"), (("photos",), "RUNNING")])
def test_the_sensor_is_on_if_folders_are_watched(world, folders: tuple[str, ...], status: str) -> None:
    definitions = build_definitions(world.settings.replace(watch_folders=folders))
    assert definitions.resolve_sensor_def("watched_folders").default_status.value == status
