"""Vocabularies of single batches in Dagster: results, changes and faults."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from curation_features.manifest import batch_from
from curation_features.pipeline.code_versions import code_versions
from curation_features.schema import LABEL_ASSETS
from curation_features.storage.tables import read_metadata

pytestmark = pytest.mark.long

WEDDINGS = ["bride", "groom", "rings", "cake", "dance floor", "speech"]


def keep(world, name: str, labels: Sequence[str]) -> None:
    path = world.root / "config" / "vocabularies" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": list(labels)}))


@pytest.fixture
def weddings(pipeline, world):
    """A batch with a named vocabulary; it shares the photos of `batch_1`, which has none."""
    keep(world, "weddings", WEDDINGS)
    artifacts = pipeline.store.manifest("batch_1").document["artifacts"]
    pipeline.accept(batch_from({"batch_id": "weddings_1", "vocabulary": "weddings", "artifacts": artifacts}))
    return pipeline


def test_each_batch_has_results_of_its_vocabulary(weddings, world) -> None:
    assert weddings.run("batch_1").success
    results = []
    done = world.done_by(lambda: results.append(weddings.run("weddings_1")))
    assert results[0].success
    assert done == {"clip_texts": 6 * len(WEDDINGS)}  # the photos are cached
    ours, others = (weddings.materialization("label_embeddings", name) for name in ("weddings_1", "batch_1"))
    assert ours.metadata["labels"].value == len(WEDDINGS)
    assert ours.metadata["path"].value != others.metadata["path"].value
    versions = [weddings.data_versions(batch_id) for batch_id in ("weddings_1", "batch_1")]
    assert {name for name in versions[0] if versions[0][name] != versions[1][name]} == set(LABEL_ASSETS)
    json_path, table_path = weddings.store.feature_paths("weddings_1")
    document = json.loads(json_path.read_bytes())
    assert document["vocabulary"] == "weddings"
    assert {label["label"] for artifact in document["artifacts"] for label in artifact["features"]["clip_labels"]} <= {
        *WEDDINGS
    }
    assert read_metadata(table_path)["labels"] == WEDDINGS
    assert all(weddings.checks("weddings_1").values())


def test_a_changed_vocabulary_affects_only_its_batches(weddings, world) -> None:
    assert weddings.run_range("batch_1", "weddings_1").success
    before = code_versions(weddings.settings, world.stages())
    keep(world, "weddings", [*WEDDINGS, "bouquet"])
    after = code_versions(weddings.settings, world.stages())
    assert {name for name in after if after[name] != before[name]} == {"label_embeddings"}
    old = {batch_id: weddings.data_versions(batch_id) for batch_id in ("batch_1", "weddings_1")}
    done = world.done_by(lambda: weddings.run_range("batch_1", "weddings_1", *LABEL_ASSETS))  # like a backfill
    assert done == {"clip_texts": 6 * (len(WEDDINGS) + 1)}
    new = {batch_id: weddings.data_versions(batch_id) for batch_id in old}
    assert new["batch_1"] == old["batch_1"]
    changed = {name for name in new["weddings_1"] if new["weddings_1"][name] != old["weddings_1"][name]}
    assert changed == set(LABEL_ASSETS)


def test_code_versions_return_when_a_vocabulary_is_deleted(pipeline, world) -> None:
    plain = code_versions(pipeline.settings, world.stages())
    keep(world, "weddings", WEDDINGS)
    named = code_versions(pipeline.settings, world.stages())
    keep(world, "weddings", ["twice", "twice"])
    broken = code_versions(pipeline.settings, world.stages())  # and the definitions still load
    (world.root / "config" / "vocabularies" / "weddings.json").unlink()
    assert code_versions(pipeline.settings, world.stages()) == plain
    assert len({versions["label_embeddings"] for versions in (plain, named, broken)}) == 3
    assert pipeline.run().success


def test_an_unknown_vocabulary_fails_only_its_batch(pipeline, world) -> None:
    artifacts = pipeline.store.manifest("batch_1").document["artifacts"]
    pipeline.accept(batch_from({"batch_id": "batch_2", "vocabulary": "weddings", "artifacts": artifacts}))
    result = pipeline.run_range("batch_1", "batch_2")
    assert not result.success
    assert "no vocabulary has the name 'weddings'" in str(result.filter_events(lambda e: e.is_step_failure))
    assert pipeline.store.feature_paths("batch_1")[0].exists()
    assert not pipeline.store.feature_paths("batch_2")[0].exists()
    keep(world, "weddings", WEDDINGS)
    assert pipeline.run("batch_2").success


def test_the_sensor_quarantines_an_invalid_vocabulary_name(daemon, world) -> None:
    def drop(vocabulary: str, name: str) -> None:
        daemon.folder.mkdir(parents=True, exist_ok=True)
        document = {"batch_id": name, "vocabulary": vocabulary, "artifacts": [world.photo("a.png", 1)]}
        (daemon.folder / f"{name}.json").write_text(json.dumps(document))

    features = daemon.pipeline.store.feature_paths("batch_9")[0]
    drop("../labels", "batch_8")
    drop("weddings", "batch_9")
    assert daemon.tick() == ["batch_9"]
    assert not features.exists()
    reason = json.loads((world.settings.data_path / "quarantine" / "batch_8.reason.json").read_bytes())
    assert reason["field"] == "vocabulary"
    keep(world, "weddings", WEDDINGS)
    drop("weddings", "batch_9")  # the same manifest again
    assert daemon.tick() == ["batch_9"]
    assert json.loads(features.read_bytes())["vocabulary"] == "weddings"


def test_labels_are_compared_within_one_vocabulary(weddings, world) -> None:
    keep(world, "other", list("vwxyz"))
    artifacts = weddings.store.manifest("batch_1").document["artifacts"]
    for batch_id in ("weddings_2", "weddings_3", "other_1"):
        batch = {"batch_id": batch_id, "vocabulary": batch_id.partition("_")[0], "artifacts": artifacts * 50}
        weddings.accept(batch_from(batch))
    assert weddings.run_range("batch_1", "other_1").success
    descriptions = {}
    [key] = (k for k in weddings.definitions().resolve_asset_graph().asset_check_keys if k.name == "labels_as_usual")
    for record in weddings.instance.event_log_storage.get_asset_check_execution_history(key, limit=50):
        evaluation = record.event.dagster_event.event_specific_data
        descriptions[evaluation.partition] = evaluation.description
    assert descriptions["other_1"] == "nothing to compare with yet"  # after four batches
    assert descriptions["weddings_3"].startswith("0.000, at most")
