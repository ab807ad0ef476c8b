"""Batches processed without Dagster are reported to it, and no older result replaces a newer one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from curation_features.engines import Shard
from curation_features.engines.batch_work import ProcessBatches, batch_work
from curation_features.errors import ManifestError, StoreError, SupersededError
from curation_features.finish import finish_batch
from curation_features.manifest import batch_from, to_json
from curation_features.orchestration import batch_run
from curation_features.orchestration.adoption import adopt_pending
from curation_features.orchestration.assets import SPECS
from curation_features.schema import ASSETS, LABEL_ASSETS
from curation_features.storage.adoptions import Adoptions

pytestmark = pytest.mark.long


@pytest.fixture
def older(pipeline):
    """The first accepted manifest."""
    return pipeline.store.manifest("batch_1")


@pytest.fixture
def newer(pipeline, older):
    """A manifest of the same batch with one more photo."""
    artifacts = [*older.document["artifacts"], pipeline.world.photo("new.png", 9)]
    return pipeline.world.batch(artifacts)


def names(document) -> list[str]:
    return [artifact["original_uri"] for artifact in document["artifacts"]]


def adopt(pipeline) -> list[str]:
    return adopt_pending(pipeline.store, pipeline.instance, SPECS)


def test_a_backfill_of_labels_keeps_what_process_added(pipeline, newer) -> None:
    assert pipeline.run().success
    pipeline.process(newer)
    pipeline.settings = pipeline.settings.replace(temperature=7.0)
    done = pipeline.world.done_by(lambda: pipeline.run("batch_1", *LABEL_ASSETS))
    assert names(pipeline.features()) == names(newer.document)
    assert set(done) <= {"clip_texts"}
    event = pipeline.outbox.latest.get("batch_1")
    assert event["data"]["manifest"] == newer.digest
    assert event["data"]["version"] == pipeline.features()["artifacts"][0]["features"]["version"]


@pytest.mark.parametrize("vocabulary", [None, "weddings"])
def test_a_processed_batch_becomes_known_to_dagster(pipeline, world, vocabulary: str | None) -> None:
    path = world.root / "config" / "vocabularies" / "weddings.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"labels": ["bride", "groom", "cake", "dance", "rings"]}))
    named = {"vocabulary": vocabulary} if vocabulary else {}
    batch = batch_from({"batch_id": "alone", **named, "artifacts": [world.photo("p.png", 5)]})
    made = pipeline.process(batch)
    assert not pipeline.instance.has_dynamic_partition("batch_id", "alone")
    assert adopt(pipeline) == ["alone"]
    assert pipeline.instance.has_dynamic_partition("batch_id", "alone")
    assert pipeline.materialized("alone") == dict.fromkeys(ASSETS, 1)
    adopted = {name: pipeline.materialization(name, "alone").tags for name in ASSETS}
    assert adopted["features"]["dagster/data_version"] == made.event["data"]["features"]
    assert pipeline.run("alone").success  # a run over the same input reports the same
    for name in ASSETS:
        tags = pipeline.materialization(name, "alone").tags
        pointers = {key for key in tags if "input_event_pointer" in key}
        assert {k: v for k, v in tags.items() if k not in pointers} == {
            k: v for k, v in adopted[name].items() if k not in pointers
        }
        assert "NULL" not in [adopted[name][key] for key in pointers]


def test_shards_of_an_engine_become_known_to_dagster(pipeline, world, tmp_path, monkeypatch) -> None:
    """The work of every engine, called here as an engine's process calls it."""
    monkeypatch.setattr(ProcessBatches, "models", lambda self, settings: world.models())
    shards = []
    for n in range(3):
        batch = world.batch([world.photo(f"{n}.png", n)], f"shard-{n}")
        path = tmp_path / f"{n}.json"
        path.write_bytes(to_json(batch.document))
        shards.append(Shard(batch.batch_id, path, 1))

    def run() -> list[str]:
        function = batch_work(pipeline.settings).prepare()
        return [function(shard, lambda photos: None, wait=True).state for shard in shards]

    assert run() == ["done"] * 3
    ids = [shard.batch_id for shard in shards]
    assert adopt(pipeline) == ids
    events = pipeline.events()
    for batch_id in ids:
        assert pipeline.instance.has_dynamic_partition("batch_id", batch_id)
        assert pipeline.materialized(batch_id) == dict.fromkeys(ASSETS, 1)
        assert len(pipeline.observations(batch_id)) == 1
        data = pipeline.outbox.latest.get(batch_id)["data"]
        assert pipeline.data_versions(batch_id)["features"] == data["features"]
    # Neither a later run of the engine nor one of Dagster measures or announces anything again.
    assert run() == ["already_done"] * 3
    assert adopt(pipeline) == []
    assert "decoded" not in world.done_by(lambda: pipeline.run("shard-1"))
    assert pipeline.events() == events


def test_a_batch_is_adopted_once(pipeline, newer) -> None:
    pipeline.process(newer)
    assert adopt(pipeline) == ["batch_1"]
    assert adopt(pipeline) == []
    assert pipeline.materialized() == dict.fromkeys(ASSETS, 1)


def test_a_batch_that_was_only_accepted_becomes_a_partition(pipeline, world) -> None:
    from curation_features.processing import accept_without_dagster

    batch = world.batch([world.photo("p.png", 5)], "killed")
    accept_without_dagster(batch, pipeline.store)
    assert adopt(pipeline) == ["killed"]
    assert pipeline.materialized("killed") == dict.fromkeys(ASSETS, 0)
    assert pipeline.run("killed").success


