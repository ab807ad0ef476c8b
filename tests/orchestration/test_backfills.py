"""Many batches in one run: exact versions, models loaded once, and a bad batch that fails alone."""

from __future__ import annotations

import threading

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus

from curation_features import build
from curation_features.errors import MissingWeightsError
from curation_features.orchestration.adoption import observation
from curation_features.orchestration.assets import BATCHES_PER_RUN
from curation_features.orchestration.project import build_definitions
from curation_features.schema import ASSETS, LABEL_ASSETS
from curation_features.storage.artifacts import ArtifactStore
from curation_features.weights import LazyModel, Weights

pytestmark = pytest.mark.long


def test_a_run_over_many_batches_leaves_the_same_versions(pipeline, world) -> None:
    loads: list[Weights] = []
    batch_ids = pipeline.accept_many(3)
    clip = LazyModel(lambda: Weights("fake-clip", world.root, ""), lambda found: loads.append(found) or world.clip)
    pipeline.models = {"clip": clip}
    assert pipeline.run_range("b00", "b02").success
    assert (len(loads), world.clip.images_encoded) == (1, 3)
    together = {batch_id: pipeline.data_versions(batch_id) for batch_id in batch_ids}
    tags = {batch_id: dict(pipeline.materialization("features", batch_id).tags) for batch_id in batch_ids}
    assert len({versions["technical_metrics"] for versions in together.values()}) == 3
    for batch_id in batch_ids:
        assert pipeline.run(batch_id).success
        assert pipeline.data_versions(batch_id) == together[batch_id]
        assert pipeline.materialization("features", batch_id).tags.keys() == tags[batch_id].keys()


def test_a_range_makes_its_own_partitions_only(pipeline) -> None:
    """A range without a batch fails, instead of being green."""
    pipeline.accept_many(2)
    [failed] = pipeline.run_range("b01", "b00").filter_events(lambda event: event.is_step_failure)
    assert failed.step_failure_data.user_failure_data.description.startswith("no batch in the range b01...b00: ")
    assert pipeline.run_range("b01", "b01").success
    assert pipeline.instance.get_materialized_partitions(dg.AssetKey("features")) == {"b01"}


def stale(pipeline, batch_id: str) -> set[str]:
    """The assets of a batch that Dagster shows as unsynced."""
    graph = pipeline.definitions().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(
        pipeline.instance, graph, dg._core.loader.LoadingContextForTest(pipeline.instance)
    )
    return {name for name in ASSETS if resolver.get_status(dg.AssetKey(name), batch_id) != StaleStatus.FRESH}


def test_partitions_are_stale_exactly_after_a_change(pipeline, world) -> None:
    batch_ids = pipeline.accept_many(2)
    assert pipeline.run_range("b00", "b01").success
    assert [stale(pipeline, batch_id) for batch_id in batch_ids] == [set(), set()]
    pipeline.accept(world.batch([world.photo("new.png", 3)], "b01"))
    assert stale(pipeline, "b00") == set()
    assert {"technical_metrics", "image_embeddings"} <= stale(pipeline, "b01")
    assert pipeline.run("b01").success
    assert stale(pipeline, "b01") == set()
    pipeline.settings = pipeline.settings.replace(noise_sigma_max=0.1)
    assert stale(pipeline, "b00") == {"technical_metrics"} | ({"features"} & stale(pipeline, "b00"))
    pipeline.settings = world.settings.replace(limit_dark=9.0)
    assert [stale(pipeline, batch_id) for batch_id in batch_ids] == [{"features"}] * 2
    assert world.done_by(lambda: pipeline.run("b00", "features")) == {}
    assert [stale(pipeline, batch_id) for batch_id in batch_ids] == [set(), {"features"}]


def test_a_run_with_other_settings_leaves_its_partition_stale(pipeline, world) -> None:
    other = world.stages(pipeline.settings.replace(noise_sigma_max=0.5))
    definitions = build_definitions(pipeline.settings, resources={"stages": other, "store": pipeline.store})
    job = definitions.resolve_job_def("extract_features")
    assert job.execute_in_process(instance=pipeline.instance, partition_key="batch_1").success
    assert stale(pipeline, "batch_1") == {"technical_metrics"}


