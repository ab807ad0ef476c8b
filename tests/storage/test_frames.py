"""`load`: finished batches as a DataFrame."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_store import failed, measured

import curation_features
from curation_features import load
from curation_features.errors import StoreError
from curation_features.manifest import batch_from
from curation_features.pipeline.merge import merge
from curation_features.schema import METRIC_NAMES, Embedding, FeatureError, Measurement, PhotoInfo, PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import FEATURE_COLUMNS

LABELS = [f"label {n}" for n in range(9)]


def write(
    root: Path, batch_id: str, records: list[PhotoRecord], *, clip: str = "c", labels: list[str] = LABELS
) -> None:
    exif = {"iso": 64, "camera": "X", "datetime": "2024:02:29 10:00:00"}
    artifacts = [
        {"photo_id": item.photo_id, "original_uri": item.image_uri, "exif": {} if item.failure else exif}
        for item in records
    ]
    store = ArtifactStore(root / "data")
    version = {"technical": "t", "clip": clip}
    merged = merge(batch_from({"batch_id": batch_id, "artifacts": artifacts}), records, version, labels, ())
    with store.embeddings(batch_id, "1-x", "a/model") as file:
        for item in records:
            file.add(item)
        store.write_features(merged.document, merged.rows(), version, labels, file)


def record(name: str, number: float) -> PhotoRecord:
    found = measured(name)
    found.embedding = Embedding(np.full(4, number, np.float32))
    return found


@pytest.fixture
def project(settings: Settings) -> Settings:
    """Batch `a`: one ok, one degraded, one failed; batch `b`, with other labels: the first of them again."""
    degraded = record("two", 0.25)
    degraded.measurements["noise"] = Measurement(error=FeatureError("noise", "flat_image", "no variation"))
    write(settings.root, "b", [record("one", 0.75)], clip="other", labels=LABELS[::-1])
    write(settings.root, "a", [record("one", 0.5), degraded, failed("three")])
    return settings


def test_one_row_for_each_artifact_of_every_finished_batch_in_order(project) -> None:
    frame = load(settings=project)
    assert list(frame.columns) == list(FEATURE_COLUMNS)
    assert frame[["batch_id", "position", "photo_id"]].to_numpy().tolist() == [
        ["a", 0, "one"], ["a", 1, "two"], ["a", 2, "three"], ["b", 0, "one"],
    ]  # fmt: skip
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame.set_index(["batch_id", "position"]).index.is_unique
    assert load("b", "a", settings=project)["photo_id"].tolist() == ["one", "one", "two", "three"]
    assert len(load("b", "b", settings=project)) == 1


def finished(project: Settings, **moments: int) -> None:
    """Let batches have been finished at these moments, in seconds since 1970."""
    for batch_id, moment in moments.items():
        os.utime(project.data_path / "features" / f"{batch_id}.json", (moment, moment))


@pytest.mark.parametrize(
    ("moments", "rows"),
    [
        ({"a": 20, "b": 10}, [("a", "one"), ("a", "two"), ("a", "three")]),
        ({"a": 10, "b": 20}, [("a", "two"), ("a", "three"), ("b", "one")]),
        ({"a": 10, "b": 10}, [("a", "two"), ("a", "three"), ("b", "one")]),  # of two, the later in order
    ],
)
def test_a_distinct_photo_is_that_of_the_batch_finished_last(project, moments, rows) -> None:
    finished(project, **moments)
    frame = load(settings=project, distinct=True)
    assert list(zip(frame["batch_id"], frame["photo_id"], strict=True)) == rows
    assert frame.index.tolist() == [0, 1, 2]


def test_distinct_photos_have_their_own_columns_and_vectors(project) -> None:
    finished(project, a=10, b=20)
    frame = load(settings=project, distinct=True, columns=["position", "version_clip"], embeddings=True)
    assert list(frame.columns) == ["position", "version_clip", "embedding"]
    assert frame["version_clip"].tolist() == ["c", "c", "other"]
    assert frame["embedding"][2].tolist() == [0.75] * 4
    assert load("a", settings=project, distinct=True)["position"].tolist() == [0, 1, 2]


def test_one_photo_on_two_artifacts_of_a_batch_is_one(settings: Settings) -> None:
    same = record("one", 0.5)
    store = ArtifactStore(settings.data_path)
    batch = batch_from({"batch_id": "c", "artifacts": [{"photo_id": "one", "original_uri": same.image_uri}] * 2})
    merged = merge(batch, [same], {"technical": "t", "clip": "c"}, LABELS, ())
    store.write_features(merged.document, merged.rows(), merged.version, LABELS)
    assert load(settings=settings)["position"].tolist() == [0, 1]
    assert load(settings=settings, distinct=True)["position"].tolist() == [0]


def test_what_was_not_measured_is_missing(project) -> None:
    frame = load("a", settings=project)
    assert frame["noise"].isna().tolist() == [False, True, True]
    assert frame["sharpness"].tolist()[:2] == [0.25, 0.25]
    assert frame["label"].tolist() == ["label 0", "label 0", np.nan]
    assert frame["label_cosines"].tolist() == [[0.1, 0.2, -0.3], [0.1, 0.2, -0.3], None]
    assert frame["clip_labels"][0][1] == {"label": "label 1", "confidence": 0.25, "cosine_score": 0.1}
    assert frame["errors"][1] == [{"stage": "noise", "reason": "flat_image", "message": "no variation"}]
    assert frame["taken"][0] == pd.Timestamp("2024-02-29 10:00")
    assert frame["taken"].isna().tolist() == [False, False, True]
    assert frame["iso"].tolist() == [64, 64, pd.NA]
    assert frame["lens"].isna().all()


@pytest.mark.parametrize("batch_ids", [(), ("a",), ("b",), ("empty",), ("null",)])
def test_columns_have_the_same_types_whatever_is_missing_in_a_batch(project, batch_ids) -> None:
    write(project.root, "empty", [])
    write(project.root, "null", [failed("x")])
    frame = load(*batch_ids, settings=project)
    found = {name: kind.name for name, kind in frame.dtypes.items()}
    categories = ("batch_id", "format", "camera", "lens", "status", "label", "version_technical", "version_clip")
    texts = ("photo_id", "original_uri", "image_uri", "sha256", "artifact")
    assert {name: found.pop(name) for name in categories} == dict.fromkeys(categories, "category")
    assert {name: found.pop(name) for name in texts} == dict.fromkeys(texts, "string")
    nested = ("errors", "clip_labels", "label_cosines")
    assert {name: found.pop(name) for name in nested} == dict.fromkeys(nested, "object")
    whole = ("width", "height", "iso")
    assert {name: found.pop(name) for name in whole} == dict.fromkeys(whole, "Int32")
    assert (found.pop("position"), found.pop("taken")) == ("int32", "datetime64[ms]")
    assert set(found.values()) == {"float64"}
    assert set(METRIC_NAMES) <= set(found)
    assert frame["status"].cat.ordered
    assert list(frame["status"].cat.categories) == ["ok", "degraded", "failed"]


def test_only_what_is_asked_for_is_read(project, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    plain = pq.ParquetFile.read

    def noted(self, columns):
        read.append(columns)
        return plain(self, columns)

    monkeypatch.setattr(pq.ParquetFile, "read", noted)
    frame = load("a", settings=project, columns=["sharpness", "photo_id"])
    assert list(frame.columns) == ["sharpness", "photo_id"]
    assert read == [["sharpness", "photo_id"]]


def test_attrs_tell_what_columns_mean_and_the_labels_of_each_version(project) -> None:
    told = load(settings=project).attrs
    assert told["directions"] == {
        **dict.fromkeys(("sharpness", "exposure", "clip_iqa", "brisque"), "1 is best"),
        "noise": "0 is best",
        **dict.fromkeys(("noise_sigma", "brisque_raw", "clipped_low", "clipped_high"), "low is best"),
    }
    assert told["units"]["tenengrad"] == "gray level squared"
    assert told["ranges"]["label_cosines"] == (-1, 1)
    assert told["descriptions"].keys() == FEATURE_COLUMNS.keys()
    assert told["vocabularies"] == {"c": LABELS, "other": LABELS[::-1]}
    assert load("a", settings=project, columns=["noise"]).attrs["directions"] == {"noise": "0 is best"}


# --- Vectors ---


def test_each_row_gets_the_vector_of_its_own_batch(project) -> None:
    frame = load(settings=project, columns=["label"], embeddings=True)
    assert list(frame.columns) == ["label", "embedding"]
    assert [None if row is None else row.tolist() for row in frame["embedding"]] == [
        [0.5] * 4, [0.25] * 4, None, [0.75] * 4,
    ]  # fmt: skip
    assert frame["embedding"][0].dtype == np.float32
    assert "embedding" not in load(settings=project)


def test_artifacts_of_one_photo_share_its_vector_but_one_that_could_not_be_read_has_none(settings) -> None:
    copy, gone = (replace(item, image_uri=f"{n}.jpg") for n, item in enumerate([record("one", 0.5), failed("one")]))
    write(settings.root, "a", [record("one", 0.5), copy, gone])
    assert load(settings=settings, embeddings=True)["embedding"].notna().tolist() == [True, True, False]


def test_a_vector_of_other_bytes_is_none(project) -> None:
    """So it is while a batch is replaced, for a moment."""
    store = ArtifactStore(project.data_path)
    changed = record("one", 0.5)
    changed.info = PhotoInfo("b" * 64, "PNG", 8, 4)
    with store.embeddings("b", None, None) as file:
        file.add(changed)
        file.finish()
        file.publish()
    assert load("b", settings=project, embeddings=True)["embedding"].tolist() == [None]


def test_a_batch_without_a_file_of_vectors_has_none(project) -> None:
    ArtifactStore(project.data_path).embeddings_path("b").unlink()
    assert load("b", settings=project, embeddings=True)["embedding"].tolist() == [None]


# --- What is not there, or damaged ---


def test_a_batch_that_is_not_there_names_the_nearest(project) -> None:
    with pytest.raises(StoreError, match=r"features: has no finished batch 'aa'; did you mean 'a'\?"):
        load("a", "aa", settings=project)
    with pytest.raises(StoreError, match=r"'\.\./x'; finished are those with a \.json"):
        load("../x", settings=project)


def test_a_batch_whose_json_is_missing_is_not_finished(project) -> None:
    (project.data_path / "features" / "b.json").unlink()
    assert set(load(settings=project)["batch_id"]) == {"a"}
    with pytest.raises(StoreError, match="no finished batch 'b'"):
        load("b", settings=project)


def test_a_project_without_batches_says_how_to_make_one(settings) -> None:
    with pytest.raises(StoreError, match=r"data/features: has no finished batch; make one: curation-features process"):
        load(settings=settings)


def test_a_column_that_is_not_there_names_the_nearest(project) -> None:
    with pytest.raises(ValueError, match="no column 'sharpnes'; did you mean 'sharpness'"):
        load(settings=project, columns=["sharpnes"])
    with pytest.raises(ValueError, match="twice"):
        load(settings=project, columns=["noise", "noise"])


def test_a_table_of_an_older_version_has_null_in_columns_that_are_newer(project) -> None:
    path = project.data_path / "features" / "b.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["taken", "iso", "camera"]), path)
    frame = load(settings=project)
    assert frame["taken"].isna().tolist() == [False, False, True, True]
    assert frame["iso"].dtype == "Int32"


def zero(data: bytes) -> bytes:
    return data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :]


@pytest.mark.parametrize("which", ["b.parquet", "embeddings/b.parquet"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"text", lambda data: data[:-20], zero, None],
    ids=["empty", "text", "cut", "zeros", "folder"],
)
def test_a_damaged_file_is_named_with_the_remedy(project, which, damage) -> None:
    path = project.data_path / "features" / which
    data = path.read_bytes()
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage(data))
    with pytest.raises(StoreError, match=r"(?s)b\.parquet: cannot be read .*curation-features process MANIFEST"):
        load(settings=project, embeddings=True)
    assert len(load("a", settings=project, embeddings=True)) == 3


def test_a_table_that_is_not_ours_is_named(project) -> None:
    path = project.data_path / "features" / "b.parquet"
    pd.DataFrame({"photo_id": ["x"]}).to_parquet(path)
    with pytest.raises(StoreError, match=r"b\.parquet: cannot be read"):
        load(settings=project)


def test_settings_are_those_of_the_project_by_default(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    assert len(curation_features.load()) == 4
    assert json.loads(curation_features.load("b")["artifact"][0])["photo_id"] == "one"
