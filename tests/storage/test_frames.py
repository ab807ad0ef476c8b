"""`read_features`: finished batches as a DataFrame."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from records import LABELS, batch, degraded, failed, measured, write_features

from curation_features import read_features
from curation_features.atomic_files import publish
from curation_features.errors import StoreError
from curation_features.manifest import batch_from
from curation_features.schema import METRIC_NAMES, SIGNALS, PhotoInfo
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import FEATURE_COLUMNS


@pytest.fixture
def project(settings: Settings) -> Settings:
    """Batch `a`: one ok, one degraded, one failed. Batch `b`, with other labels: the first of them again."""
    store = ArtifactStore(settings.data_path)
    exif = {"iso": 64, "camera": "X", "datetime": "2024:02:29 10:00:00"}
    of_a, of_b = batch("one", "two", "three", batch_id="a"), batch("one", batch_id="b")
    for artifact in (*of_a.document["artifacts"], *of_b.document["artifacts"]):
        artifact["exif"] = {} if artifact["photo_id"] == "three" else exif
    write_features(store, [measured("one", [0.75] * 4)], of_b, clip="other", labels=LABELS[::-1])
    write_features(store, [measured("one"), degraded("two"), failed("three")], of_a)
    return settings


def test_one_row_per_artifact_of_finished_batches_in_order(project) -> None:
    frame = read_features(settings=project)
    assert list(frame.columns) == list(FEATURE_COLUMNS)
    assert frame[["batch_id", "position", "photo_id"]].to_numpy().tolist() == [
        ["a", 0, "one"], ["a", 1, "two"], ["a", 2, "three"], ["b", 0, "one"],
    ]  # fmt: skip
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame.set_index(["batch_id", "position"]).index.is_unique
    assert read_features("b", "a", settings=project)["photo_id"].tolist() == ["one", "one", "two", "three"]
    assert len(read_features("b", "b", settings=project)) == 1


def finished(project: Settings, **moments: int) -> None:
    """Set the time at which batches were finished, in seconds since 1970."""
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
    frame = read_features(settings=project, distinct=True)
    assert list(zip(frame["batch_id"], frame["photo_id"], strict=True)) == rows
    assert frame.index.tolist() == [0, 1, 2]


def test_distinct_photos_have_their_own_columns_and_vectors(project) -> None:
    finished(project, a=10, b=20)
    frame = read_features(settings=project, distinct=True, columns=["position", "version_clip"], embeddings=True)
    assert list(frame.columns) == ["position", "version_clip", "embedding"]
    assert frame["version_clip"].tolist() == ["c", "c", "other"]
    assert frame["embedding"][2].tolist() == [0.75] * 4
    assert read_features("a", settings=project, distinct=True)["position"].tolist() == [0, 1, 2]


def test_one_photo_on_two_artifacts_of_a_batch_is_one(settings: Settings) -> None:
    twice = batch("one", "one", batch_id="c")
    write_features(ArtifactStore(settings.data_path), [measured("one")], twice)
    assert read_features(settings=settings)["position"].tolist() == [0, 1]
    assert read_features(settings=settings, distinct=True)["position"].tolist() == [0]


def test_unmeasured_values_are_missing(project) -> None:
    frame = read_features("a", settings=project)
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
def test_column_types_do_not_depend_on_missing_values(project, batch_ids) -> None:
    store = ArtifactStore(project.data_path)
    write_features(store, [], batch(batch_id="empty"))
    write_features(store, [failed("x")], batch("x", batch_id="null"))
    frame = read_features(*batch_ids, settings=project)
    found = {name: kind.name for name, kind in frame.dtypes.items()}
    categories = (
        "batch_id",
        "format",
        "camera",
        "lens",
        "status",
        "label",
        "version_technical",
        "version_clip",
        "version_signals",
        "version_groups",
        "group_kind",
        "group_what",
    )
    texts = ("group_id", "group_copy_of", "group_copy_of_path", "group_reason", "photo_id", "original_uri", "image_uri")
    texts += ("sha256", "artifact")
    assert {name: found.pop(name) for name in categories} == dict.fromkeys(categories, "category")
    assert {name: found.pop(name) for name in texts} == dict.fromkeys(texts, "string")
    nested = ("errors", "clip_labels", "label_cosines", "flags", "hints", "flag_reasons")
    assert {name: found.pop(name) for name in nested} == dict.fromkeys(nested, "object")
    whole = ("width", "height", "iso", "group_rank", "group_size")
    assert {name: found.pop(name) for name in whole} == dict.fromkeys(whole, "Int32")
    assert (found.pop("position"), found.pop("taken")) == ("int32", "datetime64[ms]")
    assert found.pop("is_gray") == "boolean"
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
    frame = read_features("a", settings=project, columns=["sharpness", "photo_id"])
    assert list(frame.columns) == ["sharpness", "photo_id"]
    assert read == [["sharpness", "photo_id"]]


def test_attrs_document_columns_and_vocabularies(project) -> None:
    attrs = read_features(settings=project).attrs
    assert attrs["directions"] == {
        **dict.fromkeys(("sharpness", "exposure", "clip_iqa", "brisque"), "1 is best"),
        "noise": "0 is best",
        "group_rank": "1 is best",
        **dict.fromkeys(("noise_sigma", "brisque_raw", "clipped_low", "clipped_high"), "low is best"),
        **{signal.name: f"{signal.best} is best" for signal in SIGNALS if signal.best},
    }
    assert attrs["units"]["tenengrad"] == "gray level squared"
    assert attrs["ranges"]["label_cosines"] == (-1, 1)
    assert attrs["descriptions"].keys() == FEATURE_COLUMNS.keys()
    assert attrs["vocabularies"] == {"c": LABELS, "other": LABELS[::-1]}
    assert read_features("a", settings=project, columns=["noise"]).attrs["directions"] == {"noise": "0 is best"}


# --- Embeddings ---


def test_each_row_gets_the_vector_of_its_own_batch(project) -> None:
    frame = read_features(settings=project, columns=["label"], embeddings=True)
    assert list(frame.columns) == ["label", "embedding"]
    assert [None if row is None else row.tolist() for row in frame["embedding"]] == [
        [0.5] * 4, [0.25] * 4, None, [0.75] * 4,
    ]  # fmt: skip
    assert frame["embedding"][0].dtype == np.float32
    assert "embedding" not in read_features(settings=project)


def test_artifacts_of_one_photo_share_its_embedding(settings) -> None:
    records = [measured("one"), replace(measured("one"), image_uri="1.jpg"), replace(failed("one"), image_uri="2.jpg")]
    artifacts = [{"photo_id": "one", "original_uri": item.image_uri} for item in records]
    write_features(ArtifactStore(settings.data_path), records, batch_from({"batch_id": "a", "artifacts": artifacts}))
    assert read_features(settings=settings, embeddings=True)["embedding"].notna().tolist() == [True, True, False]


def test_an_embedding_of_other_bytes_is_none(project) -> None:
    """This happens briefly while a batch is replaced."""
    changed = measured("one")
    changed.info = PhotoInfo("b" * 64, "PNG", 8, 4)
    with ArtifactStore(project.data_path).embeddings("b", None, None) as file:
        file.add(changed)
        file.finish()
        publish((file.temporary, file.path))
    assert read_features("b", settings=project, embeddings=True)["embedding"].tolist() == [None]


def test_a_batch_without_an_embeddings_file_has_none(project) -> None:
    ArtifactStore(project.data_path).embeddings_path("b").unlink()
    assert read_features("b", settings=project, embeddings=True)["embedding"].tolist() == [None]


# --- Missing or damaged files ---


def test_an_unfinished_batch_names_the_nearest(project) -> None:
    (project.data_path / "features" / "b.json").unlink()  # written last
    assert set(read_features(settings=project)["batch_id"]) == {"a"}
    with pytest.raises(StoreError, match="no finished batch 'b'"):
        read_features("b", settings=project)
    with pytest.raises(StoreError, match=r"features: has no finished batch 'aa'; did you mean 'a'\?"):
        read_features("a", "aa", settings=project)
    with pytest.raises(StoreError, match=r"'\.\./x'; a finished batch has a \.json"):
        read_features("../x", settings=project)


def test_a_project_without_batches_says_how_to_make_one(settings) -> None:
    with pytest.raises(StoreError, match=r"data/features: has no finished batch; .* curation-features process"):
        read_features(settings=settings)


def test_arguments_that_are_wrong_have_a_remedy(project) -> None:
    with pytest.raises(TypeError, match=r'text, not list; give several as read_features\("a", "b"\)'):
        read_features(["a", "b"], settings=project)
    with pytest.raises(ValueError, match="no column 'sharpnes'; did you mean 'sharpness'"):
        read_features(settings=project, columns=["sharpnes"])
    with pytest.raises(ValueError, match="twice"):
        read_features(settings=project, columns=["noise", "noise"])


def test_newer_columns_are_null_in_older_tables(project) -> None:
    path = project.data_path / "features" / "b.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["taken", "iso", "camera"]), path)
    frame = read_features(settings=project)
    assert frame["taken"].isna().tolist() == [False, False, True, True]
    assert frame["iso"].dtype == "Int32"


@pytest.mark.parametrize("which", ["b.parquet", "embeddings/b.parquet"])
@pytest.mark.parametrize("damage", ["text", "cut", "zeros", "folder"])
def test_a_damaged_file_is_named_with_the_remedy(project, which, damage) -> None:
    path = project.data_path / "features" / which
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        zeros = data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :]
        path.write_bytes({"text": b"text", "cut": data[:-20], "zeros": zeros}[damage])
    with pytest.raises(StoreError, match=r"(?s)b\.parquet: cannot be read .*curation-features process MANIFEST"):
        read_features(settings=project, embeddings=True)
    assert len(read_features("a", settings=project, embeddings=True)) == 3


def test_a_foreign_table_is_named(project) -> None:
    path = project.data_path / "features" / "b.parquet"
    pd.DataFrame({"photo_id": ["x"]}).to_parquet(path)
    with pytest.raises(StoreError, match=r"b\.parquet: cannot be read"):
        read_features(settings=project)


def test_settings_are_those_of_the_project_by_default(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    assert len(read_features()) == 4
    assert json.loads(read_features("b")["artifact"][0])["photo_id"] == "one"
