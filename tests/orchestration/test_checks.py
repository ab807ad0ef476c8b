"""The asset checks of each partition, evaluated in a run."""

from __future__ import annotations

import json

import dagster as dg
import pytest
from PIL import Image

from curation_features.orchestration.provenance import recent_metadata
from curation_features.service import FeaturesService
from curation_features.verification import CHECKS

pytestmark = pytest.mark.long

NAMES = {check.name for check in CHECKS}


def test_a_good_batch_passes_every_check(finished) -> None:
    assert finished.checks() == dict.fromkeys(NAMES, True)


def test_blocking_checks_are_errors_and_the_others_warn(finished) -> None:
    graph = finished.definitions().resolve_asset_graph()
    blocking = {key.name for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == {check.name for check in CHECKS if check.blocking}
    assert len(blocking) == 4
    storage = finished.instance.event_log_storage
    for key in (key for key in graph.asset_check_keys if key.name in NAMES):
        [record] = storage.get_asset_check_execution_history(key, limit=1)
        severity = record.event.dagster_event.event_specific_data.severity
        assert severity is (dg.AssetCheckSeverity.ERROR if key.name in blocking else dg.AssetCheckSeverity.WARN)


def test_wrong_artifacts_fail_the_batch_and_send_no_event(pipeline, world, monkeypatch) -> None:
    pipeline.accept_many(2)
    write = type(pipeline.store).write_features

    def damaging(store, document, *rest):
        artifact = write(store, document, *rest)
        if document["batch_id"] == "b00":
            damaged = json.loads(artifact.json_path.read_bytes())
            damaged["artifacts"][0]["exif"]["iso"] = 65
            artifact.json_path.write_text(json.dumps(damaged))
        return artifact

    monkeypatch.setattr(type(pipeline.store), "write_features", damaging)
    result = pipeline.run_range("b00", "b01")
    assert not result.success
    checks = pipeline.checks("b00")
    assert not checks["metadata_unchanged"]
    assert checks["values_finite"]
    assert pipeline.checks("b01")["metadata_unchanged"]
    assert [name.rsplit("-", 1)[0] for name in pipeline.events()] == ["b01"]


def test_only_the_checks_that_were_asked_for_are_recorded(pipeline) -> None:
    assert pipeline.run_checks(names={"values_finite"}).success is False  # nothing was materialized yet
    assert pipeline.checks() == {"values_finite": False}
    assert pipeline.run().success
    assert pipeline.checks() == dict.fromkeys(NAMES, True)


def test_degraded_photos_warn_and_do_not_fail_the_run(pipeline, world) -> None:
    artifacts = [world.photo("0.png"), {"photo_id": "gone", "original_uri": "gone.jpg"}]
    pipeline.accept(world.batch(artifacts, "bad"))
    assert pipeline.run("bad").success
    photos = [artifact["features"] for artifact in pipeline.features("bad")["artifacts"]]
    assert [photo["status"] for photo in photos] == ["ok", "failed"]
    assert [error["stage"] for error in photos[1]["errors"]] == ["photo"]
    assert pipeline.checks("bad")["few_degraded"] is False
    assert len(pipeline.events()) == 1


def test_an_unused_cache_is_reported(finished, world) -> None:
    assert finished.run().success
    assert finished.checks()["cache_effective"]
    world.stages().cache.clear()
    assert finished.run().success
    assert finished.checks()["cache_effective"] is False
    for change in (
        {"noise_sigma_max": 0.2},
        {"model": "local-dir:other"},
        {"temperature": 10.0},
    ):  # a reason to recompute
        finished.settings = finished.settings.replace(**change)
        assert finished.run().success
        assert finished.checks()["cache_effective"], change


def test_finished_artifacts_can_be_checked_again(finished, world) -> None:
    path, _ = finished.store.feature_paths("batch_1")
    good = path.read_bytes()
    assert world.done_by(lambda: finished.run_checks()) == {}
    assert all(finished.checks().values())
    path.write_bytes(good.replace(b'"iso": 64', b'"iso": 65'))
    assert path.read_bytes() != good
    assert not finished.run_checks().success
    assert finished.checks()["metadata_unchanged"] is False


def test_the_check_of_the_cache_alone_needs_no_features(pipeline) -> None:
    assert pipeline.run("batch_1", "technical_metrics").success
    assert pipeline.run_checks(names={"cache_effective"}).success
    assert pipeline.checks()["cache_effective"]


def test_features_from_outside_dagster_are_checked_by_files(pipeline, world) -> None:
    stages, batch = world.stages(), pipeline.store.manifest("batch_1")
    labels = stages.classifier.vocabulary.labels
    with pipeline.store.embeddings("batch_1", "version", "model") as vectors:
        merged = FeaturesService(stages=stages).run(batch, vectors.add)
        pipeline.store.write_features(merged.document, merged.rows(), merged.version, labels, vectors)
    assert pipeline.run_checks().success
    assert pipeline.checks() == {check.name: True for check in CHECKS if check.blocking}


def test_all_finished_batches_can_be_checked_at_once(pipeline, world) -> None:
    batch_ids = pipeline.accept_many(3)
    assert pipeline.run_range("b00", "b01").success  # b02 was not materialized yet
    assert all(pipeline.checks(batch_id) == dict.fromkeys(NAMES, True) for batch_id in batch_ids[:2])
    path, _ = pipeline.store.feature_paths("b01")
    path.write_bytes(path.read_bytes().replace(b'"iso": 64', b'"iso": 65'))
    result = pipeline.run_checks(None)
    assert not result.success
    assert "1 of 2 batches failed" in pipeline.failure_of(result)
    assert [pipeline.checks(batch_id).get("metadata_unchanged") for batch_id in batch_ids] == [True, False, None]


def test_the_quarantine_can_be_checked_again(pipeline) -> None:
    def look() -> bool:
        key = dg.AssetCheckKey(dg.AssetKey("preprocess_batches"), "nothing_quarantined")
        job = pipeline.definitions().resolve_implicit_global_asset_job_def()
        job = job.get_subset(asset_selection=set(), asset_check_selection={key})
        [evaluation] = job.execute_in_process(instance=pipeline.instance).get_asset_check_evaluations()
        return evaluation.passed

    assert look()
    quarantine = pipeline.settings.data_path / "quarantine"
    quarantine.mkdir(parents=True)
    (quarantine / "bad.json").write_text("{")
    (quarantine / "bad.reason.json").write_text("{}")
    assert not look()
    (quarantine / "bad.json").unlink()
    assert look()


def test_unusually_many_flags_are_reported(pipeline, world) -> None:
    def run(batch_id: str, count: int = 10, **limits: float) -> bool:
        pipeline.settings = world.settings.replace(**limits)
        artifacts = [world.photo(f"{batch_id}{n}.png", n) for n in range(count)]
        if batch_id == "dark":
            for artifact in artifacts:
                path = world.root / artifact["original_uri"]
                Image.open(path).point(lambda value: value // 6).save(path)
        pipeline.accept(world.batch([{**one, "photo_id": one["original_uri"]} for one in artifacts], batch_id))
        assert pipeline.run(batch_id).success
        return pipeline.checks(batch_id)["flags_as_usual"]

    limits = {"limit_dark": 3.0, "limit_noisy_luma": 99.0, "limit_noisy_chroma": 99.0, "limit_blurred": 99.0}
    limits["limit_shaken_blur"] = 99.0
    assert run("usual", 30, **limits)
    assert pipeline.materialization("features", "usual").metadata["flagged"].value == 0
    assert run("dark", **limits) is False
    assert run("dark", **limits, warn_flag_shift=0.8) is False  # its own flags do not count
    assert pipeline.materialization("features", "dark").metadata["flagged"].value == 10
    assert run("dark", **{**limits, "limit_dark": 2.9})  # other limits than of earlier batches: not comparable


def test_unusual_labels_are_reported(pipeline, world) -> None:
    def run(batch_id: str) -> None:
        artifacts = [world.photo(f"{batch_id}{number}.png", number) for number in range(20)]
        pipeline.accept(world.batch([{**photo, "photo_id": photo["original_uri"]} for photo in artifacts], batch_id))
        assert pipeline.run(batch_id).success

    run("one")
    run("two")
    assert pipeline.checks("two")["labels_as_usual"]
    world.clip._projection *= -1  # a broken model predicts other labels
    run("odd")
    run("odd")  # its own labels do not count
    assert pipeline.checks("odd")["labels_as_usual"] is False
    pipeline.write_labels()
    run("odd")  # other labels than in earlier batches: not comparable
    assert pipeline.checks("odd")["labels_as_usual"]


def test_recent_batches_are_fetched_page_by_page() -> None:
    key = dg.AssetKey("features")
    with dg.DagsterInstance.ephemeral() as instance:
        for number in range(25):  # the partitions 0 to 12, twice but for the last one
            event = dg.AssetMaterialization(key, partition=str(number % 13), metadata={"number": number})
            instance.report_runless_asset_event(event)
        newest = {str(number % 13): number for number in range(25)}
        found = [(partition, metadata["number"].value) for partition, metadata in recent_metadata(instance, key, 40)]
        assert found == sorted(newest.items(), key=lambda item: -item[1])
        assert len(list(recent_metadata(instance, key, 11))) == 11
