"""Artifacts on disk, and the tables in them."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from records import NORM, batch, degraded, failed, measured, write_features

from curation_features.errors import BusyError, ManifestError, StoreError
from curation_features.manifest import batch_from
from curation_features.schema import METRICS, FeatureError, Measurement, PhotoRecord
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import STAGE_TABLES, read_rows


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def test_a_manifest_comes_back_whole(store: ArtifactStore) -> None:
    accepted = batch("a", "b", note={"z": 1, "a": [None, 1.5]})
    store.put_manifest(accepted)
    assert store.manifest("b") == accepted
    assert store.batch_ids() == ["b"]


def test_a_manifest_missing_or_of_another_batch_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="materialize MANIFEST"):
        store.manifest("b")
    store.put_manifest(batch("a"))
    store.manifest_path("other").write_bytes(store.manifest_path("b").read_bytes())
    with pytest.raises(StoreError, match="holds the manifest of batch 'b'"):
        store.manifest("other")


def test_records_survive_their_tables(store: ArtifactStore) -> None:
    records = [measured("a", np.random.default_rng(0).normal(size=768)), degraded("b"), failed("c")]
    store.write_stages(batch("a", "b", "c"), records, {stage: {} for stage in STAGE_TABLES})
    back = {name: list(store.read_stage(name, batch("a", "b", "c"))) for name in STAGE_TABLES}
    for found in back.values():
        assert [(item.info, item.failure) for item in found] == [(item.info, item.failure) for item in records]
    for before, technical, embedded, labelled in zip(records[:2], *back.values(), strict=False):
        assert technical.measurements == before.measurements
        np.testing.assert_array_equal(embedded.embedding.vector, before.embedding.vector, strict=True)
        assert embedded.embedding.norm == NORM
        assert labelled.prediction == before.prediction
    assert back["image_embeddings"][2].embedding.vector is None


def test_embeddings_of_an_earlier_release_have_no_norm(store: ArtifactStore) -> None:
    """Their table has no such column; it is served, shortened, and has the same data version."""
    before, after, stages = batch("x", "y"), batch("x"), {"image_embeddings": {"embedding": "1"}}
    records = [measured(name, np.random.default_rng(0).normal(size=8)) for name in ("x", "y")]
    digest = store.write_stages(before, records, stages)["image_embeddings"].digest
    path = store.stage_path("image_embeddings", "b")
    pq.write_table(pq.read_table(path).drop_columns("embedding_norm"), path)
    for made_of, photos in ((before, records), (after, records[:1])):
        for found, record in zip(store.read_stage("image_embeddings", made_of), photos, strict=True):
            assert found.embedding.norm is None
            np.testing.assert_array_equal(found.embedding.vector, record.embedding.vector)
        store.remove_from_stage("image_embeddings", "b", "y", {before.digest: after.digest})
    assert "embedding_norm" not in pq.read_schema(path).names
    for record in records:
        record.embedding = replace(record.embedding, norm=None)
    assert store.write_stages(before, records, stages)["image_embeddings"].digest == digest


def test_a_stage_of_another_manifest_is_refused(store: ArtifactStore) -> None:
    store.write_stages(batch("a"), [measured("a")], {"clip_labels": {}})
    with pytest.raises(StoreError, match="another version of its manifest"):
        list(store.read_stage("clip_labels", batch("a", "b")))
    with pytest.raises(StoreError, match="materialize it"):
        list(store.read_stage("technical_metrics", batch("a")))


def test_the_digest_follows_content_and_versions(store: ArtifactStore) -> None:
    def written(record: PhotoRecord, **versions: str) -> str:
        return store.write_stages(batch("a"), [record], {"technical_metrics": versions})["technical_metrics"].digest

    changed = measured("a")
    changed.measurements["noise"] = Measurement(0.250001, {"noise_sigma": 1.5})
    assert written(measured("a")) == written(measured("a"))
    assert len({written(measured("a")), written(changed), written(measured("a"), noise="2")}) == 3


def test_the_table_has_null_for_defaults_in_pandas(store: ArtifactStore) -> None:
    artifact = write_features(store, [measured("a"), degraded("b"), failed("c")])
    frame = pd.read_parquet(artifact.table_path)
    assert list(frame["status"]) == ["ok", "degraded", "failed"]
    assert list(frame["photo_id"]) == ["a", "b", "c"]
    assert frame["noise"].isna().tolist() == [False, True, True]
    assert json.loads(artifact.json_path.read_bytes())["artifacts"][1]["features"]["tech"]["noise"] == 1.0
    assert frame["tenengrad"][0] == 1.5
    assert frame["clip_labels"][2] is None
    assert frame["label"].isna().tolist() == [False, False, True]
    assert all(math.isfinite(value) for value in frame["sharpness"].dropna())


def test_the_same_features_are_the_same_bytes(store: ArtifactStore) -> None:
    first = write_features(store, [measured("a")])
    before = first.table_path.read_bytes(), first.json_path.read_bytes()
    assert write_features(store, [measured("a")]) == first
    assert (first.table_path.read_bytes(), first.json_path.read_bytes()) == before


def test_text_that_arrow_cannot_hold_does_not_stop_a_batch(store: ArtifactStore) -> None:
    odd = batch_from({"batch_id": "b", "artifacts": [{"photo_id": "p", "original_uri": "bad\ud800.jpg"}]})
    record = PhotoRecord("p", "bad\ud800.jpg", failure=FeatureError("photo", "missing", "no file bad\ud800.jpg"))
    assert pd.read_parquet(write_features(store, [record], odd).table_path)["status"].tolist() == ["failed"]
    store.write_stages(odd, [record], {"technical_metrics": {}})


def test_an_empty_batch_is_a_table_without_rows(store: ArtifactStore) -> None:
    assert pd.read_parquet(write_features(store, []).table_path).empty


@pytest.mark.parametrize("name", ["features", "features/embeddings"])
def test_a_folder_that_cannot_be_written_is_a_clean_failure(store: ArtifactStore, name: str) -> None:
    (store.data_path / name).parent.mkdir(parents=True)
    (store.data_path / name).write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"b\.(json|parquet): cannot be written"):
        write_features(store, [measured("a")])


def test_interrupted_rows_leave_the_old_table(store: ArtifactStore) -> None:
    def breaking():
        yield measured("a")
        raise RuntimeError("killed")

    store.write_stages(batch("a", "b"), [measured("a"), measured("b")], {"technical_metrics": {}})
    path = store.stage_path("technical_metrics", "b")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="killed"):
        store.write_stages(batch("a", "b"), breaking(), {"technical_metrics": {}, "image_embeddings": {}})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert list(store.stage_path("image_embeddings", "b").parent.iterdir()) == []


def test_a_damaged_table_names_itself_and_the_remedy(store: ArtifactStore) -> None:
    store.write_stages(batch("a"), [measured("a")], {"image_embeddings": {}})
    path = store.stage_path("image_embeddings", "b")
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    remedy = r"(?s)image_embeddings/b\.parquet: cannot be read .*materialize image_embeddings"
    with pytest.raises(StoreError, match=remedy):
        list(store.read_stage("image_embeddings", batch("a")))


# --- Metadata of columns, and the origin of a photo ---


def test_field_metadata_has_unit_range_and_direction(store: ArtifactStore) -> None:
    schema = pq.read_schema(write_features(store, [measured("a")]).table_path)

    def facts_of(name: str) -> dict[str, str]:
        facts = {key.decode(): value.decode() for key, value in schema.field(name).metadata.items()}
        assert facts.pop("description")
        return {key: value for key, value in facts.items() if not key.startswith("PARQUET:")}

    assert facts_of("sharpness") == {"range": "[0, 1]", "direction": "1 is best"}
    assert facts_of("noise") == {"range": "[0, 1]", "direction": "0 is best"}
    assert facts_of("noise_sigma") == {"unit": "share of full scale", "direction": "low is best"}
    assert facts_of("label_cosines") == {"unit": "cosine", "range": "[-1, 1]"}
    assert facts_of("width") == {"unit": "px"}
    assert facts_of("camera") == {}
    assert {metric.name: facts_of(metric.name)["direction"] for metric in METRICS} == {
        metric.name: f"{metric.best} is best" for metric in METRICS
    }
    assert all(schema.field(name).metadata[b"description"] for name in schema.names)


NOTHING = {"taken": None, "camera": None, "lens": None, "iso": None}


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        (
            {"datetime": "2024:02:29 23:59:58", "camera": "=1+1", "lens": "<b>35 mm</b>", "iso": 64, "gps": [47, 8]},
            {"taken": datetime(2024, 2, 29, 23, 59, 58), "camera": "=1+1", "lens": "<b>35 mm</b>", "iso": 64},
        ),
        ({"camera": "Unknown", "lens": "", "iso": None, "datetime": None}, NOTHING),
        ({"camera": 5, "lens": ["x"], "iso": "64", "datetime": 20240229}, NOTHING),
        ({"iso": True, "datetime": "2023:02:29 00:00:00"}, NOTHING),
        ({"iso": 0, "datetime": "0000:00:00 00:00:00"}, NOTHING),
        ({"iso": 2**31, "datetime": "2024:02:28 10:00:00Z"}, NOTHING),
        ({"iso": 64.5, "datetime": "\u0662024:02:28 10:00:00"}, NOTHING),
        ({"iso": 2**31 - 1, "datetime": "0001:01:01 00:00:00"}, {"iso": 2**31 - 1, "taken": datetime(1, 1, 1)}),
        ([], NOTHING),
        ("exif", NOTHING),
        (None, NOTHING),
    ],
)
def test_implausible_values_of_the_origin_are_null(
    store: ArtifactStore, exif: object, expected: dict[str, object]
) -> None:
    artifact = {"photo_id": "a", "std_uri": "a.jpg", "original_uri": "b.jpg", "exif": exif}
    manifest = batch_from({"batch_id": "b", "artifacts": [artifact]})
    [row] = read_rows(write_features(store, [measured("a")], manifest).table_path)
    assert {name: row[name] for name in NOTHING} == NOTHING | expected
    assert (row["original_uri"], row["image_uri"]) == ("b.jpg", "a.jpg")
    assert json.loads(row["artifact"]) == artifact


# Known ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["manifests", "features", "batches"])
def test_an_id_that_differs_from_a_known_one_in_case_only(store: ArtifactStore, place: str) -> None:
    (store.data_path / place).mkdir(parents=True)
    (store.data_path / place / "Trip-A.json").touch()
    for batch_id in ("Trip-A", "trip", "trip-b", "Trip-A.json"):
        store.check_batch_id(batch_id)
    for batch_id in ("trip-a", "TRIP-A", "trip-A"):
        with pytest.raises(ManifestError, match="'Trip-A'") as caught:
            store.check_batch_id(batch_id)
        assert caught.value.field == "batch_id"


def test_a_known_id_is_right_and_needs_no_list(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, batch_id in (("manifests", "trip"), ("features", "Trip")):
        (store.data_path / place).mkdir(parents=True)
        (store.data_path / place / f"{batch_id}.json").touch()
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} is listed"))
    store.check_batch_id("trip")
    store.check_batch_id("Trip")


def test_many_new_ids_need_few_lists(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is used for 5 s, which neither hides an id that this store has accepted nor refuses a deleted one."""
    store.put_manifest(batch_from({"batch_id": "trip", "artifacts": []}))
    lists, now, listdir = [], [0.0], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: lists.append(path) or listdir(path))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for number in range(100):
        store.check_batch_id(f"new-{number}")
    assert len(lists) == 3, "one of each folder"
    store.put_manifest(batch_from({"batch_id": "late", "artifacts": []}))
    for refused in ("Trip", "Late"):
        with pytest.raises(ManifestError, match=f"'{refused.lower()}'"):
            store.check_batch_id(refused)
    store.manifest_path("trip").unlink()
    store.check_batch_id("Trip")
    store.manifest_path("by-others").touch()
    now[0] = 6.0
    with pytest.raises(ManifestError, match="'by-others'"):
        store.check_batch_id("By-Others")


