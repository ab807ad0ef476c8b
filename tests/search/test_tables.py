"""Filters in SQL over the tables of batches: right rows, understandable errors, and no access to anything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from worlds import World

from curation_features.build import build_assets
from curation_features.errors import QueryError, StoreError
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
    with pytest.raises(StoreError):
        tables.rows(names, "width > 40")


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
