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

from curation_features import read_features
from curation_features.build import build_assets
from curation_features.fingerprints import measure
from curation_features.groups import grouping
from curation_features.groups.photos import Group, Member, Photo, PhotoSet
from curation_features.manifest import Batch
from curation_features.photos.locations import Locations
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


@pytest.fixture
def locations(tmp_path: Path) -> Locations:
    return Locations(tmp_path)


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
    assert worse["reason"] == "the file of the best, under another id"
    names = {groups[0]["reason"]: found[0], groups[3]["reason"]: found[3]}
    assert better["copy_of"] is None
    assert worse["copy_of"] in {copies(world).artifacts[place].photo_id for place in (0, 3)}
    assert len(names) == 2 or worse["rank"] == better["rank"]
    for group, row in zip(groups, rows, strict=True):
        assert [row[name] for name in GROUP_COLUMNS] == [*(group or dict.fromkeys(GROUP_COLUMNS)).values()]
    assert {row["version_groups"] for row in rows} == {found[0]["version"]["groups"]}
    assert build(world, copies(world), "features") == (found, rows)  # from the stages
    assert world.run(copies(world).document)[0] == found  # by the service, without stages


def test_files_of_equal_bytes_are_copies_with_one_id(world: World) -> None:
    """As `ingest` writes them: two originals share an id and the reduced image; one original is there twice."""
    first, other = world.photo("b.png"), world.photo("alone.png", 1)
    shared = {**first, "std_uri": first["original_uri"]}
    places = ["photos of last year/b.png", "./photos/b.png", "photos/x/../b.png"]
    artifacts = [{**shared, "original_uri": place} for place in places]
    found, rows = build(world, world.batch([*artifacts, other]), *ASSETS)
    worse, best, again, alone = (features["group"] for features in found)
    assert (best, alone) == (again, None)
    assert (best["kind"], best["size"], best["rank"], best["copy_of"]) == ("copy", 2, 1, None)
    assert (worse["id"], worse["rank"], worse["reason"]) == (best["id"], 2, "same bytes as the best")
    assert (worse["copy_of"], worse["copy_of_path"]) == (first["photo_id"], "./photos/b.png")
    assert [row["group_copy_of_path"] for row in rows] == ["./photos/b.png", None, None, None]
    frame = read_features(settings=world.settings, columns=["original_uri"], distinct=True)
    assert [*frame["original_uri"]] == ["./photos/b.png", "./photos/alone.png"]


@pytest.mark.parametrize("change", ["labels", "exif", "order", "table"])
def test_groups_are_found_again_only_if_data_changed(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    grouped: list[int] = []
    plain = grouping.group_photos

    def counted(photos: PhotoSet) -> list[Group]:
        grouped.append(len(photos.photos))
        return plain(photos)

    monkeypatch.setattr(grouping, "group_photos", counted)
    artifacts = [{**world.photo("a.png"), "photo_id": name} for name in "xy"]
    artifacts += [world.photo("other.png", 1), artifacts[0]]
    before, _ = build(world, world.batch(artifacts), *ASSETS)
    changed = {
        "exif": [{**artifacts[0], "exif": {"camera": "Y"}}, *artifacts[1:]],
        "order": [artifacts[0], *artifacts[:3]],
    }
    if change == "labels":
        path = world.root / "config" / "labels.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"labels": [*"abcdef"]}))
    elif change == "table":
        path = ArtifactStore(world.settings.data_path).feature_paths("batch_1")[1]
        path.write_bytes(path.read_bytes()[:-9])
    after, _ = build(world, world.batch(changed.get(change, artifacts)), *ASSETS)
    assert grouped == [3] * (1 if change == "labels" else 2)
    groups = [[features["group"] for features in found] for found in (before, after)]
    assert [[group and group["size"] for group in found] for found in groups] == [
        [2, 2, None, 2],
        [2, 2, 2, None] if change == "order" else [2, 2, None, 2],
    ]
    assert (groups[0] == groups[1]) == (change in ("labels", "table"))
    assert (before[0]["version"]["clip"] != after[0]["version"]["clip"]) == (change == "labels")


def test_a_fingerprint_that_fails_costs_no_other_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = world.batch([world.photo("a.png"), world.photo("narrow.png", 1, (40, 40))])
    plain = measure.measure

    def fails(rgb: Any, detail: Any) -> Any:
        if rgb.shape[1] == 40:
            raise RuntimeError("no corners")
        return plain(rgb, detail)

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


def test_a_photo_is_described_by_its_original(locations: Locations) -> None:
    record = PhotoRecord("one", "data/one.jpg", PhotoInfo("0" * 64, "JPEG", 683, 1024))
    exif = {"datetime": "2024:02:29 10:00:00", "subseconds": "25", "camera": "X", "iso": 400, "shutter_speed": "1/50"}
    artifact = {"original_uri": "one.CR3", "format": ".cr3", "exif": exif}
    sized = {**artifact, "processing_metadata": {"original_size": [6000, 4000]}}
    photo = photo_of(record, sized, {"blur_px": 0.5}, locations)
    assert photo is not None
    assert (photo.path, photo.format, photo.width, photo.height) == ("one.CR3", "CR3", 4000, 6000)
    assert (photo.camera, photo.exposure.iso, photo.exposure.seconds) == ("X", 400, 0.02)
    assert photo.moment is not None
    assert photo.moment.seconds % 1 == 0.25
    assert photo.measures["blur_px"] == 0.5
    assert photo.key == key_of("one", "0" * 64, "one.CR3")
    others = [key_of("two", "0" * 64, "one.CR3"), key_of("one", "1" * 64, "one.CR3"), key_of("one", "0" * 64, "x")]
    assert len({photo.key, *others}) == 4
    plain = photo_of(record, {"exif": None, "format": 7}, {}, locations)
    assert plain is not None
    assert (plain.path, plain.format, plain.width, plain.moment) == ("data/one.jpg", "JPEG", 683, None)
    assert photo_of(replace(record, info=None), artifact, {}, locations) is None


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
    photos = [Photo(f"key {name}", "", f"{name}.jpg", 1, 1, "JPEG") for name in "abc"]
    assert dict(entries([group], ["a", "b", "c"], photos)) == {
        2: {
            "id": "g", "kind": "copy", "what": "", "rank": 1, "size": 2, "similarity": 0.123457, "copy_of": None,
            "copy_of_path": None, "reason": "larger",
        },
        0: {
            "id": "g", "kind": "copy", "what": "", "rank": 2, "size": 2, "similarity": 0.123457, "copy_of": "c",
            "copy_of_path": "c.jpg", "reason": "smaller",
        },
    }  # fmt: skip
