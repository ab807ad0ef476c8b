"""The embeddings file of a batch."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from records import LABELS, NORM, batch, failed, measured, write_features

from curation_features.cli import main
from curation_features.manifest import Batch, to_json
from curation_features.pipeline import Models
from curation_features.schema import Embedding, PhotoRecord
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import EMBEDDING_COLUMNS, read_metadata, read_rows


def record(name: str, seed: int, size: int = 8) -> PhotoRecord:
    return measured(name, np.random.default_rng(seed).normal(size=size))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def stored_in(path: Path) -> dict[str, list[float] | None]:
    rows = list(read_rows(path))
    found = {row["photo_id"]: None if row["embedding"] is None else row["embedding"].tolist() for row in rows}
    assert len(found) == len(rows), "duplicate photo_id"
    return found


def vector(item: PhotoRecord) -> list[float]:
    assert item.embedding is not None
    assert item.embedding.vector is not None
    return item.embedding.vector.tolist()


# --- Content ---


def test_embeddings_are_stored_bit_for_bit_with_their_source(store: ArtifactStore) -> None:
    records = [record("a", 1), failed("c"), record("b", 2)]
    write_features(store, records)
    path = store.embeddings_path("b")
    assert stored_in(path) == {"a": vector(records[0]), "b": vector(records[2]), "c": None}
    assert [row["sha256"] for row in read_rows(path)] == ["a" * 64, "a" * 64, None]
    assert {row["batch_id"] for row in read_rows(path)} == {"b"}
    assert read_metadata(path) == {"model": "a/model", "version": "1-abc", "dimension": 8}
    assert [row["embedding_norm"] for row in read_rows(path)] == [NORM, NORM, None]
    assert pq.read_schema(path).names == list(EMBEDDING_COLUMNS)


def test_a_photo_id_has_one_row_with_its_first_embedding(store: ArtifactStore) -> None:
    """Copies of a photo share its id; one may be unreadable."""
    records = [failed("a"), record("a", 1), record("a", 2), failed("a")]
    write_features(store, [record("a", 1)], vectors=records)
    assert stored_in(store.embeddings_path("b")) == {"a": vector(records[1])}


def test_batches_without_embeddings_have_a_file(store: ArtifactStore) -> None:
    write_features(store, [failed("a")])
    assert stored_in(store.embeddings_path("b")) == {"a": None}
    assert read_metadata(store.embeddings_path("b"))["dimension"] is None
    write_features(store, [])
    assert stored_in(store.embeddings_path("b")) == {}


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_photos(store: ArtifactStore) -> None:
    size, count = 768, 4000  # 12 MB
    with store.embeddings("b", None, None) as file:
        tracemalloc.start()
        for number in range(count):
            file.add(record(str(number), number, size))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        store.write_features(batch().document, (), {}, LABELS, file)
    assert peak < 0.9 * 4 * size * count
    rows = list(read_rows(store.embeddings_path("b")))
    assert [row["photo_id"] for row in rows] == [str(number) for number in range(count)]
    assert rows[3999]["embedding"].tolist() == vector(record("3999", 3999, size))


# --- Replacement ---


def test_features_without_embeddings_delete_older_ones(store: ArtifactStore) -> None:
    write_features(store, [record("a", 1)])
    store.write_features(batch().document, (), {}, LABELS)
    assert not store.embeddings_path("b").exists()


def test_an_interrupted_run_leaves_only_the_old_file(store: ArtifactStore) -> None:
    old = [record("a", 1)]
    write_features(store, old)
    with pytest.raises(ZeroDivisionError), store.embeddings("b", None, None) as file:
        file.add(record("a", 1 // 0))
    with store.embeddings("b", None, None) as file:
        file.add(record("a", 3))
    assert stored_in(store.embeddings_path("b")) == {"a": vector(old[0])}
    assert [path.name for path in store.embeddings_path("b").parent.iterdir()] == ["b.parquet"]


def test_interrupted_rows_leave_all_old_files(store: ArtifactStore) -> None:
    write_features(store, [record("a", 1)])
    before = {path: path.read_bytes() for path in store.data_path.rglob("*.*")}

    def breaking() -> Any:
        raise RuntimeError("killed")
        yield

    with store.embeddings("b", None, None) as file, pytest.raises(RuntimeError, match="killed"):
        store.write_features(batch("a").document, breaking(), {}, LABELS, file)
    assert {path: path.read_bytes() for path in store.data_path.rglob("*.*")} == before


def test_the_json_comes_last(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    replace = Path.replace

    def record_replace(self: Path, target: Path) -> Path:
        renamed.append(str(Path(target).relative_to(store.data_path / "features")))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record_replace)
    write_features(store, [record("a", 1)])
    assert renamed == ["b.parquet", "embeddings/b.parquet", "b.json"]


# --- Source ---


def stored(store: ArtifactStore, made_of: Batch, records: list[PhotoRecord]) -> dict[str, list[float] | None]:
    """Return the embeddings that the pipeline writes for `records`."""
    with store.stored_embeddings(made_of, records) as (file, _):
        store.write_features(batch().document, (), {}, LABELS, file)
    return stored_in(store.embeddings_path("b"))


def test_only_embeddings_of_the_same_bytes_are_taken(store: ArtifactStore) -> None:
    records = [record("a", 1), record("b", 2), failed("c")]
    store.write_stages(batch("a", "b", "c"), records, {"image_embeddings": {"embedding": "1-x"}}, "a/model")
    bare = [measured("a"), measured("b"), failed("c")]
    bare[1].info = None
    with store.stored_embeddings(batch("a", "b", "c"), bare) as (_, found):
        assert [item.embedding for item in found] == [Embedding(norm=NORM), Embedding(), Embedding()]
    assert stored(store, batch("a", "b", "c"), bare) == {"a": vector(records[0]), "b": None, "c": None}
    assert read_metadata(store.embeddings_path("b")) == {"model": "a/model", "version": "1-x", "dimension": 8}


@pytest.mark.parametrize("wrong", ["missing", "of another manifest", "cut", "damaged"])
def test_unavailable_embeddings_are_null(store: ArtifactStore, wrong: str) -> None:
    records = [record("a", 1)]
    write_features(store, records)
    path = store.stage_path("image_embeddings", "b")
    if wrong != "missing":
        made_of = batch("a", note=1) if wrong == "of another manifest" else batch("a")
        store.write_stages(made_of, records, {"image_embeddings": {}})
        data = bytearray(path.read_bytes())
        if wrong == "damaged":
            data[4:400] = bytes(396)
        path.write_bytes(data[: -10 if wrong == "cut" else None])
    assert stored(store, batch("a"), [measured("a")]) == {"a": None}


@pytest.fixture
def project(world, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two photos, one unreadable, and a copy."""
    photo = world.photo("0.png", 1)
    broken = {**world.photo("1.png", 2), "photo_id": "broken"}
    (world.root / "photos" / "1.png").write_bytes(b"no image")
    (world.root / "b.json").write_bytes(to_json(world.batch([photo, broken, photo], "trip").document))
    monkeypatch.setattr(Models, "from_settings", lambda *_: world.models())
    monkeypatch.setenv("DAGSTER_HOME", str(world.root / "data" / "dagster"))
    monkeypatch.chdir(world.root)
    return world.root


@pytest.mark.long
def test_the_cache_gives_the_same_file_as_the_model(project: Path, world) -> None:
    path = project / "data" / "features" / "embeddings" / "trip.parquet"
    assert main(["process", "b.json"]) == 0
    first, broken = read_rows(path)
    pixels = pq.read_table(project / "data" / "features" / "trip.parquet", columns=["photo_id", "sha256"]).to_pylist()
    assert [first["photo_id"], first["sha256"]] == list(pixels[0].values())
    assert first["embedding"].shape == (world.clip.dimension,)
    assert np.linalg.norm(first["embedding"]) == pytest.approx(1)
    assert list(broken.values()) == ["trip", "broken", None, None, None]
    assert first["embedding_norm"] > 0
    assert read_metadata(path)["model"] == world.settings.model
    data = path.read_bytes()
    path.unlink()
    assert main(["process", "b.json"]) == 0
    assert path.read_bytes() == data


def test_process_with_output_writes_no_embeddings(project: Path) -> None:
    assert main(["process", "b.json", "--output", "out.json"]) == 0
    assert not (project / "data" / "features").exists()