def test_a_manifest_that_dagster_would_miss_is_not_accepted(pipeline, world) -> None:
    from curation_features.processing import accept_without_dagster

    Adoptions(pipeline.settings.data_path).folder.write_bytes(b"a file")
    with pytest.raises(StoreError, match="adoptions"):
        accept_without_dagster(world.batch([world.photo("p.png", 5)], "missed"), pipeline.store)
    assert not pipeline.store.manifest_path("missed").exists()


def test_a_superseded_result_is_not_reported(pipeline, older, newer) -> None:
    pipeline.process(newer)
    waiting = Adoptions(pipeline.settings.data_path).path("batch_1").read_bytes()
    pipeline.accept(older)
    assert pipeline.run().success
    before = pipeline.materialized()
    Adoptions(pipeline.settings.data_path).path("batch_1").write_bytes(waiting)  # like before the adoption
    assert adopt(pipeline) == ["batch_1"]
    assert pipeline.materialized() == before
    assert (
        pipeline.record("features").asset_materialization.tags["dagster/data_version"]
        == (pipeline.outbox.latest.get("batch_1")["data"]["features"])
    )


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"batch_id": "batch_1", "manifest": 3, "assets": {"a": {}}}'])
def test_a_damaged_adoption_file_is_ignored(pipeline, newer, damage: bytes) -> None:
    pipeline.process(newer)
    Adoptions(pipeline.settings.data_path).path("batch_1").write_bytes(damage)
    adopt(pipeline)
    assert Adoptions(pipeline.settings.data_path).waiting() == []
    assert pipeline.run().success
    assert names(pipeline.features()) == names(newer.document)


def test_a_tick_of_the_sensor_adopts(daemon, world) -> None:
    daemon.pipeline.process(world.batch([world.photo("p.png", 5)], "alone"))
    assert daemon.tick() == []
    assert "alone" in daemon.skipped
    assert daemon.instance.has_dynamic_partition("batch_id", "alone")
    daemon.tick()
    assert "alone" not in daemon.skipped


def test_a_run_of_an_older_manifest_writes_nothing(pipeline, older, newer, monkeypatch) -> None:
    """`process` of an older manifest ends after a newer one was finished."""
    from curation_features import build

    def finish_late(batch, *args):
        if batch.digest == older.digest:
            pipeline.accept(newer)
            monkeypatch.setattr(build, "finish_batch", finish_batch)
            pipeline_run()
        return finish_batch(batch, *args)

    def pipeline_run() -> None:
        store, stages = pipeline.store, pipeline.world.stages(pipeline.settings)
        for result in build.build_assets(newer, ASSETS, stages, store):
            if result.finished:
                result.finished.announce(pipeline.outbox, pipeline.settings.root)

    monkeypatch.setattr(build, "finish_batch", finish_late)
    with pytest.raises(SupersededError, match="another manifest of batch 'batch_1' was accepted"):
        pipeline.process(older)
    assert names(pipeline.features()) == names(newer.document)
    assert len(pipeline.events()) == 1


def test_a_run_begins_again_with_a_newer_manifest(pipeline, older, newer, monkeypatch) -> None:
    made = []

    def build_and_accept(batch, *args, **options):
        made.append(batch.digest)
        if len(made) == 1:
            pipeline.accept(newer)
        return build_assets(batch, *args, **options)

    build_assets = batch_run.build_assets
    monkeypatch.setattr(batch_run, "build_assets", build_and_accept)
    assert pipeline.run().success
    assert made == [older.digest, newer.digest]
    assert names(pipeline.features()) == names(newer.document)
    assert len(pipeline.events()) == 1


def test_process_publishes_nothing_of_altered_files(pipeline, older, monkeypatch) -> None:
    """A field of the manifest changes before the write."""
    from curation_features import finish

    class Altering(type(pipeline.store)):
        def write_features(self, document, *args, **options):
            document = json.loads(json.dumps(document))
            document["artifacts"][1]["exif"]["iso"] = 65
            return super().write_features(document, *args, **options)

    def finish_altered(batch, merged, store, *args):
        store.__class__ = Altering
        return finish.finish_batch(batch, merged, store, *args)

    monkeypatch.setattr("curation_features.build.finish_batch", finish_altered)
    with pytest.raises(StoreError, match=r"artifacts\[1\]") as failure:
        pipeline.process(older)
    assert "metadata_unchanged" in str(failure.value)
    assert pipeline.events() == []
    assert pipeline.outbox.latest.get("batch_1") is None


def test_a_batch_of_the_same_id_in_another_folder_is_apart(pipeline, newer) -> None:
    elsewhere = replace(pipeline, settings=pipeline.settings.replace(data_dir="other"))
    elsewhere.process(newer)
    assert adopt(pipeline) == []


@pytest.mark.parametrize("accept", ["process", "accept"])
def test_an_id_that_differs_in_case_only_is_refused(pipeline, world, accept: str) -> None:
    batch = world.batch([world.photo("p.png", 5)], "BATCH_1")
    with pytest.raises(ManifestError, match="in case only"):
        getattr(pipeline, accept)(batch)
    assert not pipeline.store.manifest_path("BATCH_1").exists()
    assert Adoptions(pipeline.settings.data_path).waiting() == []
