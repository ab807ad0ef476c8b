"""Filters in SQL over the tables of batches: right rows, understandable errors, and no access to anything else."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from interpreters import run_python
from worlds import World

from curation_features.build import build_assets
from curation_features.errors import QueryError, StoreError
from curation_features.library import update_groups
from curation_features.schema import ASSETS
from curation_features.search.tables import Tables
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.frames import read_features

pytest.importorskip("duckdb")


@pytest.fixture
def tables(world: World) -> Iterator[Tables]:
    """Two batches; one photo is in both."""
    stages = world.stages()
    store = ArtifactStore(stages.settings.data_path)
    for batch_id, seeds in (("one", (1, 2, 3)), ("two", (3, 4))):
        artifacts = [world.photo(f"{seed}.png", seed, (96, 32 * seed)) for seed in seeds]
        batch = world.batch(artifacts, batch_id)
        store.put_manifest(batch)
        list(build_assets(batch, ASSETS, stages, store))
    with Tables(store.data_path) as tables:
        yield tables


def test_rows_are_filtered_ordered_and_cut_into_pages(tables: Tables, world: World) -> None:
    frame = read_features(settings=world.settings)
    tall = frame[frame.height > 40]
    assert tables.count() == len(frame) == 5
    assert tables.count("height > 40") == len(tall) == 4
    rows = tables.rows(["photo_id", "height"], "height > 40", "height DESC, batch_id", limit=2, offset=1)
    expected = tall.sort_values(["height", "batch_id"], ascending=[False, True])[["photo_id", "height"]]
    assert [tuple(row.values()) for row in rows] == [*expected.itertuples(index=False, name=None)][1:3]


def test_a_column_that_no_table_has_is_null(world: World) -> None:
    with Tables(world.settings.data_path) as empty:
        assert (empty.count(), empty.rows(["group_id", "flags"], "camera = 'X'")) == (0, [])


@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("sharpnes > 1", "did you mean 'sharpness'"),
        ("height >", "syntax error"),
        ("1 = 1) UNION SELECT 1 --", "syntax error"),
        ("1 = 1; DROP TABLE x", "filter"),
        ("(" * 20_000, "parentheses"),
        ("photo_id IN (SELECT content FROM read_text('{file}'))", "disabled"),
        ("photo_id IN (SELECT * FROM '{file}')", "filter"),
    ],
)
def test_a_wrong_filter_is_refused_with_its_cause(tables: Tables, tmp_path: Path, where: str, cause: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("1")
    with pytest.raises(QueryError, match=cause):
        tables.count(where.format(file=file))


def test_loaded_columns_are_read_from_memory(tables: Tables, world: World) -> None:
    names = ["batch_id", "position", "height"]
    rows = tables.rows(names, "height > 40", "batch_id, position")
    assert (tables.load(names, 1), tables.is_loaded) == (0.5, False)
    assert tables.rows(names, "height > 40", "batch_id, position") == rows
    assert (tables.load(names, 1), tables.is_loaded) == (1, True)
    assert tables.rows(["width"], "height > 40", "batch_id, position") == [{"width": 96}] * 4  # another column
    for path in (world.settings.data_path / "features").glob("*.parquet"):
        path.unlink()
    assert tables.rows(names, "height > 40", "batch_id, position") == rows
    assert tables.rows(names, "width > 40") == []  # from the files


@pytest.mark.parametrize("earlier", ["one", "two"])
def test_columns_that_some_tables_lack_are_loaded(tables: Tables, world: World, earlier: str) -> None:
    path = world.settings.data_path / "features" / f"{earlier}.parquet"
    pq.write_table(pq.read_table(path).drop_columns("iso"), path)
    names = ["batch_id", "position", "iso", "height"]
    rows = tables.rows(names, order="batch_id, position")
    assert tables.load(names) == 1
    assert tables.rows(names, order="batch_id, position") == rows


def test_an_unknown_batch_is_refused(world: World) -> None:
    with pytest.raises(StoreError, match="no finished batch 'three'"):
        Tables(world.settings.data_path, ["three"])


def test_rows_are_kept_in_order_and_read_by_place(tables: Tables, world: World) -> None:
    frame = read_features(settings=world.settings).sort_values(["height", "batch_id"], ascending=[False, True])
    places = ["batch_id", "position"]
    assert tables.keep("view", places, "height > 40", "batch_id <> 'x'", "ORDER BY height DESC, batch_id") == 4
    kept = tables.kept("view", 1, 2)
    expected = frame[frame.height > 40][places][1:3]
    assert [tuple(row.values()) for row in kept] == [*expected.itertuples(index=False, name=None)]
    found = tables.rows_of(["photo_id"], [(row["batch_id"], row["position"]) for row in kept])
    assert sorted(row["photo_id"] for row in found) == sorted(frame[frame.height > 40].photo_id[1:3])
    shared = frame.photo_id.value_counts().index[0]
    assert len(tables.rows_of(["height"], [("one", shared), ("two", shared), ("three", shared), ("one", "'")])) == 2
    tables.forget("view")


def test_values_are_tallied_like_pandas(tables: Tables, world: World) -> None:
    frame = read_features(settings=world.settings)
    found = tables.tally({"batch": "batch_id", "lens": "lens"}, "height > 40", "true")
    assert found["batch"] == frame[frame.height > 40].batch_id.astype(object).value_counts().to_dict()
    assert found["lens"].keys() <= {None}


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = {"short": b"x", "cut": data[:-9], "page": data[:4] + bytes([255]) * (middle - 4) + data[middle:]}
    path.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["short", "cut", "page"])
def test_a_damaged_table_affects_no_other(
    tables: Tables, world: World, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = world.settings.data_path / "features" / "two.parquet"
    damage(path, how)
    assert [row["batch_id"] for row in tables.rows(["*"], "height > 40")] == ["one", "one"]
    assert str(path) in caplog.text
    assert tables.count() == 3
    with Tables(world.settings.data_path) as others:
        assert others.tally({"of": "batch_id"}, "height > 0") == {"of": {"one": 3}}
    with Tables(world.settings.data_path, ["one"]) as named:
        assert named.count() == 3
    with Tables(world.settings.data_path, ["two"]) as named, pytest.raises(StoreError, match=r"two\.parquet"):
        named.rows(["*"], "height > 40")


@pytest.mark.parametrize("how", ["short", "cut", "page"])
def test_a_damaged_table_is_not_loaded(tables: Tables, world: World, how: str) -> None:
    names = ["batch_id", "height"]
    assert tables.load(names, 1) == 0.5
    damage(world.settings.data_path / "features" / "two.parquet", how)
    assert tables.load(names, 1) == 0  # from the beginning
    assert (tables.load(names, 1), tables.is_loaded) == (1, True)
    assert tables.tally({"of": "batch_id"}, "height > 0") == {"of": {"one": 3}}


def test_a_value_that_cannot_be_converted_is_named(tables: Tables, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with pytest.raises(QueryError, match=r"'original_uri::INT > 3'.*Could not convert"):
            tables.rows(["photo_id"], "original_uri::INT > 3")
        tables.load(["photo_id", "original_uri"])
    assert not caplog.text  # of tables


@pytest.mark.parametrize(("file", "how"), [("groups", "short"), ("groups", "page"), ("photos", "short")])
def test_damaged_groups_are_not_used(
    tables: Tables, world: World, file: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    update_groups(world.settings)
    damage(world.settings.data_path / "groups" / f"{file}.parquet", how)
    assert tables.count("group_id IS NULL OR group_rank > 0") == 5
    assert f"{file}.parquet" in caplog.text
    assert "curation-features groups" in caplog.text


def test_names_of_folders_have_no_meaning(tables: Tables, world: World, tmp_path: Path) -> None:
    data = shutil.copytree(world.settings.data_path, tmp_path / "camera=X100" / "[a] *?'b" / "data")
    with Tables(data) as copied:
        assert copied.rows(["camera", "photo_id"]) == tables.rows(["camera", "photo_id"])
        assert copied.count("camera IS NULL") == 5


SLOW = "(SELECT max(a.range * b.range) FROM range(1000000) AS a, range(1000000) AS b) > 1"  # an hour


def test_an_interrupt_ends_a_query(tables: Tables) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background of a shell
    try:
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            tables.count(SLOW)
    finally:
        signal.signal(signal.SIGINT, before)
    assert tables.count() == 5


def test_no_progress_is_printed_among_the_results(tables: Tables, world: World) -> None:
    """DuckDB prints a bar on standard output, also into a pipe, in a process without a main file: `python -c`."""
    code = """
import sys
from pathlib import Path
from curation_features.search.tables import Tables

print(Tables(Path(sys.argv[1])).count("NOT current_setting('enable_progress_bar')"))
"""
    assert run_python("-c", code, world.settings.data_path) == f"{tables.count()}\n"


def test_a_slow_filter_is_stopped(tables: Tables) -> None:
    with pytest.raises(QueryError, match=r"takes longer than 0\.2 s"), tables.limited(0.2):
        tables.count(SLOW)
    assert tables.count() == 5
