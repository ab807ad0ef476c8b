"""The assets on a real instance: computation, files and versions of a run."""

from __future__ import annotations

import json
import shutil
import socket

import pandas as pd
import pytest
from dagster._core.definitions.observe import observe

from curation_features.orchestration.assets import preprocess_batches
from curation_features.orchestration.project import build_definitions
from curation_features.schema import ASSETS, LABEL_ASSETS
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.storage.tables import read_metadata

pytestmark = pytest.mark.long


def test_a_run_makes_the_same_features_as_the_service(pipeline, world) -> None:
    assert pipeline.run().success
    batch = pipeline.store.manifest("batch_1")
    json_path, table_path = pipeline.store.feature_paths("batch_1")
    expected = FeaturesService(stages=world.stages()).process(dict(batch.document))
    assert json.loads(json_path.read_bytes()) == expected
    frame = pd.read_parquet(table_path)
    assert frame["photo_id"].tolist() == [artifact.photo_id for artifact in batch.artifacts]
    assert frame["status"].tolist() == ["ok"] * 3
    for asset in ("image_embeddings", "technical_metrics"):
        assert {"photos", "cached", "seconds_decode"} <= pipeline.materialization(asset).metadata.keys()


@pytest.mark.parametrize("has_cache", [True, False])
def test_one_run_decodes_each_photo_once(pipeline, world, has_cache) -> None:
    if not has_cache:
        world.settings.cache_path.parent.mkdir(parents=True)
        world.settings.cache_path.write_text("a file")
    assert world.done_by(pipeline.run) == {
        "decoded": 3, "clip_images": 3, "clip_texts": 300, "clip_iqa": 3, "brisque": 3,
    }  # fmt: skip


def test_a_second_run_recomputes_nothing(finished, world) -> None:
    done: dict[str, int] = {}
    assert finished.changed_by(lambda: done.update(world.done_by(finished.run))) == set()
    assert done == {}
    assert finished.materialization("technical_metrics").metadata["cached"].value == 3


def test_each_asset_counts_its_cached_photos(finished, world) -> None:
    def cached() -> dict[str, int]:
        made = {name: finished.materialization(name).metadata for name in ("technical_metrics", "clip_labels")}
        assert {metadata["photos"].value for metadata in made.values()} == {3}
        return {name: metadata["cached"].value for name, metadata in made.items()}

    assert cached() == {"technical_metrics": 0, "clip_labels": 0}
    assert finished.run().success
    assert cached() == {"technical_metrics": 3, "clip_labels": 3}
    finished.settings = finished.settings.replace(sharpness_scale=50.0)
    assert finished.run().success
    assert cached() == {"technical_metrics": 0, "clip_labels": 3}
    finished.write_labels()
    assert finished.run().success
    assert cached() == {"technical_metrics": 3, "clip_labels": 0}


def test_labels_from_stored_embeddings_are_the_same(finished, world) -> None:
    """Neither the photos nor the cache are needed."""
    path = finished.store.stage_path("clip_labels", "batch_1")
    at_once, versions = pd.read_parquet(path), finished.data_versions()
    assert at_once["label_cosines"].map(len).tolist() == [50] * 3
    shutil.rmtree(world.root / "photos")
    world.stages().cache.clear()
    assert world.done_by(lambda: finished.run("batch_1", "clip_labels", "features")) == {}
    pd.testing.assert_frame_equal(pd.read_parquet(path), at_once)
    assert finished.data_versions() == versions


def test_each_asset_can_be_materialized_separately(pipeline, world) -> None:
    assert world.done_by(lambda: pipeline.run("batch_1", "technical_metrics")) == {
        "decoded": 3, "clip_iqa": 3, "brisque": 3,
    }  # fmt: skip
    assert world.done_by(lambda: pipeline.run("batch_1", "image_embeddings")) == {"decoded": 3, "clip_images": 3}
    assert world.done_by(lambda: pipeline.run("batch_1", "label_embeddings")) == {"clip_texts": 300}
    assert world.done_by(lambda: pipeline.run("batch_1", "clip_labels")) == {}
    assert pipeline.run("batch_1", "features").success
    assert pipeline.store.feature_paths("batch_1")[0].exists()


