"""The sensors, tick by tick, with the daemon's work between ticks."""

from __future__ import annotations

import json
import os

import dagster as dg
import pytest

from curation_features.inbox.folders import submit
from curation_features.orchestration.partitions import DIMENSION

pytestmark = pytest.mark.long


def test_a_new_manifest_gets_a_partition_and_one_run(daemon, pipeline, world) -> None:
    daemon.drop([world.photo("a.png", 1)])
    assert daemon.tick() == ["batch_9"]
    assert "batch_9" in pipeline.instance.get_dynamic_partitions(DIMENSION)
    [observed] = pipeline.observations("batch_9")
    digest = pipeline.store.manifest("batch_9").digest
    assert observed.asset_observation.tags["dagster/data_version"] == digest
    assert daemon.finished() == ["./photos/a.png"]
    assert daemon.tick() == []
    assert "no new or changed manifests" in daemon.skipped
    assert [path.name for path in (daemon.folder / "accepted").iterdir()] == [f"batch_9-{digest[:12]}.json"]
    assert not list(daemon.folder.glob("*.json"))


def test_the_pool_has_its_limit_before_the_first_run(daemon, pipeline, world) -> None:
    storage = pipeline.instance.event_log_storage
    daemon.drop([world.photo("a.png", 1)])
    daemon.evaluate()
    assert [(limit.name, limit.limit) for limit in storage.get_pool_limits()] == [("models", 1)]


def test_the_same_manifest_again_starts_no_second_run(daemon, world) -> None:
    photo = world.photo("a.png", 1)
    daemon.drop([photo])
    daemon.drop([photo], name="copy")
    assert daemon.tick() == ["batch_9"]
    daemon.drop([photo])
    assert daemon.tick() == []
    assert "unchanged: batch_9" in daemon.skipped
    assert daemon.tick() == []


def test_a_changed_manifest_and_a_change_back_start_one_run(daemon, world) -> None:
    first, second = world.photo("a.png", 1), world.photo("b.png", 2)
    for artifacts in ([first], [first, second], [first], [first, second]):
        daemon.drop(artifacts)
        assert daemon.tick() == ["batch_9"]
        assert daemon.finished() == [artifact["original_uri"] for artifact in artifacts]
        assert daemon.tick() == []


def test_of_two_versions_in_one_tick_the_later_one_runs(daemon, world) -> None:
    first, second = world.photo("a.png", 1), world.photo("b.png", 2)
    daemon.drop([first], name="z")
    daemon.drop([second], name="a")
    assert daemon.tick() == ["batch_9"]
    assert daemon.finished() == ["./photos/b.png"]
    assert daemon.tick() == []


def test_a_manifest_whose_run_failed_may_be_delivered_again(daemon, pipeline, world, missing_model) -> None:
    photo = world.photo("a.png", 1)
    pipeline.models = {"clip": missing_model}
    daemon.drop([photo])
    assert daemon.tick() == ["batch_9"]
    assert not pipeline.store.feature_paths("batch_9")[0].exists()
    pipeline.models = {}
    daemon.drop([photo])
    assert daemon.tick() == ["batch_9"]
    assert daemon.finished() == ["./photos/a.png"]
    daemon.drop([photo])
    assert daemon.tick() == []


@pytest.mark.parametrize("step", ["events", "partitions", "runs"])
@pytest.mark.parametrize("history", ["new", "changed back"])
def test_a_daemon_killed_in_a_tick_launches_the_batch_once(daemon, world, step, history) -> None:
    first, second = world.photo("a.png", 1), world.photo("b.png", 2)
    for artifacts in [[first], [second]] if history == "changed back" else []:
        daemon.drop(artifacts)
        assert daemon.tick() == ["batch_9"]
    daemon.drop([first])
    assert daemon.tick(dies_before=step) == []
    assert daemon.tick() == ["batch_9"]
    assert daemon.finished() == ["./photos/a.png"]
    assert daemon.tick() == []


