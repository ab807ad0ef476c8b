"""Which batches an engine skips, and that a skipped one is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from worlds import World

from curation_features.engines.batch_work import ProcessBatches, batch_work
from curation_features.engines.executor import Shard, ShardResult
from curation_features.errors import BusyError, ManifestError
from curation_features.manifest import to_json
from curation_features.pipeline import Models
from curation_features.processing import accept_without_dagster
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore


def shard_of(world: World, names: str = "ab", **fields: Any) -> Shard:
    artifacts = [world.photo(f"{name}.png", ord(name)) for name in names]
    if "z" in names:
        artifacts[-1]["original_uri"] = "./photos/missing.png"
    path = world.root / "trip.json"
    path.write_bytes(to_json({"batch_id": "trip", "artifacts": artifacts, **fields}))
    return Shard("trip", path, len(artifacts))


def process(world: World, shard: Shard, settings: Settings | None = None, **options: Any) -> ShardResult:
    """Process a shard as a new process would."""

    class Work(ProcessBatches):
        def models(self, _: Settings) -> Models:
            return world.models()

    given = json.loads(json.dumps(batch_work(settings or world.settings, **options).settings))
    return Work(given)(shard, lambda photos: None, wait=False)


def files(world: World) -> dict[str, bytes]:
    data = world.settings.data_path
    places = [path for path in data.rglob("*") if path.is_file() and "locks" not in path.parts]
    return {str(path): path.read_bytes() for path in places if not path.name.endswith(".lock")}


def test_a_finished_batch_is_not_touched(world: World) -> None:
    shard = shard_of(world)
    first = process(world, shard)
    assert (first.state, first.photos, first.statuses) == ("done", 2, {"ok": 2, "degraded": 0, "failed": 0})
    made = files(world)
    found: list[ShardResult] = []
    assert world.done_by(lambda: found.append(process(world, shard))) == {}
    assert [(one.state, one.photos, one.statuses) for one in found] == [("already_done", 2, first.statuses)]
    assert files(world) == made


def remove(place: str) -> Callable[[World], None]:
    def act(world: World) -> None:
        (path,) = world.settings.data_path.glob(place)
        path.unlink()

    return act


def no_event_noted(world: World) -> None:
    path = world.settings.data_path / "adoptions" / "trip.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "event": None, "assets": {}}))


def other_accepted(world: World) -> None:
    other = world.batch([world.photo("c.png", 5)], "trip")
    accept_without_dagster(other, ArtifactStore(world.settings.data_path))


def altered_features(world: World) -> None:
    path = world.settings.data_path / "features" / "trip.json"
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    "disturb",
    [
        *(
            pytest.param(remove(place), id=place)
            for place in (
                *("features/trip.json", "features/trip.parquet", "features/trip.html", "events/latest/trip.json"),
                *("features/embeddings/trip.parquet", "events/features.completed/*.json", "manifests/trip.json"),
                "stages/clip_labels/trip.parquet",
            )
        ),
        no_event_noted,
        other_accepted,
        altered_features,
    ],
)
def test_an_incomplete_batch_is_completed(world: World, disturb: Callable[[World], None]) -> None:
    shard = shard_of(world)
    process(world, shard)
    made = files(world)
    disturb(world)
    assert process(world, shard).state == "done"
    completed = files(world)
    changing = str(world.settings.data_path / "adoptions" / "trip.json")  # it holds timings
    assert {**completed, changing: b""} == {**made, changing: b""}
    assert json.loads(completed[changing])["event"] == json.loads(made[changing])["event"]
    assert process(world, shard).state == "already_done"


@pytest.mark.parametrize(
    "changes",
    [{"limit_dark": 0.5}, {"sharpness_scale": 1000.0}, {"temperature": 20.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_changed_settings_make_a_batch_again(world: World, changes: dict[str, Any]) -> None:
    shard = shard_of(world)
    process(world, shard)
    settings = world.settings.replace(**changes)
    assert [process(world, shard, settings).state for _ in range(2)] == ["done", "already_done"]


def test_a_changed_manifest_makes_a_batch_again(world: World) -> None:
    process(world, shard_of(world))
    assert process(world, shard_of(world, note="changed")).state == "done"


def test_a_retry_makes_failed_photos_again(world: World) -> None:
    shard = shard_of(world, "abz")
    assert process(world, shard).statuses == {"ok": 2, "degraded": 0, "failed": 1}
    assert process(world, shard).state == "already_done"
    world.photo("missing.png", ord("z"))
    assert process(world, shard, retry_failed=True).statuses == {"ok": 3, "degraded": 0, "failed": 0}
    assert process(world, shard, retry_failed=True).state == "already_done"


def test_a_batch_of_another_process_is_busy(world: World) -> None:
    shard = shard_of(world)
    with ArtifactStore(world.settings.data_path).exclusive("trip"), pytest.raises(BusyError):
        process(world, shard)


def test_a_manifest_that_was_replaced_is_refused(world: World) -> None:
    with pytest.raises(ManifestError, match="was 'walk', and is 'trip' now"):
        process(world, replace(shard_of(world), batch_id="walk"))


def test_work_has_no_secrets(world: World) -> None:
    settings = world.settings.replace(event_webhook="http://user:hidden@host", event_webhook_token="hidden")
    given = batch_work(settings).settings
    assert "hidden" not in json.dumps(given)
    assert given["settings"]["max_pixels"] == settings.max_pixels


def test_settings_and_secrets_reach_the_work(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation_features.engines.batch_work import _settings_from

    settings = world.settings.replace(photo_roots=("/a", "/b"), temperature=3.0)
    given = json.loads(json.dumps(batch_work(settings).settings))
    monkeypatch.setenv("CURATION_FEATURES_EVENT_WEBHOOK", "https://example.com")
    monkeypatch.setenv("CURATION_FEATURES_TEMPERATURE", "9")  # only the driver's count
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _settings_from(given) == settings.replace(event_webhook="https://example.com", workers=3)