@pytest.mark.parametrize(
    ("settings", "changed", "work"),
    [
        ({}, {*LABEL_ASSETS}, {"clip_texts": 36}),
        ({"sharpness_scale": 5.0}, {"technical_metrics", "features"}, {"decoded": 3}),
        ({"limit_dark": 9.0}, {"features"}, {}),
    ],
    ids=["labels", "constant", "limit"],
)
def test_a_change_recomputes_only_what_depends_on_it(finished, world, settings, changed, work) -> None:
    if settings:
        finished.settings = finished.settings.replace(**settings)
    else:
        finished.write_labels()
    done: dict[str, int] = {}
    assert finished.changed_by(lambda: done.update(world.done_by(finished.run))) == changed
    assert done == work


@pytest.mark.parametrize("prediction", [(), ("clip_labels",)])
def test_features_alone_keep_the_labels_of_their_cosines(finished, world, prediction) -> None:
    assert not prediction or finished.run("batch_1", *prediction).success
    json_path, table_path = finished.store.feature_paths("batch_1")
    before = json_path.read_bytes(), read_metadata(table_path)["labels"]
    assert len(before[1]) == 50
    finished.write_labels()
    assert finished.run("batch_1", "features").success
    assert (json_path.read_bytes(), read_metadata(table_path)["labels"]) == before
    assert finished.run().success
    assert read_metadata(table_path)["labels"] == list("abcdef")


@pytest.mark.parametrize(
    ("change", "assets"),
    [
        ({"noise_sigma_max": 0.1}, {"technical_metrics"}),
        ({"temperature": 10.0}, {"clip_labels"}),
        ({"model": "local-dir:x"}, {"image_embeddings", "label_embeddings"}),
        ({"fallback_labels": tuple("abcde")}, {"features"}),
        ({"limit_dark": 0.5}, {"features"}),
        ({"workers": 7, "data_dir": "elsewhere", "max_pixels": 10}, set()),
    ],
)
def test_code_versions_follow_the_settings_that_change_numbers(pipeline, change, assets) -> None:
    def versions(settings: Settings) -> dict[str, str | None]:
        specs = build_definitions(settings).resolve_all_asset_specs()
        return {spec.key.to_user_string(): spec.code_version for spec in specs}

    before, after = versions(pipeline.settings), versions(pipeline.settings.replace(**change))
    assert {name for name in before if before[name] != after[name]} == assets
    assert all(before[name] for name in ASSETS)


@pytest.mark.parametrize(
    ("file", "assets"),
    [
        ("clip/open_clip_model.safetensors", {"image_embeddings", "label_embeddings"}),
        ("RN50.pt", {"technical_metrics"}),
        ("brisque.pt", {"technical_metrics"}),
    ],
)
def test_code_versions_follow_weights_that_change_or_arrive(
    pipeline, clip_checkpoint, rn50_archive, brisque_regressor, file, assets
) -> None:
    def versions() -> dict[str, str | None]:
        specs = build_definitions(settings).resolve_all_asset_specs()
        return {spec.key.to_user_string(): spec.code_version for spec in specs}

    def changed() -> set[str]:
        after = versions()
        return {name for name in before if before[name] != after[name]}

    root = pipeline.world.root
    shutil.copytree(clip_checkpoint, root / "clip")
    shutil.copy(rn50_archive, root / "RN50.pt")
    shutil.copy(brisque_regressor, root / "brisque.pt")
    settings = pipeline.settings.replace(
        model="local-dir:clip", clip_iqa_weights="RN50.pt", brisque_weights="brisque.pt"
    )
    data = (root / file).read_bytes()
    (root / file).unlink()
    before = versions()
    (root / file).write_bytes(data)
    assert changed() == assets
    before = versions()
    middle = len(data) // 2
    (root / file).write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert changed() == assets