def test_a_file_system_that_knows_no_case_hides_no_clash(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_manifest(batch_from({"batch_id": "trip", "artifacts": []}))
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    store.check_batch_id("trip")
    with pytest.raises(ManifestError, match="'trip'"):
        store.check_batch_id("Trip")


def test_the_newest_manifest_of_three_places_counts(store: ArtifactStore) -> None:
    assert store.newest_manifest("trip") is None
    paths = [store.data_path / place / "trip.json" for place in ("manifests", "features", "batches")]
    for seconds, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (seconds, seconds))
        assert store.newest_manifest("trip") == path
    os.utime(paths[1], (5, 5))
    assert store.newest_manifest("trip") == paths[1]


def test_a_locked_batch_can_be_skipped(store: ArtifactStore) -> None:
    with store.exclusive("b"), pytest.raises(BusyError, match="works on batch b"):
        store.exclusive("b", wait=False).__enter__()
    with store.exclusive("b", wait=False):
        pass


def test_a_photo_leaves_a_stage_and_the_others_stay(store: ArtifactStore) -> None:
    before, after = batch("x", "y", "z"), batch("x", "z")
    records = [measured(name) for name in ("x", "y", "z")]
    store.write_stages(before, records, {"technical_metrics": {"noise": "1"}}, "model", ["cat"])
    whole = list(read_rows(store.stage_path("technical_metrics", "b")))
    store.remove_from_stage("technical_metrics", "b", "y", {before.digest: after.digest})
    assert list(read_rows(store.stage_path("technical_metrics", "b"))) == [whole[0], whole[2]]
    metadata = store.stage_metadata("technical_metrics", after)
    assert (metadata["versions"], metadata["labels"], metadata["model"]) == ({"noise": "1"}, ["cat"], "model")
    store.remove_from_stage("clip_labels", "b", "y", {})
    assert not store.stage_path("clip_labels", "b").exists()