def test_a_bad_file_is_quarantined_and_reported(daemon, pipeline, world) -> None:
    daemon.drop([world.photo("a.png", 1)])
    (daemon.folder / "0-bad.json").write_text('{"batch_id": "../x", "artifacts": []}')
    assert daemon.tick() == ["batch_9"]
    reason = json.loads((pipeline.settings.data_path / "quarantine" / "0-bad.reason.json").read_bytes())
    assert reason["field"] == "batch_id"
    key = dg.AssetCheckKey(dg.AssetKey("preprocess_batches"), "nothing_quarantined")
    [record] = pipeline.instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    evaluation = record.event.dagster_event.event_specific_data
    assert not evaluation.passed
    [row] = evaluation.metadata["files"].records
    assert row.data["file"] == "0-bad.json"
    assert row.data["reason"] == reason["reason"]


def quarantine_checks(pipeline) -> list[bool]:
    """Results of the quarantine check, oldest first."""
    key = dg.AssetCheckKey(dg.AssetKey("preprocess_batches"), "nothing_quarantined")
    records = pipeline.instance.event_log_storage.get_asset_check_execution_history(key, limit=20)
    return [record.event.dagster_event.event_specific_data.passed for record in reversed(records)]


def test_the_quarantine_check_survives_a_crash(daemon, pipeline) -> None:
    daemon.folder.mkdir(parents=True)
    (daemon.folder / "bad.json").write_text("[]")
    daemon.tick(dies_before="events")
    assert "quarantined: bad.json" in daemon.skipped
    assert quarantine_checks(pipeline) == []
    for _ in range(3):
        daemon.tick()
    assert quarantine_checks(pipeline) == [False]
    for path in (pipeline.settings.data_path / "quarantine").glob("bad*"):
        path.unlink()
    for _ in range(3):
        daemon.tick()
    assert quarantine_checks(pipeline) == [False, True]


def test_a_manifest_that_cannot_be_accepted_now_is_retried(daemon, pipeline, world) -> None:
    obstacle = pipeline.store.manifest_path("a_bad_one")
    obstacle.mkdir(parents=True)
    for number, batch_id in enumerate(["a_bad_one", "good"]):
        daemon.drop([world.photo(f"{batch_id}.png", number)], batch_id)
    assert daemon.tick() == ["good"]
    assert daemon.tick() == []
    obstacle.rmdir()
    assert daemon.tick() == ["a_bad_one"]
    assert daemon.tick() == []


def test_a_run_that_never_started_is_launched_again(daemon, pipeline, world) -> None:
    photo = world.photo("a.png", 1)
    daemon.drop([photo])
    [request] = daemon.evaluate().run_requests
    job = pipeline.definitions().resolve_job_def("extract_features")
    pipeline.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.NOT_STARTED, tags={**request.tags, "dagster/run_key": request.run_key}
    )
    daemon.cursor = daemon.evaluate().cursor
    daemon.drop([photo])
    assert [again.run_key for again in daemon.evaluate().run_requests] == [request.run_key]


def test_a_half_written_file_waits_and_is_named(daemon, world) -> None:
    photo = world.photo("a.png", 1)
    text = json.dumps({"batch_id": "batch_9", "artifacts": [photo]})
    daemon.folder.mkdir(parents=True, exist_ok=True)
    (daemon.folder / "slow.json").write_text(text[:40])
    assert daemon.tick() == []
    assert "still being written: slow.json" in daemon.skipped
    (daemon.folder / "slow.json").write_text(text)
    assert daemon.tick() == ["batch_9"]


