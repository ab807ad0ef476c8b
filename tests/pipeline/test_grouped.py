"""Fingerprints as a part of a photo's result, and groups within a batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from worlds import World

from curation_features.build import build_assets
from curation_features.fingerprints import measure
from curation_features.groups.photos import Group, Member
from curation_features.manifest import Batch
from curation_features.pipeline.grouped import Compared, key_of, photo_of, stacked
from curation_features.schema import ASSETS, PhotoInfo, PhotoRecord
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import GROUP_COLUMNS


def build(world: World, batch: Batch, *assets: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Build assets in new stages; return the features, and the rows of their table."""
    stages = world.stages()
    store = ArtifactStore(stages.settings.data_path)
    store.put_manifest(batch)
    for result in build_assets(batch, assets, stages, store):
        assert result.finished is None or not any(result.finished.problems.values()), result.finished.problems
    json_path, table_path = store.feature_paths(batch.batch_id)
    document = json.loads(json_path.read_bytes())
    return [item["features"] for item in document["artifacts"]], pq.read_table(table_path).to_pylist()


def copies(world: World) -> Batch:
    """Photos `a`, `b`, again `a`, its bytes under another id, and one that cannot be read."""
    first, second = world.photo("a.png"), world.photo("b.png", 1)
    gone = {"photo_id": "gone", "original_uri": "photos/gone.png"}
    return world.batch([first, second, first, {**first, "photo_id": "copy"}, gone])


def test_equal_bytes_are_a_group_in_json_and_table(world: World) -> None:
    found, rows = build(world, copies(world), *ASSETS)
    groups = [features["group"] for features in found]
    assert [group and (group["kind"], group["size"], group["similarity"]) for group in groups] == [
        ("copy", 2, 1.0), None, ("copy", 2, 1.0), ("copy", 2, 1.0), None,
    ]  # fmt: skip
    assert groups[0] == groups[2]
    assert {groups[0]["id"], groups[3]["id"]} == {groups[0]["id"]}
    worse, better = sorted((groups[0], groups[3]), key=lambda group: group["copy_of"] is None)
    names = {groups[0]["reason"]: found[0], groups[3]["reason"]: found[3]}
    assert better["copy_of"] is None
    assert worse["copy_of"] in {copies(world).artifacts[place].photo_id for place in (0, 3)}
    assert len(names) == 2 or worse["rank"] == better["rank"]
    for group, row in zip(groups, rows, strict=True):
        assert [row[name] for name in GROUP_COLUMNS] == [*(group or dict.fromkeys(GROUP_COLUMNS)).values()]
    assert {row["version_groups"] for row in rows} == {found[0]["version"]["groups"]}
    assert build(world, copies(world), "features") == (found, rows)  # from the stages
    assert world.run(copies(world).document)[0] == found  # by the service, without stages


def test_a_fingerprint_that_fails_costs_no_other_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = world.batch([world.photo("a.png"), world.photo("narrow.png", 1, (40, 40))])
    plain = measure.measure

    def fails(rgb: Any) -> Any:
        if rgb.shape[1] == 40:
            raise RuntimeError("no corners")
        return plain(rgb)

    monkeypatch.setattr(measure, "measure", fails)
    found, _ = build(world, batch, *ASSETS)
    assert found[0]["errors"] == []
    assert found[1]["errors"] == [{"stage": "fingerprint", "reason": "internal_error", "message": "no corners"}]
    assert [features["status"] for features in found] == ["ok", "degraded"]
    assert None not in found[1]["tech"].values()
    assert build(world, batch, "features")[0] == found
    monkeypatch.undo()
    assert build(world, batch, *ASSETS)[0][1]["errors"] == []


def test_of_an_earlier_cache_entry_only_this_part_is_missing(world: World) -> None:
    batch = world.batch([world.photo("a.png")])
    first, _ = world.run(batch.document)
    [path] = world.settings.cache_path.glob("*.json")
    assert world.run(batch.document) == (first, {})
    cache, [artifact] = world.stages().cache, batch.artifacts
    entry = cache.load(artifact.photo_id, artifact.photo_id)
    assert entry is not None
    data = entry.fingerprint and entry.fingerprint.data
    del entry.versions["fingerprint"]
    entry.fingerprint = None
    cache.save(artifact.photo_id, entry)
    assert b"fingerprint" not in path.read_bytes()
    assert world.run(batch.document) == (first, {"decoded": 1})
    again = cache.load(artifact.photo_id, artifact.photo_id)
    assert again is not None
    assert again.fingerprint is not None
    assert again.fingerprint.data == data


