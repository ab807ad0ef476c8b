"""`gather_features`: the rows and vectors of batches, in files of limited size."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gathering import digest_of, photo, rewrite, rows_in, table_path, vectors_path, write

from curation_features import Settings, gather_features, read_features
from curation_features.dataset import Options, parts, plan_dataset, sources
from curation_features.errors import CurationError, InputError, StoreError
from curation_features.storage.tables import FEATURE_COLUMNS, METADATA_KEY


@pytest.fixture
def project(settings: Settings) -> Settings:
    """Batches `b` of 5 photos, one of them unreadable, `a` of 3, and `c` of none."""
    write(settings, "b", *(photo(f"b{n}") for n in range(2)), "gone", *(photo(f"b{n}") for n in range(2, 4)))
    write(settings, "a", *(photo(f"a{n}") for n in range(3)))
    write(settings, "c")
    return settings


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- Rows ---


def test_the_rows_are_those_of_the_batches_in_order(project, tmp_path) -> None:
    gathered = gather_features(tmp_path / "all", settings=project)
    assert names_in(tmp_path / "all") == ["_dataset.json", "features/part-00000.parquet"]
    tables = [str(table_path(project, name)) for name in "abc"]
    names = ", ".join(FEATURE_COLUMNS)
    found = rows_in(tmp_path / "all/features/*.parquet", names)
    assert found == rows_in(tables, names)
    assert [row[:3] for row in found][2:5] == [("a", 2, "a2"), ("b", 0, "b0"), ("b", 1, "b1")]
    assert (gathered.rows, gathered.batches) == (8, {"a": 3, "b": 5, "c": 0})
    assert gathered.versions == {"technical": {"t": 8}, "clip": {"c": 8}, "signals": {"s": 8}, "groups": {"g": 8}}
    assert (
        pd.read_parquet(tmp_path / "all")["photo_id"].tolist() == read_features(settings=project)["photo_id"].tolist()
    )


def test_one_file_has_the_same_rows_and_its_versions(project, tmp_path) -> None:
    gathered = gather_features(tmp_path / "all.parquet", "b", "a", "b", settings=project)
    tables = [str(table_path(project, name)) for name in "ab"]
    assert rows_in(tmp_path / "all.parquet", "COLUMNS(*)::VARCHAR") == rows_in(tables, "COLUMNS(*)::VARCHAR")
    schema = pq.read_schema(tmp_path / "all.parquet")
    original = pq.read_schema(tables[0])
    assert schema.names == original.names
    assert all(schema.field(name).equals(original.field(name), check_metadata=True) for name in schema.names)
    facts = json.loads(pq.read_metadata(tmp_path / "all.parquet").metadata[METADATA_KEY])
    assert facts["versions"]["clip"] == {"c": 8}
    assert facts["vocabularies"] == {"c": [f"label {n}" for n in range(9)]}
    assert (gathered.files, gathered.bytes) == (1, (tmp_path / "all.parquet").stat().st_size)
    column = pq.read_metadata(tmp_path / "all.parquet").row_group(0).column(0)
    assert (column.compression, column.statistics.min, column.statistics.max) == ("ZSTD", "a", "b")


@pytest.mark.parametrize("held", [True, False])
def test_files_and_row_groups_have_limited_sizes(project, tmp_path, monkeypatch, held: bool) -> None:
    """Also for tables that are too large to be held while they are checked."""
    monkeypatch.setattr(parts, "ROWS_PER_GROUP", 2)
    if not held:
        monkeypatch.setattr(sources, "_HELD_ROWS", 0)
    gathered = gather_features(tmp_path / "all", settings=project, rows_per_file=5, embeddings=True)
    files = sorted((tmp_path / "all/features").iterdir())
    groups = [pq.read_metadata(file) for file in files]
    assert [[file.row_group(n).num_rows for n in range(file.num_row_groups)] for file in groups] == [[2, 2, 1], [2, 1]]
    assert rows_in([*map(str, files)], "photo_id") == rows_in([str(table_path(project, n)) for n in "ab"], "photo_id")
    of_files = [json.loads(file.metadata[METADATA_KEY])["versions"]["technical"] for file in groups]
    assert of_files == [{"t": 5}, {"t": 3}]
    assert [pq.read_metadata(file).num_rows for file in sorted((tmp_path / "all/embeddings").iterdir())] == [5, 2]
    assert gathered.files == 4


def test_a_file_ends_before_its_limit_of_bytes(project, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parts, "BYTES_PER_GROUP", 1)
    monkeypatch.setattr(sources, "ROWS_READ", 1)
    gather_features(tmp_path / "one", settings=project)
    limit = 120_000
    gather_features(tmp_path / "all", settings=project, bytes_per_file=limit)
    files = sorted((tmp_path / "all/features").iterdir())
    assert 1 < len(files) < 8
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= limit < (tmp_path / "one/features/part-00000.parquet").stat().st_size
    assert rows_in([*map(str, files)], "photo_id") == rows_in(tmp_path / "one/features/*", "photo_id")


def test_columns_can_be_left_out(project, tmp_path) -> None:
    gather_features(tmp_path / "all", settings=project, without=("artifact", "errors"))
    assert pq.read_schema(tmp_path / "all/features/part-00000.parquet").names == [
        name for name in FEATURE_COLUMNS if name not in ("artifact", "errors")
    ]


# --- Embeddings ---


@pytest.mark.parametrize("float16", [False, True])
def test_vectors_are_a_table_of_fixed_size_lists(project, tmp_path, float16: bool) -> None:
    gathered = gather_features(tmp_path / "all", settings=project, embeddings=True, float16=float16)
    table = pq.read_table(tmp_path / "all/embeddings")
    assert table.schema.field("embedding").type == pa.list_(pa.float16() if float16 else pa.float32(), 4)
    assert table.column("embedding").null_count == 0
    stored = rows_in([str(vectors_path(project, name)) for name in "ab"], rest="WHERE embedding IS NOT NULL")
    assert table.select(["batch_id", "photo_id", "sha256"]).to_pylist() == [
        dict(zip(("batch_id", "photo_id", "sha256"), row[:3], strict=True)) for row in stored
    ]
    exact = np.array([row[3] for row in stored], np.float32)
    expected = exact.astype(np.float16) if float16 else exact
    assert np.array_equal(np.array(table.column("embedding").to_pylist()), expected.astype(float))
    assert set(table.column("version_embedding").to_pylist()) == {"1-abc"}
    assert (gathered.embeddings, gathered.dimension) == (7, 4)
    joined = rows_in(
        tmp_path / "all/features/*.parquet",
        "count(embedding), count(*)",
        (f"LEFT JOIN '{tmp_path}/all/embeddings/*.parquet' USING (batch_id, photo_id)"),
    )
    assert joined == [(7, 8)]


def test_vectors_of_two_versions_are_never_mixed_in_silence(project, tmp_path) -> None:
    rewrite(vectors_path(project, "b"), version="2-x", model="other")

    def gather(**options: object) -> list[tuple[str, str]]:
        gather_features(tmp_path / "all", settings=project, embeddings=True, **options)
        return rows_in(tmp_path / "all/embeddings/*.parquet", "photo_id, version_embedding")

    with pytest.raises(InputError, match=r"2 versions(.|\n)*2-x: 1 of the batches \(b\)(.|\n)*--mixed"):
        gather()
    assert not (tmp_path / "all").exists()
    both = [(f"a{n}", "1-abc") for n in range(3)] + [(f"b{n}", "2-x") for n in range(4)]
    assert gather(mixed=True) == both
    assert gather(version="2-x") == both[3:]
    assert len(rows_in(tmp_path / "all/features/*.parquet", "1")) == 8
    assert gather_features(tmp_path / "all", settings=project, embeddings=True, version="2-x").other_versions == {
        "1-abc": 1
    }
    with pytest.raises(InputError, match="did you mean '2-x'"):
        gather(version="2-y")
    write(project, "b", photo("b0", size=3))
    with pytest.raises(InputError, match="3 and 4 numbers"):
        gather(mixed=True)


def test_vectors_of_an_unknown_version_are_refused(project, tmp_path) -> None:
    for name in "ab":
        rewrite(vectors_path(project, name), version=None)
    with pytest.raises(InputError, match="unknown: 2 of the batches"):
        gather_features(tmp_path / "all", settings=project, embeddings=True)
    gather_features(tmp_path / "all", settings=project, embeddings=True, mixed=True)
    assert set(rows_in(tmp_path / "all/embeddings/*", "version_embedding")) == {(None,)}


def test_batches_without_vectors_are_gathered(project, tmp_path) -> None:
    vectors_path(project, "a").unlink()
    gathered = gather_features(tmp_path / "all", settings=project, embeddings=True)
    assert (gathered.rows, gathered.embeddings) == (8, 4)
    with pytest.raises(InputError, match="no batch has embeddings"):
        gather_features(tmp_path / "a", "a", settings=project, embeddings=True)


# --- Tables of other releases ---


def test_a_column_that_a_table_lacks_is_null(project, tmp_path) -> None:
    rewrite(table_path(project, "a"), lambda table: table.drop_columns(["blur_px", "flags", "version_signals"]))
    rewrite(table_path(project, "b"), lambda table: table.append_column("new", pa.array([1, 2, 3, 4, None], "int32")))
    gather_features(tmp_path / "all", settings=project)
    found = rows_in(tmp_path / "all/features/*.parquet", "batch_id, blur_px, flags, new", "WHERE position < 2")
    assert found == [("a", None, None, None)] * 2 + [("b", 0.5, [], 1), ("b", 0.5, [], 2)]
    assert pq.read_schema(tmp_path / "all/features/part-00000.parquet").names == [*FEATURE_COLUMNS, "new"]


def with_column(table: pa.Table, column: str, values: list[object] | pa.Array) -> pa.Table:
    others = table.drop_columns([column]) if column in table.schema.names else table
    return others.append_column(column, values if isinstance(values, pa.Array) else pa.array(values))


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [("iso", "int8", [1] * 3), ("blur_px", "null", [None] * 3), ("blur_px", "float32", [0.5] * 3)],
)
def test_a_type_whose_values_all_fit_is_cast(project, tmp_path, column: str, kind: str, values) -> None:
    rewrite(table_path(project, "a"), partial(with_column, column=column, values=pa.array(values, kind)))
    gather_features(tmp_path / "all", settings=project)
    found = rows_in(tmp_path / "all/features/*.parquet", column, "WHERE batch_id = 'a'")
    assert [value for (value,) in found] == values
    assert (
        pq.read_schema(tmp_path / "all/features/part-00000.parquet").field(column).type == FEATURE_COLUMNS[column].type
    )


@pytest.mark.parametrize(
    ("column", "of_a", "of_b", "named"),
    [
        (
            "blur_px",
            None,
            ["x"] * 5,
            "batch 'b': column 'blur_px' is of type string, and this release has double",
        ),
        ("position", None, [0.5] * 5, "'position' is of type double, and this release has int32"),
        ("new", [1] * 3, ["x"] * 5, "batch 'b': column 'new' is of type string, and batch 'a' has int64"),
    ],
)
def test_a_conflict_of_types_names_both(project, tmp_path, column, of_a, of_b, named) -> None:
    for name, values in (("a", of_a), ("b", of_b)):
        if values:
            rewrite(table_path(project, name), partial(with_column, column=column, values=values))
    with pytest.raises(StoreError, match=named):
        gather_features(tmp_path / "all", settings=project)
    assert not (tmp_path / "all").exists()


# --- Unfinished and damaged batches ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def damage_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)


def rename(path: Path) -> None:
    path.write_bytes(path.with_name("b.parquet").read_bytes())


def strip(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


@pytest.mark.parametrize(
    ("harm", "is_held"),
    [(cut, True), (damage_pages, True), (damage_pages, False), (Path.unlink, True), (rename, False), (strip, True)],
)
@pytest.mark.parametrize("place", [table_path, vectors_path])
def test_a_damaged_table_costs_its_batch(project, tmp_path, monkeypatch, harm, place, is_held: bool) -> None:
    if not is_held:
        monkeypatch.setattr(sources, "_HELD_ROWS", 0)
    path = place(project, "a")
    harm(path)
    gathered = gather_features(tmp_path / "all", settings=project, embeddings=True)
    if (harm, place) == (Path.unlink, vectors_path):  # as in a batch of an early release
        assert gathered.failed == {}
        return
    assert list(gathered.failed) == ["a"]
    assert str(path) in gathered.failed["a"]
    assert "curation-features process a" in gathered.failed["a"]
    assert rows_in(tmp_path / "all/features/*.parquet", "DISTINCT batch_id") == [("b",)]
    assert rows_in(tmp_path / "all/embeddings/*.parquet", "DISTINCT batch_id") == [("b",)]


def test_a_table_that_changes_meanwhile_is_named(project, tmp_path, monkeypatch) -> None:
    read = sources.read_source

    def replaced(*arguments, **options):
        found = read(*arguments, **options)
        os.utime(table_path(project, "a"), (1, 1))
        return found

    monkeypatch.setattr("curation_features.dataset.plan.read_source", replaced)
    gathered = gather_features(tmp_path / "all", settings=project)
    assert list(gathered.failed) == ["a"]
    assert "was replaced meanwhile: gather again" in gathered.failed["a"]


def test_nothing_readable_leaves_the_old_dataset(project, tmp_path) -> None:
    gather_features(tmp_path / "all", settings=project)
    for name in "abc":
        damage_pages(table_path(project, name))
    with pytest.raises(StoreError, match="no table can be read"):
        gather_features(tmp_path / "all", settings=project)
    assert len(rows_in(tmp_path / "all/features/*.parquet")) == 8


def test_unfinished_batches_are_named(project, tmp_path) -> None:
    for name in "ac":
        table_path(project, name).with_suffix(".json").rename(project.data_path / f"{name}.json")
    (project.data_path / "manifests").mkdir()
    for name in "ab":
        (project.data_path / "manifests" / f"{name}.json").write_text("{}")
    gathered = gather_features(tmp_path / "all", settings=project)
    assert (gathered.batches, gathered.unfinished) == ({"b": 5}, ("a",))
    for batch_id, named in (("a", "has no finished features"), ("bb", "did you mean 'b'")):
        with pytest.raises(InputError, match=named):
            gather_features(tmp_path / "other", "b", batch_id, settings=project)
    table_path(project, "b").with_suffix(".json").unlink()
    with pytest.raises(InputError, match="is finished; to process one"):
        gather_features(tmp_path / "other", settings=project)


# --- Copies ---


def test_distinct_keeps_the_first_of_equal_photos(settings, tmp_path) -> None:
    write(settings, "a", photo("x", "1"), photo("y", "2"), "gone", photo("z", "1"))
    write(settings, "b", "gone", photo("x", "2"), photo("w", "3"), photo("w", "3"))
    gathered = gather_features(tmp_path / "all", settings=settings, distinct=True, embeddings=True)
    found = rows_in(tmp_path / "all/features/*.parquet", "batch_id, position, photo_id")
    assert found == [("a", 0, "x"), ("a", 1, "y"), ("a", 2, "gone"), ("b", 0, "gone"), ("b", 2, "w")]
    assert rows_in(tmp_path / "all/embeddings/*.parquet", "batch_id, photo_id, sha256") == [
        ("a", "x", digest_of("1")), ("a", "y", digest_of("2")), ("b", "w", digest_of("3")),
    ]  # fmt: skip
    assert (gathered.rows, gathered.copies, gathered.batches) == (5, 3, {"a": 3, "b": 2})


def test_a_copy_stays_if_the_batch_of_the_first_is_damaged(settings, tmp_path) -> None:
    write(settings, "a", photo("x", "1"))
    write(settings, "b", photo("x", "1"))
    damage_pages(vectors_path(settings, "a"))
    gathered = gather_features(tmp_path / "all", settings=settings, distinct=True, embeddings=True)
    assert (gathered.batches, list(gathered.failed)) == ({"b": 1}, ["a"])


def test_a_damaged_digest_costs_its_batch(project, tmp_path) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.names.index("sha256"), "sha256", pa.array(["x" * 64] * 3))

    rewrite(table_path(project, "a"), change)
    assert list(gather_features(tmp_path / "all", settings=project, distinct=True).failed) == ["a"]


# --- Many batches ---


def test_batches_share_their_vocabulary_in_memory(project) -> None:
    plan = plan_dataset(project, (), Options())
    plan.read()
    assert len({id(source.labels) for source in plan.sources}) == 1 < len(plan.sources)


def test_the_number_of_open_files_does_not_grow(project, tmp_path, monkeypatch) -> None:
    for number in range(5):
        write(project, f"d{number}", photo("x"))
    open_files, add = [], parts.PartsWriter.add

    def count_files(*arguments) -> None:
        open_files.append(len(list(Path("/dev/fd").iterdir())))
        add(*arguments)

    monkeypatch.setattr(parts.PartsWriter, "add", count_files)
    gather_features(tmp_path / "all", settings=project, embeddings=True)
    assert len(open_files) > 10
    assert max(open_files) <= min(open_files) + 2  # the two files that are written


# --- Options ---


@pytest.mark.parametrize(
    ("output", "options", "named"),
    [
        ("all", {"float16": True}, "--embeddings"),
        ("all", {"embeddings": True, "mixed": True, "version": "x"}, "--mixed and --version"),
        ("all", {"layout": "csv"}, "none of parquet, huggingface"),
        ("all", {"without": ("label", "position")}, "'position' identifies a row"),
        ("all", {"without": ("labl",)}, "did you mean 'label'"),
        ("all", {"rows_per_file": 0}, "at least 1 row"),
        ("all.parquet", {"embeddings": True}, "name a folder"),
        ("all.parquet", {"layout": "huggingface"}, "is a folder"),
        ("all.parquet", {"rows_per_file": 5}, "no limit"),
    ],
)
def test_options_that_contradict_each_other(project, tmp_path, output, options, named) -> None:
    with pytest.raises(CurationError, match=named):
        gather_features(tmp_path / output, settings=project, **options)