def test_definitions_connect_to_no_server(pipeline, monkeypatch, tmp_path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert build_definitions(pipeline.settings).resolve_all_asset_specs()


def test_the_code_version_is_kept_with_the_materialization(finished) -> None:
    specs = {spec.key.to_user_string(): spec.code_version for spec in finished.definitions().resolve_all_asset_specs()}
    for name in ASSETS:
        assert (finished.materialization(name).tags or {})["dagster/code_version"] == specs[name]


def test_provenance_points_at_the_observation_of_the_manifest(finished) -> None:
    # Dagster 1.13 leaves the input's data version of an observed source empty; the pointer decides what is stale.
    [observed] = finished.observations()
    made = finished.materialization("technical_metrics")
    assert (made.tags or {})["dagster/input_event_pointer/preprocess_batches"] == str(observed.storage_id)
    assert made.metadata["manifest"].value == finished.store.manifest("batch_1").digest


def test_observing_gives_the_digest_of_every_accepted_manifest(pipeline, world) -> None:
    other = world.batch([world.photo("9.png", 9)], "batch_2")
    pipeline.accept(other)
    result = observe([preprocess_batches], resources={"store": pipeline.store}, instance=pipeline.instance)
    assert result.success
    for batch_id in ("batch_1", "batch_2"):
        event = pipeline.observations(batch_id)[-1]
        assert event.run_id == result.run_id
        assert event.asset_observation is not None
        assert event.asset_observation.tags["dagster/data_version"] == pipeline.store.manifest(batch_id).digest


def test_a_manifest_is_observed_when_it_is_another_than_before(pipeline, world) -> None:
    first, other = (world.batch([world.photo(f"{n}.png", n)], "b") for n in (20, 21))
    for batch in (first, first, other, other, first):
        pipeline.accept(batch)
    observed = [record.asset_observation.tags["dagster/data_version"] for record in pipeline.observations("b")]
    assert observed == [first.digest, other.digest, first.digest]


def test_an_unreadable_manifest_is_skipped_by_the_observation(pipeline, world) -> None:
    pipeline.accept(world.batch([world.photo("9.png", 9)], "batch_2"))
    pipeline.store.manifest_path("batch_2").write_text("{")
    result = observe([preprocess_batches], resources={"store": pipeline.store}, instance=pipeline.instance)
    assert result.success
    assert pipeline.observations()[-1].run_id == result.run_id


def test_stages_of_another_manifest_are_made_first(finished, world) -> None:
    finished.accept(world.batch([world.photo(f"{n}.png", n) for n in range(4)]))
    done = world.done_by(lambda: finished.run("batch_1", "features"))
    assert done["decoded"] == 1
    assert len(finished.features()["artifacts"]) == 4
    digests = {
        finished.store.stage_metadata(name, finished.store.manifest("batch_1"))["manifest"] for name in ASSETS[1:4]
    }
    assert digests == {finished.store.manifest("batch_1").digest}
    assert finished.materialized()["technical_metrics"] == 2


def test_a_photo_changed_between_stages_gets_no_old_labels(finished, world) -> None:
    world.photo("1.png", seed=50)
    finished.run("batch_1", "technical_metrics")
    finished.run("batch_1", "features")
    document = finished.features()
    errors = [[error["reason"] for error in artifact["features"]["errors"]] for artifact in document["artifacts"]]
    assert errors == [[], ["photo_changed"], []]


def test_a_degraded_run_succeeds_and_heals(pipeline, world, missing_model) -> None:
    pipeline.models = {"clip": missing_model}
    assert not pipeline.run().success
    pipeline.settings = world.settings.replace(on_missing_weights="degrade")
    assert pipeline.run().success
    document = pipeline.features()
    assert {artifact["features"]["status"] for artifact in document["artifacts"]} == {"degraded"}
    pipeline.models, pipeline.settings = {}, world.settings
    assert world.done_by(pipeline.run) == {"decoded": 3, "clip_images": 3, "clip_texts": 300}
    document = pipeline.features()
    assert {artifact["features"]["status"] for artifact in document["artifacts"]} == {"ok"}


def test_the_log_of_a_run_is_short(pipeline) -> None:
    result = pipeline.run()
    entries = pipeline.instance.all_logs(result.run_id)
    told = [entry.user_message for entry in entries if not entry.is_dagster_event]
    assert any("Features of batch batch_1 are finished" in message for message in told)
    assert not any("did not yield" in message for message in told)
    assert len(told) <= 4