def test_a_stage_table_of_an_earlier_release_is_read(world: World) -> None:
    batch = copies(world)
    found, _ = build(world, batch, *ASSETS)
    path = ArtifactStore(world.settings.data_path).stage_path("technical_metrics", batch.batch_id)
    table = pq.read_table(path)
    assert [value is None for value in table["fingerprint"].to_pylist()] == [False, False, False, True]
    pq.write_table(table.drop_columns("fingerprint"), path)
    without, _ = build(world, batch, "features")
    assert [features["errors"] for features in without] == [features["errors"] for features in found]
    assert [bool(features["group"]) for features in without] == [True, False, True, True, False]  # equal bytes


def test_a_photo_is_described_by_its_original() -> None:
    record = PhotoRecord("one", "data/one.jpg", PhotoInfo("0" * 64, "JPEG", 683, 1024))
    exif = {"datetime": "2024:02:29 10:00:00", "subseconds": "25", "camera": "X", "iso": 400, "shutter_speed": "1/50"}
    artifact = {"original_uri": "one.CR3", "format": ".cr3", "exif": exif}
    photo = photo_of(record, {**artifact, "processing_metadata": {"original_size": [6000, 4000]}}, {"blur_px": 0.5})
    assert photo is not None
    assert (photo.path, photo.format, photo.width, photo.height) == ("one.CR3", "CR3", 4000, 6000)
    assert (photo.camera, photo.exposure.iso, photo.exposure.seconds) == ("X", 400, 0.02)
    assert photo.moment is not None
    assert photo.moment.seconds % 1 == 0.25
    assert photo.measures["blur_px"] == 0.5
    assert photo.key == key_of("one", "0" * 64) != key_of("one", "1" * 64)
    plain = photo_of(record, {"exif": None, "format": 7}, {})
    assert plain is not None
    assert (plain.path, plain.format, plain.width, plain.moment) == ("data/one.jpg", "JPEG", 683, None)
    assert photo_of(replace(record, info=None), artifact, {}) is None


def test_vectors_of_another_length_count_as_none() -> None:
    vectors = [np.ones(4, np.float16), None, np.ones(7, np.float16), np.ones(4, np.float16)]
    found = stacked(vectors)
    assert found is not None
    assert found.sum(1).tolist() == [4, 0, 0, 4]
    assert stacked([None, None]) is None


def test_fingerprints_come_back_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation_features.fingerprints import encoding, spool

    monkeypatch.setattr(spool, "_IN_MEMORY", 1)  # on disk
    photos = [np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8) for seed in range(3)]
    prints = [measure.measure(rgb) for rgb in photos]
    with Compared() as compared:
        for stored in (*map(encoding.to_bytes, prints), None):
            compared.fingerprints.add(stored)
        hashes, has_hash = compared.fingerprints.hashes()
        assert has_hash.tolist() == [True, True, True, False]
        assert not hashes[3].any()
        for number in (2, 0, 1):
            found = compared.fingerprints.read(number)
            assert found is not None
            np.testing.assert_array_equal(found.keypoints.descriptors, prints[number].keypoints.descriptors)
            np.testing.assert_array_equal(hashes[number], prints[number].hashes)
        assert compared.fingerprints.read(3) is None


def test_a_group_is_written_with_ids_of_photos() -> None:
    from curation_features.pipeline.grouped import entries

    group = Group("g", "copy", "", [Member(2, 1, "larger"), Member(0, 2, "smaller", 2)], 0.12345678)
    assert dict(entries([group], ["a", "b", "c"])) == {
        2: {
            "id": "g", "kind": "copy", "what": "", "rank": 1, "size": 2, "similarity": 0.123457, "copy_of": None,
            "reason": "larger",
        },
        0: {
            "id": "g", "kind": "copy", "what": "", "rank": 2, "size": 2, "similarity": 0.123457, "copy_of": "c",
            "reason": "smaller",
        },
    }  # fmt: skip