def test_of_two_runs_of_a_batch_the_newest_manifest_wins(pipeline, world, monkeypatch) -> None:
    newer = world.batch([world.photo(f"{n}.png", n) for n in range(4)])
    merge, exclusive, later, waits = build.merge, ArtifactStore.exclusive, [], threading.Event()

    def exclusive_or_wait(store, batch_id):
        if later and threading.current_thread() is later[0]:
            waits.set()
        return exclusive(store, batch_id)

    def merge_meanwhile(batch, *rest):
        if not later:  # the second run starts during the first
            pipeline.accept(newer)
            later.append(threading.Thread(target=pipeline.run))
            later[0].start()
            # Dagster configures logging as a run starts: if another thread logs an event then, both may wait forever.
            assert waits.wait(300)
            later[0].join(1)
            assert later[0].is_alive()
        return merge(batch, *rest)

    monkeypatch.setattr(ArtifactStore, "exclusive", exclusive_or_wait)
    monkeypatch.setattr(build, "merge", merge_meanwhile)
    assert pipeline.run().success
    later[0].join(300)
    document = pipeline.features()
    assert len(document["artifacts"]) == 4
    assert stale(pipeline, "batch_1") == set()


def test_a_batch_of_an_older_manifest_is_stale(pipeline, world) -> None:
    newer = world.batch([world.photo("new.png", 3)])
    pipeline.instance.report_runless_asset_event(observation(newer))  # not accepted yet
    assert pipeline.run().success
    assert {"technical_metrics", "image_embeddings"} <= stale(pipeline, "batch_1")
    pipeline.accept(newer)
    assert pipeline.run().success
    assert stale(pipeline, "batch_1") == set()


def test_failed_batches_are_named_and_the_others_are_finished(pipeline, monkeypatch) -> None:
    """One has a damaged manifest; one meets a fault in the code."""
    merge = build.merge

    def merge_or_fail(batch, *rest):
        if batch.batch_id == "b02":
            raise ZeroDivisionError("a fault in the code")
        return merge(batch, *rest)

    monkeypatch.setattr(build, "merge", merge_or_fail)
    batch_ids = pipeline.accept_many(4)
    pipeline.store.manifest_path("b01").write_text("{")
    message = pipeline.failure_of(pipeline.run_range("b00", "b03"))
    assert "2 of 4 batches failed" in message
    assert "b01: " in message
    assert "b02: ZeroDivisionError: a fault in the code" in message
    assert "b03:" not in message
    finished = pipeline.instance.get_materialized_partitions(dg.AssetKey("features"))
    assert finished == set(batch_ids) - {"b01", "b02"}
    assert [name.rsplit("-", 1)[0] for name in pipeline.events()] == ["b00", "b03"]


def test_missing_weights_stop_the_run_at_once(pipeline) -> None:
    asked = []

    def locate():
        asked.append(1)
        raise MissingWeightsError("CLIP is not here")

    pipeline.accept_many(3)
    pipeline.models = {"clip": LazyModel(locate, lambda _: None)}
    result = pipeline.run_range("b00", "b02")
    assert len(asked) == 1
    message = pipeline.failure_of(result)
    assert "CLIP is not here" in message
    assert "batches failed" not in message
    assert pipeline.events() == []


def test_new_labels_relabel_all_batches_and_touch_no_image(pipeline, world) -> None:
    batch_ids = pipeline.accept_many(3)
    assert pipeline.run_range("b00", "b02").success
    before = {batch_id: pipeline.data_versions(batch_id) for batch_id in batch_ids}
    pipeline.write_labels()
    done = world.done_by(lambda: pipeline.run_range("b00", "b02", *LABEL_ASSETS))
    assert done == {"clip_texts": 36}
    for batch_id in batch_ids:
        after = pipeline.data_versions(batch_id)
        changed = {name for name in ASSETS if after[name] != before[batch_id][name]}
        assert changed == set(LABEL_ASSETS)


def test_all_assets_share_one_backfill_policy(pipeline) -> None:
    graph = pipeline.definitions().resolve_asset_graph()
    policies = {graph.get(dg.AssetKey(name)).backfill_policy for name in ASSETS}
    assert policies == {dg.BackfillPolicy.multi_run(BATCHES_PER_RUN)}
    assert BATCHES_PER_RUN > 1
