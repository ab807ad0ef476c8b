"""The index: equal to the tables after any history, never of mixed versions, never damaged by a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_batches import DIMENSION, unit, version, write_batch
from numpy.typing import NDArray

from curation_features.errors import BusyError, StoreError
from curation_features.search import forget, indexing
from curation_features.search.index import Index, read_contents
from curation_features.search.indexing import is_due, refresh_index, update_index
from curation_features.settings import Settings

Vectors = dict[str, NDArray[np.float32]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path)


def photos(*names: str, seed: int = 0) -> Vectors:
    return {name: unit(np.random.default_rng([seed, *name.encode()]).standard_normal(DIMENSION)) for name in names}


def indexed(settings: Settings, of: str | None = None) -> dict[tuple[str, str, tuple[str, ...]], list[float]]:
    """The vectors of the index by batch, photo and URIs."""
    index = Index(settings.data_path, read_contents(settings.data_path), of or version(settings))
    rows = [row for part in index.ranges() for row in range(part.start, part.stop)]
    assert len(index) == len(rows)
    return {
        (index.batch_of(row), photo.photo_id, photo.uris): index.vectors[row].tolist()
        for row in rows
        for photo in [index.photo(row)]
    }


def expected(**batches: Vectors) -> dict[tuple[str, str, tuple[str, ...]], list[float]]:
    return {
        (batch_id, name, (f"photos/{name}.jpg",)): vector.astype(np.float16).tolist()
        for batch_id, vectors in batches.items()
        for name, vector in vectors.items()
    }


def test_the_index_follows_batches_that_come_change_and_go(settings: Settings) -> None:
    data = settings.data_path
    assert not is_due(data, read_contents(data))
    one, two = photos("a", "b"), photos("b", "c", "d")
    write_batch(settings, "one", {**one, "without": None})
    write_batch(settings, "two", two)
    assert is_due(data, read_contents(data))
    assert update_index(data).added == 5
    assert not is_due(data, read_contents(data))
    assert indexed(settings) == expected(one=one, two=two)
    changed = photos("a", "e", seed=1)
    write_batch(settings, "one", changed)
    write_batch(settings, "three", photos("f"))
    assert (update_index(data).read, indexed(settings)) == (2, expected(one=changed, two=two, three=photos("f")))
    for path in (data / "features").rglob("two.*"):
        path.unlink()
    assert update_index(data).photos == 3
    assert indexed(settings) == expected(one=changed, three=photos("f"))
    files = {path.suffix for path in (data / "index").iterdir()}
    assert (len(list((data / "index").iterdir())), files) == (4, {".json", ".vectors", ".rows", ".text"})


def test_new_labels_append_no_rows(settings: Settings) -> None:
    write_batch(settings, "one", photos("a", "b"))
    update_index(settings.data_path)
    before = read_contents(settings.data_path)
    write_batch(settings, "one", photos("a", "b"), [{"photo_id": name, "label": "dog"} for name in "ab"])
    made = update_index(settings.data_path)
    assert (made.read, made.added) == (1, 0)
    assert read_contents(settings.data_path).versions == before.versions


def test_versions_are_never_mixed(settings: Settings) -> None:
    write_batch(settings, "one", photos("a"))
    write_batch(settings, "two", photos("b"), of="1-other")
    assert update_index(settings.data_path).versions == {version(settings): 1, "1-other": 1}
    assert indexed(settings) == expected(one=photos("a"))
    assert indexed(settings, "1-other") == expected(two=photos("b"))


def test_rows_of_deleted_photos_leave_no_trace(settings: Settings) -> None:
    write_batch(settings, "many", photos(*(f"photo-{number}" for number in range(40))))
    write_batch(settings, "one", photos("secret"))
    update_index(settings.data_path)
    forget(settings.data_path, ["one"])
    assert len(indexed(settings)) == 40
    vector = photos("secret")["secret"].astype(np.float16).tobytes()
    for path in (settings.data_path / "index").iterdir():
        assert b"secret" not in path.read_bytes()
        assert vector not in path.read_bytes()
    update_index(settings.data_path)  # its files exist still
    assert indexed(settings).keys() >= expected(one=photos("secret")).keys()


@pytest.mark.parametrize("suffix", [".vectors", ".rows", ".text"])
def test_the_rows_of_a_killed_writer_are_overwritten(settings: Settings, suffix: str) -> None:
    data = settings.data_path
    write_batch(settings, "one", photos("a"))
    update_index(data)
    [path] = (data / "index").glob(f"*{suffix}")
    with path.open("ab") as file:
        file.write(b"cut short")
    assert indexed(settings) == expected(one=photos("a"))  # the old index answers
    write_batch(settings, "two", photos("b"))
    update_index(data)
    assert indexed(settings) == expected(one=photos("a"), two=photos("b"))


@pytest.mark.parametrize("damage", ["shorter", "missing", "json", "all"])
def test_a_damaged_index_is_made_again(settings: Settings, damage: str) -> None:
    data = settings.data_path
    write_batch(settings, "one", photos("a", "b"))
    update_index(data)
    [path] = (data / "index").glob("*.vectors")
    if damage == "shorter":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "missing":
        path.unlink()
    elif damage == "json":
        (data / "index" / "index.json").write_text("{")
    else:
        shutil.rmtree(data / "index")
    if damage in ("shorter", "missing"):
        with pytest.raises(StoreError, match="makes the index again"):
            indexed(settings)
    write_batch(settings, "two", photos("c"))
    update_index(data)
    assert indexed(settings) == expected(one=photos("a", "b"), two=photos("c"))


@pytest.mark.parametrize("file", ["two.parquet", "embeddings/two.parquet", "dimension"])
def test_a_damaged_batch_affects_no_other(settings: Settings, file: str, caplog: pytest.LogCaptureFixture) -> None:
    write_batch(settings, "one", photos("a"))
    update_index(settings.data_path)
    write_batch(settings, "two", photos("b"))
    if file == "dimension":
        file = "embeddings/two.parquet"
        write_batch(settings, "two", {"b": np.ones(3, np.float32)})
    else:
        (settings.data_path / "features" / file).write_bytes(b"PAR1")
    write_batch(settings, "three", photos("c"))
    found = update_index(settings.data_path)
    assert indexed(settings) == expected(one=photos("a"), three=photos("c"))
    assert (found.batches, found.photos) == (3, 2)
    assert str(settings.data_path / "features" / file) in caplog.text
    write_batch(settings, "two", photos("b"))
    update_index(settings.data_path)
    assert indexed(settings) == expected(one=photos("a"), two=photos("b"), three=photos("c"))


def test_damaged_groups_are_ignored(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    write_batch(settings, "one", photos("a"))
    folder = settings.data_path / "groups"
    folder.mkdir()
    for name in ("groups", "photos", "edges", "parts"):
        (folder / f"{name}.parquet").write_bytes(b"PAR1")
    update_index(settings.data_path)
    assert indexed(settings) == expected(one=photos("a"))
    assert "curation-features groups" in caplog.text


def test_a_full_disk_keeps_the_old_index(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batch(settings, "one", photos("a"))
    update_index(settings.data_path)
    write_batch(settings, "two", photos("b"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexing, "flush", full)
    with pytest.raises(StoreError, match="No space left"):
        update_index(settings.data_path)
    assert indexed(settings) == expected(one=photos("a"))


def test_a_reader_keeps_its_rows_while_the_index_is_replaced(settings: Settings) -> None:
    write_batch(settings, "one", photos("a"))
    update_index(settings.data_path)
    index = Index(settings.data_path, read_contents(settings.data_path), version(settings))
    write_batch(settings, "one", photos("a", seed=1))
    update_index(settings.data_path)
    assert index.vectors[0].tolist() == photos("a")["a"].astype(np.float16).tolist()
    assert index.photo(0).photo_id == "a"


def test_a_second_writer_waits_or_is_refused(settings: Settings) -> None:
    write_batch(settings, "one", photos("a"))
    with indexing.locked(settings.data_path), pytest.raises(BusyError, match="updates the index"):
        update_index(settings.data_path, wait=False)


def test_the_index_follows_finished_batches_if_wanted(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    index = settings.data_path / "index"
    write_batch(settings, "one", photos("a"))
    refresh_index(settings.replace(search_index=False))
    assert not index.exists()
    refresh_index(settings)
    assert indexed(settings) == expected(one=photos("a"))
    shutil.rmtree(index)
    index.write_text("not a folder")
    refresh_index(settings)
    assert "not up to date" in caplog.text
