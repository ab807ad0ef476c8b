"""A dataset in an object store is replaced as a whole, or stays as it was; other objects are not touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from gathering import photo, write
from libraries import KilledError
from s3_servers import BUCKET, S3Server

from curation_features import Settings, gather_features
from curation_features.cli import main
from curation_features.dataset.stores import StoredDataset
from curation_features.errors import InputError, StoreError

URI = "memory://bucket/all"


@pytest.fixture
def store() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.fixture
def project(settings: Settings) -> Settings:
    write(settings, "a", photo("a0"), photo("a1"))
    return settings


def objects(store: Any, root: str = "/bucket") -> dict[str, bytes]:
    return {path.removeprefix(root): store.cat_file(path) for path in store.find(root)}


def read(store: Any, root: str = "/bucket/all") -> list[str]:
    """The photos of the files that the record names."""
    record = json.loads(store.cat_file(f"{root}/_dataset.json"))
    found = []
    for name in record["files"]:
        with store.open(f"{root}/{name}") as file:
            found += pq.read_table(file, columns=["photo_id"]).column(0).to_pylist()
    return found


def globbed(store: Any) -> int:
    """Rows of the files that readers of folders find."""
    return sum(pq.read_metadata(store.open(path)).num_rows for path in store.glob("/bucket/all/features/*.parquet"))


def test_a_dataset_is_written_and_replaced(project, store) -> None:
    first = gather_features(URI, settings=project)
    assert (first.output, first.rows, first.unchanged) == (URI, 2, False)
    before = objects(store)
    assert gather_features(URI, settings=project).unchanged
    assert objects(store) == before
    write(project, "b", photo("b0"))
    again = gather_features(URI, settings=project, embeddings=True, layout="huggingface")
    assert (again.rows, again.embeddings, again.files) == (3, 3, 2)
    assert read(store)[:3] == ["a0", "a1", "b0"]
    assert globbed(store) == 3
    names = {name.rpartition("-")[0] or name for name in objects(store)}
    assert names == {"/all/README.md", "/all/_dataset.json", "/all/features/part-00000", "/all/embeddings/part-00000"}


STEPS = ("put_file", "cp_file", "pipe_file", "rm_file")


@pytest.mark.parametrize("error", [KilledError, OSError])
@pytest.mark.parametrize("number", range(6))
def test_an_interrupted_run_leaves_a_whole_dataset(project, store, monkeypatch, number: int, error: Any) -> None:
    """Interrupted before each request that changes something, also if the process is killed and cleans up nothing."""
    gather_features(URI, settings=project)
    write(project, "b", photo("b0"))
    left = [number]

    def dying(act: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error("no")
            return act(*arguments, **options)

        return step

    with monkeypatch.context() as patched:
        for name in STEPS:
            patched.setattr(store, name, dying(getattr(store, name)))
        try:
            gather_features(URI, settings=project)
        except (KilledError, StoreError):
            assert read(store) == (["a0", "a1"] if number < 3 else ["a0", "a1", "b0"])
    assert gather_features(URI, settings=project).rows == 3
    assert globbed(store) == 3
    assert len(objects(store)) == 2


def test_other_objects_are_not_touched(project, store) -> None:
    store.pipe_file("/bucket/all/features/mine.parquet", b"mine")
    store.pipe_file("/bucket/all2/features/part-00000-00000000.parquet", b"mine")
    before = objects(store)
    with pytest.raises(InputError, match=r"that `gather` has not written \(features/mine.parquet\)"):
        gather_features(URI, settings=project)
    assert objects(store) == before
    store.rm_file("/bucket/all/features/mine.parquet")
    gather_features(URI, settings=project)
    assert objects(store)["/all2/features/part-00000-00000000.parquet"] == b"mine"


@pytest.mark.parametrize("uri", ["memory://", "memory://bucket", "memory://bucket/all.parquet", "nothing://bucket/all"])
def test_an_output_that_is_no_folder_in_a_bucket(project, store, uri: str) -> None:
    with pytest.raises(InputError):
        gather_features(uri, settings=project)
    assert objects(store) == {}


def test_an_edited_card_stays(project, store) -> None:
    gather_features(URI, settings=project, layout="huggingface")
    store.pipe_file("/bucket/all/README.md", b"mine")
    write(project, "b", photo("b0"))
    gather_features(URI, settings=project, layout="huggingface")
    assert store.cat_file("/bucket/all/README.md") == b"mine"


def test_errors_of_a_store_have_no_secrets(project, store, monkeypatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("https://k:p4ss@host/all?X-Amz-Signature=s1gned")

    monkeypatch.setattr(store, "cat_file", fail)
    with pytest.raises(StoreError, match="the store failed") as failure:
        StoredDataset(URI).check()
    assert not {"p4ss", "s1gned"} & {*str(failure.value).replace("@", " ").replace("=", " ").split()}
    assert "p4ss" not in str(failure.value)


@pytest.mark.long
def test_a_dataset_in_s3(project, s3: S3Server, capsys) -> None:
    write(project, "b", photo("b0"))
    command = ["--root", str(project.root), "gather", f"s3://{BUCKET}/sets/all", "--json", "--rows-per-file", "2"]
    for changed in (True, False):
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["output"], found["rows"], found["files"]) == (f"s3://{BUCKET}/sets/all", 3, 2)
        assert found["unchanged"] is not changed
    write(project, "c", photo("c0"))
    assert main(command) == 0
    filesystem = s3.filesystem()
    assert read(filesystem, f"{BUCKET}/sets/all") == ["a0", "a1", "b0", "c0"]
    filesystem.invalidate_cache()
    assert len(filesystem.find(f"{BUCKET}/sets/all")) == 3
