"""Reconciliation as a truth table: for each change, the requested assets and batches, tick by tick."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from curation_features.orchestration.adoption import adopt_pending
from curation_features.orchestration.assets import SPECS
from curation_features.schema import ASSETS, LABEL_ASSETS

# Dagster's own evaluation warns.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::dagster.BetaWarning")]

ALL = set(ASSETS)
BOTH = {"batch_1", "batch_2"}


@pytest.fixture
def pipeline(finished):
    return finished


@pytest.fixture
def reconciler(pipeline, new_reconciler):
    """Two batches are finished, and nothing has changed since."""
    found = new_reconciler(pipeline)
    assert found.tick() == {}
    return found


def write_vocabulary(world) -> None:
    (world.root / "config" / "vocabularies").mkdir(parents=True, exist_ok=True)
    (world.root / "config" / "vocabularies" / "new.json").write_text(json.dumps({"labels": list("abcdef")}))


def write_templates(world) -> None:
    (world.root / "config").mkdir(exist_ok=True)
    (world.root / "config" / "templates.json").write_text(json.dumps({"templates": ["a sketch of {}"]}))


def settings_changed(**changes):
    return lambda pipeline, world: setattr(pipeline, "settings", pipeline.settings.replace(**changes))


@pytest.mark.parametrize(
    ("change", "assets"),
    [
        (lambda pipeline, world: pipeline.write_labels(), set(LABEL_ASSETS)),
        (lambda pipeline, world: write_templates(world), set(LABEL_ASSETS)),
        (lambda pipeline, world: write_vocabulary(world), set(LABEL_ASSETS)),
        (settings_changed(temperature=10.0), {"clip_labels", "features"}),
        (settings_changed(model="local-dir:other"), ALL - {"technical_metrics"}),
        (settings_changed(noise_sigma_max=0.1), {"technical_metrics", "features"}),
        (settings_changed(fallback_labels=tuple("abcde")), {"features"}),
        (settings_changed(workers=3, batch_size=7, event_webhook="http://localhost:1"), set()),
    ],
    ids=[
        "labels",
        "templates",
        "named vocabulary",
        "temperature",
        "model",
        "constant",
        "fallback",
        "nothing that changes numbers",
    ],
)
def test_a_change_requests_exactly_the_assets_it_touches_once(reconciler, pipeline, world, change, assets) -> None:
    change(pipeline, world)
    assert reconciler.tick() == dict.fromkeys(assets, BOTH)
    assert reconciler.tick() == {}  # requested is enough, even before it has run


def test_nothing_is_requested_once_what_was_requested_has_run(reconciler, pipeline) -> None:
    pipeline.settings = pipeline.settings.replace(temperature=10.0)
    requested = reconciler.tick()
    assert requested
    for batch_id in sorted(BOTH):
        assert pipeline.run(batch_id, *requested).success
    assert reconciler.tick() == {}


def test_arrivals_and_changed_manifests_are_left_to_the_sensor(reconciler, pipeline, world) -> None:
    pipeline.accept(world.batch([world.photo("10.png", 10)], "batch_3"))
    assert reconciler.tick() == {}
    pipeline.run("batch_3")
    assert reconciler.tick() == {}
    pipeline.accept(world.batch([world.photo("10.png", 10), world.photo("11.png", 11)], "batch_3"))
    assert reconciler.tick() == {}
    pipeline.run("batch_3")
    assert reconciler.tick() == {}


def test_an_adopted_batch_is_requested_only_by_a_change(reconciler, pipeline, world) -> None:
    longer = [world.photo(f"{n}.png", n) for n in range(4)]
    for batch in (world.batch(longer), world.batch(longer[:2], "batch_3")):
        pipeline.process(batch)
    assert adopt_pending(pipeline.store, pipeline.instance, SPECS) == ["batch_1", "batch_3"]
    assert reconciler.tick() == {}
    pipeline.settings = pipeline.settings.replace(temperature=10.0)
    assert reconciler.tick() == {"clip_labels": BOTH | {"batch_3"}, "features": BOTH | {"batch_3"}}
    assert pipeline.run("batch_3", "clip_labels", "features").success
    assert reconciler.tick() == {}


def test_a_change_does_not_request_a_batch_before_its_first_run(reconciler, pipeline, world) -> None:
    pipeline.accept(world.batch([world.photo("10.png", 10)], "batch_3"))
    assert reconciler.tick() == {}
    pipeline.settings = pipeline.settings.replace(noise_sigma_max=0.1)
    pipeline.write_labels()
    assert reconciler.tick() == dict.fromkeys(ALL - {"image_embeddings"}, BOTH)
    pipeline.run("batch_3")
    assert reconciler.tick() == {}


def test_a_parent_with_new_content_requests_its_children(reconciler, pipeline, world) -> None:
    pipeline.run("batch_1", "technical_metrics")
    assert reconciler.tick() == {}  # the same content
    world.photo("1.png", seed=50)
    pipeline.run("batch_1", "technical_metrics", "image_embeddings")
    assert reconciler.tick() == {"clip_labels": {"batch_1"}, "features": {"batch_1"}}
    assert pipeline.run("batch_1", "clip_labels", "features").success
    assert reconciler.tick() == {}


def start_run(pipeline, batch_id: str, assets: set[str] = ALL) -> dg.DagsterRun:
    """A started run of a batch that has not ended."""
    job = pipeline.definitions().resolve_job_def("extract_features")
    run = pipeline.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": batch_id}
    )
    for name in assets:
        planned = dg._core.events.AssetMaterializationPlannedData(dg.AssetKey(name), partition=batch_id)
        event = dg.DagsterEvent.build_asset_materialization_planned_event("extract_features", "photo_features", planned)
        pipeline.instance.report_dagster_event(event, run.run_id)
    return run


def test_what_is_running_is_not_requested_again(reconciler, pipeline) -> None:
    start_run(pipeline, "batch_1")
    pipeline.settings = pipeline.settings.replace(noise_sigma_max=0.1)
    assert reconciler.tick() == {"technical_metrics": {"batch_2"}, "features": {"batch_2"}}


def test_two_changes_one_tick_apart_are_both_requested(reconciler, pipeline) -> None:
    for temperature in (10.0, 20.0):
        pipeline.settings = pipeline.settings.replace(temperature=temperature)
        assert reconciler.tick() == {"clip_labels": BOTH, "features": BOTH}
        for batch_id in sorted(BOTH):
            assert pipeline.run(batch_id, "clip_labels", "features").success


def test_a_change_right_after_a_run_is_requested(reconciler, pipeline) -> None:
    assert pipeline.run("batch_1").success
    pipeline.settings = pipeline.settings.replace(temperature=10.0)
    assert reconciler.tick() == {"clip_labels": BOTH, "features": BOTH}


def test_a_change_waits_for_a_run_that_ends_with_the_old_code(reconciler, pipeline) -> None:
    old = pipeline.settings
    run = start_run(pipeline, "batch_1")
    assert reconciler.tick() == {}
    pipeline.settings = old.replace(temperature=10.0)
    assert reconciler.tick() == {"clip_labels": {"batch_2"}, "features": {"batch_2"}}
    pipeline.settings = old
    assert pipeline.run("batch_1").success
    pipeline.instance.report_run_failed(run)
    pipeline.settings = old.replace(temperature=10.0)
    requested = [reconciler.tick() for _ in range(3)]
    assert [{name: batches & {"batch_1"} for name, batches in tick.items()} for tick in requested if tick] == [
        {"clip_labels": {"batch_1"}, "features": {"batch_1"}}
    ]


def test_an_asset_is_requested_after_the_run_of_its_parent(reconciler, pipeline) -> None:
    run = start_run(pipeline, "batch_1", {"image_embeddings"})
    pipeline.settings = pipeline.settings.replace(temperature=10.0)
    assert reconciler.tick() == {"clip_labels": {"batch_2"}, "features": {"batch_2"}}
    pipeline.instance.report_run_failed(run)
    assert reconciler.tick() == {"clip_labels": {"batch_1"}, "features": {"batch_1"}}


def test_reconciliation_is_off_until_someone_turns_it_on(pipeline) -> None:
    sensor = pipeline.definitions().resolve_sensor_def("reconcile")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert "default_automation_condition_sensor" not in {
        found.name for found in pipeline.definitions().get_repository_def().sensor_defs
    }