def test_other_folders_are_watched_as_well(daemon, pipeline, world) -> None:
    pipeline.settings = pipeline.settings.replace(incoming_dirs=("drop",))
    document = {"batch_id": "batch_9", "artifacts": [world.photo("a.png", 1)]}
    submit(json.dumps(document).encode(), world.root / "drop", "one")
    assert daemon.tick() == []  # the resource reads the settings file, not this object
    (world.root / "config").mkdir(exist_ok=True)
    (world.root / "config" / "settings.toml").write_text('incoming_dirs = ["drop"]')
    assert daemon.tick() == ["batch_9"]


def test_a_cloud_event_is_taken_like_a_bare_manifest(daemon, world) -> None:
    event = {
        "specversion": "1.0", "id": "1", "source": "/preprocess", "type": "preprocess.completed",
        "data": {"batch_id": "batch_9", "artifacts": [world.photo("a.png", 1)]},
    }  # fmt: skip
    submit(json.dumps(event).encode(), daemon.folder, "event")
    assert daemon.tick() == ["batch_9"]
    assert daemon.finished() == ["./photos/a.png"]


def test_a_tick_is_bounded_and_the_next_ones_take_the_rest(daemon, world, monkeypatch) -> None:
    from curation_features.inbox.folders import Inbox

    take = Inbox.take
    monkeypatch.setattr(Inbox, "take", lambda folders, cursor: take(folders, cursor, limit=2))
    names = [f"many_{number}" for number in range(3)]
    for number, name in enumerate(names):
        daemon.drop([world.photo(f"{name}.png", number)], name)
    launched = [daemon.tick() for _ in range(3)]
    assert [len(batches) for batches in launched] == [2, 1, 0]
    assert sorted(name for batches in launched for name in batches) == names


def delivery(pipeline):
    definitions = pipeline.definitions()
    context = dg.build_sensor_context(
        instance=pipeline.instance,
        repository_def=definitions.get_repository_def(),
        resources=dict(definitions.resources or {}),
    )
    return definitions.resolve_sensor_def("event_delivery").evaluate_tick(context)


def test_pending_events_are_delivered_once_the_webhook_is_up(pipeline, world, receiver, monkeypatch) -> None:
    pipeline.settings = pipeline.settings.replace(event_webhook=receiver.url)
    monkeypatch.setenv("CURATION_FEATURES_EVENT_WEBHOOK", receiver.url)
    receiver.down()
    assert pipeline.run().success
    assert len(pipeline.events()) == 1
    assert "1 pending" in delivery(pipeline).skip_message
    receiver.up()
    assert "1 delivered, 0 pending" in delivery(pipeline).skip_message
    assert [f"{event_id}.json" for event_id in receiver.taken()] == pipeline.events()
    assert "0 delivered" in delivery(pipeline).skip_message


@pytest.mark.parametrize(("webhook", "status"), [("", "STOPPED"), ("http://localhost:1", "RUNNING")])
def test_delivery_runs_where_there_is_a_webhook(pipeline, webhook, status) -> None:
    pipeline.settings = pipeline.settings.replace(event_webhook=webhook)
    assert pipeline.definitions().resolve_sensor_def("event_delivery").default_status.value == status


def test_an_id_that_differs_in_case_only_is_quarantined(daemon, world) -> None:
    daemon.drop([world.photo("a.png", 1)], "trip")
    daemon.drop([world.photo("b.png", 2)], "Trip", name="later")
    os.utime(daemon.folder / "later.json", (2e9, 2e9))  # second
    assert daemon.tick() == ["trip"]
    [name] = [
        path.name
        for path in (daemon.pipeline.settings.data_path / "quarantine").glob("*.json")
        if "reason" not in path.name
    ]
    assert name == "later.json"
    reason = json.loads((daemon.pipeline.settings.data_path / "quarantine" / "later.reason.json").read_bytes())
    assert reason["field"] == "batch_id"
    assert "differs from the batch 'trip' in case only" in reason["reason"]
    assert "Trip" not in daemon.instance.get_dynamic_partitions("batch_id")
    assert daemon.tick() == []
    assert daemon.finished("trip") == ["./photos/a.png"]
