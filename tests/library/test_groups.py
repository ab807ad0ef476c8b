"""Groups of the photos of all batches: any split, any order, any history give the same; deletions leave no trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from worlds import World

from curation_features import read_features
from curation_features.build import build_assets
from curation_features.library import forget_batch, forget_photo, is_due, list_groups, update_groups
from curation_features.schema import ASSETS, FINGERPRINT
from curation_features.search.tables import Tables
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.groups import LIBRARY_COLUMNS, groups_path, read_groups, state_path
from curation_features.storage.tables import arrow_schema
from curation_features.versions import ALGORITHMS

Artifact = dict[str, Any]


def finish(world: World, batch_id: str, artifacts: Sequence[Artifact]) -> None:
    stages = world.stages()
    store = ArtifactStore(stages.settings.data_path)
    batch = world.batch(artifacts, batch_id)
    store.put_manifest(batch)
    list(build_assets(batch, ASSETS, stages, store))


def delete(world: World, batch_id: str) -> None:
    for path in (world.settings.data_path / "features").rglob(f"{batch_id}.*"):
        path.unlink()


def scene(world: World, name: str, seed: int, second: int, **exif: Any) -> Artifact:
    """A photo of smooth colours with a little noise; scenes with one seed in thousands look alike."""
    rng = np.random.default_rng(seed // 1000)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((96, 72), 3), np.int16)
    noise = np.random.default_rng(seed).integers(-9, 9, smooth.shape)
    path = world.root / "photos" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(path)
    taken = f"2024:02:29 10:{second // 60:02}:{second % 60:02}"
    fields = {"datetime": taken, "subseconds": f"{seed % 100:02}", "camera": "X", **exif}
    return {"photo_id": name, "original_uri": f"photos/{name}", "exif": fields}


@pytest.fixture
def photos(world: World) -> list[Artifact]:
    """A burst of three, its first frame under another id, two equal files with one id, and a photo alone."""
    burst = [scene(world, f"IMG_{n}.png", 1000 + n, 5) for n in range(3)]
    pair = [{**scene(world, f"other-{n}.png", 2000, 600), "photo_id": "other"} for n in range(2)]
    copy = {**burst[0], "photo_id": "copy of 0"}
    return [*burst, copy, *pair, scene(world, "alone.png", 3000, 1200)]


def name_of(row: Mapping[str, Any]) -> str:
    """The name of a photo: its id, or that of its file if another one has its id."""
    return Path(row["path"]).name if row["photo_id"] == "other" else str(row["photo_id"])


def groups(world: World) -> dict[str, set[str]]:
    """The photos of each group."""
    found: dict[str, set[str]] = {}
    for row in read_groups(world.settings.data_path):
        found.setdefault(f"{row['group_kind']} {row['group_id']}", set()).add(name_of(row))
    return found


def by_photo(world: World) -> dict[str, tuple[Any, ...]]:
    rows = read_groups(world.settings.data_path)
    return {name_of(row): tuple(row[name] for name in LIBRARY_COLUMNS if name != "batch_id") for row in rows}


SPLITS: list[Mapping[str, list[int]]] = [
    {"a": [0, 1, 2, 3, 4, 5, 6]},
    {"a": [6, 5, 4, 3, 2, 1, 0]},
    {"a": [0, 4], "b": [1, 3], "c": [2, 5, 6]},
    {"c": [0, 1, 5], "b": [2, 3, 4], "a": [6, 0]},  # one photo in two batches
]


def test_any_split_and_order_gives_the_same_groups(world: World, photos: list[Artifact]) -> None:
    found = []
    for split in SPLITS:
        for path in (world.settings.data_path / "features").rglob("*.*"):
            path.unlink()
        for batch_id, places in split.items():
            finish(world, batch_id, [photos[place] for place in places])
            update_groups(world.settings)  # as each batch comes
        step_by_step = by_photo(world)
        for path in (groups_path(world.settings.data_path), state_path(world.settings.data_path)):
            path.unlink()
        result = update_groups(world.settings)
        assert by_photo(world) == step_by_step
        assert (dict(result.groups), result.photos, result.grouped) == ({"burst": 1, "copy": 1}, 7, 6)
        found.append(step_by_step)
    assert found[1:] == found[:1] * 3
    assert [sorted(group) for _, group in sorted(groups(world).items())] == [
        ["IMG_0.png", "IMG_1.png", "IMG_2.png", "copy of 0"], ["other-0.png", "other-1.png"],
    ]  # fmt: skip
    path = groups_path(world.settings.data_path)
    assert pq.read_schema(path).remove_metadata() == arrow_schema(LIBRARY_COLUMNS).remove_metadata()
    rows = read_groups(world.settings.data_path)
    assert [row["batch_id"] for row in rows if row["photo_id"] == "IMG_0.png"] == ["a", "c"]


def test_only_the_group_of_a_changed_photo_is_made_again(world: World, photos: list[Artifact]) -> None:
    settings = world.settings
    assert is_due(settings) == ""
    finish(world, "a", [photos[place] for place in (0, 1, 4, 6)])
    assert is_due(settings)
    first = update_groups(settings)
    assert (dict(first.groups), first.compared, first.regrouped, first.is_new) == ({"burst": 1}, 4, 1, True)
    assert is_due(settings) == ""
    path = groups_path(settings.data_path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    again = update_groups(settings)
    assert (again.compared, again.is_new, path.read_bytes(), path.stat().st_mtime_ns) == (0, False, *before)
    finish(world, "b", [photos[5]])
    added = update_groups(settings)
    assert (dict(added.groups), added.compared, added.regrouped) == ({"burst": 1, "copy": 1}, 1, 1)
    finish(world, "b", [photos[5]])  # made again with the same result
    assert (update_groups(settings).compared, is_due(settings)) == (0, "")
    finish(world, "a", [photos[0], {**photos[1], "exif": {**photos[1]["exif"], "iso": 99}}, photos[4], photos[6]])
    changed = update_groups(settings)
    assert (changed.compared, changed.regrouped) == (1, 1)
    delete(world, "b")
    assert is_due(settings)
    gone = update_groups(settings)
    assert (dict(gone.groups), gone.compared, gone.regrouped, gone.batches) == ({"burst": 1}, 0, 0, 1)
    delete(world, "a")
    assert dict(update_groups(settings).groups) == {}
    assert is_due(settings) == ""


def test_one_file_in_two_batches_is_one_photo(world: World, photos: list[Artifact]) -> None:
    """However a manifest spells its path; equal bytes in another place are another photo."""
    first, second, alone = (photos[place] for place in (0, 1, 6))
    link = world.root / "photos" / "link.png"
    link.symlink_to("alone.png")
    finish(world, "a", [first, second, alone])
    finish(world, "b", [{**first, "original_uri": str(world.root / first["original_uri"])}])
    finish(world, "c", [{**alone, "original_uri": f"./photos/{link.name}"}])
    made = update_groups(world.settings)
    assert (made.photos, dict(made.groups)) == (3, {"burst": 1})
    [group] = list_groups(world.settings.data_path)
    assert [(photo.photo_id, photo.batches) for photo in group.photos] == [
        ("IMG_0.png", ("a", "b")), ("IMG_1.png", ("a",)),
    ]  # fmt: skip
    forget_batch(world.settings.data_path, "b")  # the photo is still in the other batch
    assert len(list_groups(world.settings.data_path)) == 1
    shutil.copy(link, world.root / "photos" / "twin.png")
    finish(world, "d", [{**alone, "original_uri": "photos/twin.png"}])
    assert dict(update_groups(world.settings).groups) == {"burst": 1, "copy": 1}
    copies, _ = reversed(list_groups(world.settings.data_path))
    assert [(photo.rank, photo.copy_of, photo.copy_of_path) for photo in copies.photos] == [
        (1, None, None), (2, "alone.png", copies.photos[0].path),
    ]  # fmt: skip
    assert [photo.batches for photo in copies.photos if photo.path == "photos/twin.png"] == [("d",)]


@pytest.mark.parametrize("damage", ["state", "groups", "pair"])
def test_a_damaged_state_costs_time_only(world: World, photos: list[Artifact], damage: str) -> None:
    finish(world, "a", photos)
    update_groups(world.settings)
    before = by_photo(world)
    table, state = groups_path(world.settings.data_path), state_path(world.settings.data_path)
    if damage == "pair":  # of two updates
        kept = state.read_bytes()
        finish(world, "b", [scene(world, "new.png", 3001, 1200)])
        update_groups(world.settings)
        state.write_bytes(kept)
        assert len(by_photo(world)) == len(before) + 2
        delete(world, "b")
    else:
        path = {"state": state, "groups": table}[damage]
        path.write_bytes(path.read_bytes()[:-9])
    assert update_groups(world.settings).compared == 7
    assert by_photo(world) == before


@pytest.mark.parametrize("file", ["features/b.parquet", "features/embeddings/b.parquet", "stage"])
def test_a_damaged_batch_affects_no_other(
    world: World, photos: list[Artifact], file: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = world.settings.data_path
    finish(world, "a", photos[:4])
    finish(world, "b", photos[4:])
    path = data / file.replace("stage", "stages/technical_metrics/b.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    made = update_groups(world.settings)
    assert (made.batches, made.photos, [*made.failed]) == (1, 4, ["b"])
    assert str(path) in made.failed["b"]
    assert str(path) in caplog.text
    assert not is_due(world.settings)  # nothing to launch until the batch changes
    path.write_bytes(whole)
    made = update_groups(world.settings)
    assert (made.batches, made.photos, made.failed) == (2, 7, {})


@pytest.mark.parametrize("file", ["groups", "photos", "edges"])
def test_damaged_groups_do_not_keep_a_batch(
    world: World, photos: list[Artifact], file: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = world.settings.data_path
    finish(world, "a", photos)
    update_groups(world.settings)
    path = data / "groups" / f"{file}.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert file != "groups" or is_due(world.settings)
    forget_batch(data, "a")
    assert not [*path.parent.glob("*.parquet")]
    assert str(path) in caplog.text
    assert is_due(world.settings)


def test_a_deleted_photo_or_batch_leaves_no_trace(world: World, photos: list[Artifact]) -> None:
    data = world.settings.data_path
    finish(world, "a", photos[:4])
    finish(world, "b", photos[3:])
    update_groups(world.settings)
    forget_photo(data, "IMG_1.png", frozenset({"a"}))
    rows = [*read_groups(data), *pq.read_table(state_path(data)).to_pylist()]
    assert "IMG_1.png" not in {row["photo_id"] for row in rows}
    assert set(by_photo(world)) == {"other-0.png", "other-1.png"}  # the rest of its group waits for the update
    finish(world, "a", [photos[place] for place in (0, 2, 3)])
    update = update_groups(world.settings)
    assert (update.compared, update.regrouped, dict(update.groups)) == (0, 1, {"burst": 1, "copy": 1})
    forget_batch(data, "a")
    assert {row["batch_id"] for row in pq.read_table(state_path(data)).to_pylist()} == {"b"}
    assert is_due(world.settings)
    delete(world, "a")
    assert dict(update_groups(world.settings).groups) == {"copy": 1}
    table = groups_path(data)
    table.unlink()
    forget_photo(data, "other", frozenset({"b"}))  # without groups the state is of no use
    assert not state_path(data).exists()


def test_vectors_and_fingerprints_of_one_version_are_compared(world: World, photos: list[Artifact]) -> None:
    finish(world, "a", photos[:2])
    finish(world, "b", photos[2:3])
    data = world.settings.data_path
    path = data / "features/embeddings/b.parquet"
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[b"curation_features"]) | {"version": "another"}
    pq.write_table(table.replace_schema_metadata({b"curation_features": json.dumps(metadata).encode()}), path)
    found = update_groups(world.settings)
    assert found.grouped >= 2
    versions = json.loads(pq.read_schema(groups_path(data)).metadata[b"curation_features"])["versions"]
    assert versions["embedding"] != "another"
    assert versions["fingerprint"].startswith(f"{ALGORITHMS[FINGERPRINT]}-")


def test_fingerprints_of_an_earlier_encoding_do_not_count(
    world: World, photos: list[Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    """Two of three photos have them: the third one is compared all the same."""
    finish(world, "a", photos[:2])
    finish(world, "b", photos[2:3])
    data = world.settings.data_path
    path = data / "stages/technical_metrics/a.parquet"
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"curation_features"])
    facts["versions"][FINGERPRINT] = "2-earlier"
    rows = [{**row, FINGERPRINT: b"FPR1" + row[FINGERPRINT][4:]} for row in table.to_pylist()]
    earlier = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(earlier.replace_schema_metadata({b"curation_features": json.dumps(facts).encode()}), path)
    update_groups(world.settings)
    [warning] = caplog.records  # one for the batch
    assert "batch a are not used, of 2 photos: The bytes begin with b'FPR1'" in warning.getMessage()
    versions = json.loads(pq.read_schema(groups_path(data)).metadata[b"curation_features"])["versions"]
    assert versions["fingerprint"].startswith(f"{ALGORITHMS[FINGERPRINT]}-")


# --- read_features(distinct=True) ---


def kept(world: World, **options: Any) -> list[tuple[str, str]]:
    frame = read_features(settings=world.settings, columns=["batch_id", "photo_id", "original_uri"], **options)
    rows = frame.rename(columns={"original_uri": "path"}).to_dict("records")
    return [(row["batch_id"], name_of(row)) for row in rows]


def test_copies_of_all_batches_are_folded(world: World, photos: list[Artifact]) -> None:
    finish(world, "a", [photos[0], photos[1], photos[4]])
    finish(world, "b", [photos[3], photos[5], photos[0]])
    assert len(kept(world)) == 6
    within = kept(world, distinct=True)  # the groups of each batch
    assert len(within) == 3
    assert {*within} >= {("a", "IMG_1.png"), ("b", "other-1.png")}  # of one id the newest
    update_groups(world.settings)
    best = {name_of(row) for row in read_groups(world.settings.data_path) if row["group_copy_of"] is None}
    names = {name for _, name in kept(world, distinct=True)}
    assert len(names) == 3
    assert len(best & {"IMG_0.png", "copy of 0"} & names) == 1
    assert {"IMG_1.png", "other-0.png"} < names  # of a burst, and no copy; the best of two files
    assert len(kept(world, distinct="bytes")) == 3
    finish(world, "c", [{**photos[4], "photo_id": "newer"}])  # after the groups
    assert len(kept(world, distinct=True)) == 4
    assert len(kept(world, distinct="bytes")) == 3
    assert Path(groups_path(world.settings.data_path)).is_file()


def test_a_filter_sees_the_groups_of_all_batches(world: World, photos: list[Artifact]) -> None:
    pytest.importorskip("duckdb")
    finish(world, "a", [photos[0], photos[1]])
    finish(world, "b", [photos[3], photos[5]])
    update_groups(world.settings)
    finish(world, "c", [{**photos[4], "photo_id": "newer"}])
    groups = {(row["batch_id"], row["photo_id"]): row["group_id"] for row in read_groups(world.settings.data_path)}
    assert len({*groups.values()} - {None}) < len([*filter(None, groups.values())])
    names = ["batch_id", "position", "group_id", "group_rank"]
    with Tables(world.settings.data_path) as tables:
        rows = tables.rows([*names, "photo_id"], order="batch_id, position")
        found = {(row["batch_id"], row["photo_id"]): row["group_id"] for row in rows}
        assert {key: group for key, group in found.items() if group} == {k: g for k, g in groups.items() if g}
        while tables.load(names, 1) < 1:
            pass
        assert tables.rows(names, order="batch_id, position") == [{name: row[name] for name in names} for row in rows]
