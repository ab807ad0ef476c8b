"""Unavailable photo storage in Dagster: a failed run, no event, and a new run once it is back."""

from __future__ import annotations

import shutil

import pytest

from curation_features.orchestration.backfill import RETRY_FAILED
from curation_features.orchestration.launch import materialize

pytestmark = pytest.mark.long


@pytest.fixture
def photos(world) -> list[dict[str, object]]:
    return [world.photo(f"n{number}.png", number) for number in range(3)]


def succeeded(daemon) -> bool:
    return daemon.instance.get_runs(limit=1)[0].is_success


def test_a_run_without_one_readable_photo_fails(daemon, world, photos) -> None:
    """The photos are on a network share, which is not mounted."""
    away = (world.root / "photos").rename(world.root / "away")
    daemon.drop(photos)
    assert daemon.tick() == ["batch_9"]
    assert not succeeded(daemon)
    assert daemon.pipeline.events() == []
    assert not (daemon.pipeline.settings.data_path / "features" / "batch_9.json").exists()
    away.rename(world.root / "photos")
    daemon.drop(photos)
    assert daemon.tick() == ["batch_9"]
    assert succeeded(daemon)
    assert len(daemon.pipeline.events()) == 1
    daemon.drop(photos)
    assert daemon.tick() == []


def test_the_same_manifest_runs_again_for_a_missing_photo(daemon, world, photos) -> None:
    missing = world.root / str(photos[1]["original_uri"])
    shutil.move(missing, world.root / "apart.png")
    daemon.drop(photos)
    assert daemon.tick() == ["batch_9"]
    assert daemon.pipeline.outbox.latest.get("batch_9")["data"]["retryable"] == 1
    daemon.drop(photos)  # still missing
    assert daemon.tick() == ["batch_9"]
    shutil.move(world.root / "apart.png", missing)
    daemon.drop(photos)
    assert daemon.tick() == ["batch_9"]
    assert daemon.pipeline.outbox.latest.get("batch_9")["data"]["retryable"] == 0
    daemon.drop(photos)
    assert daemon.tick() == []


def test_missing_storage_fails_only_its_batch(pipeline, world) -> None:
    gone = world.photo("gone.png", 7)
    (world.root / str(gone["original_uri"])).unlink()
    pipeline.accept(world.batch([gone], "a_gone"))
    pipeline.accept(world.batch([world.photo("here.png", 8)], "b_here"))
    assert not pipeline.run_range("a_gone", "b_here").success
    assert pipeline.features("b_here")["artifacts"][0]["features"]["status"] == "ok"
    assert [name.partition("-")[0] for name in pipeline.events()] == ["b_here"]


def test_a_retry_through_dagster_reads_the_failed_photos_only(pipeline, world) -> None:
    batch = pipeline.store.manifest("batch_1")
    path = world.root / batch.artifacts[0].image_uri
    shutil.move(path, world.root / "apart.png")
    assert materialize(batch, pipeline.definitions(), pipeline.instance).cached == 0
    shutil.move(world.root / "apart.png", path)
    for artifact in batch.artifacts[1:]:
        (world.root / artifact.image_uri).unlink()  # they are not read
    definitions = pipeline.definitions()
    done = world.done_by(lambda: materialize(batch, definitions, pipeline.instance, retry_failed=True))
    assert done == {"decoded": 1, "clip_images": 1, "clip_iqa": 1, "brisque": 1}
    assert {artifact["features"]["status"] for artifact in pipeline.features()["artifacts"]} == {"ok"}
    assert RETRY_FAILED in pipeline.instance.get_runs(limit=1)[0].tags
