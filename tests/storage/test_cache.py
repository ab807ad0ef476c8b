"""The per-photo cache: the format of the contract, and only valid entries."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation_features.schema import (
    Embedding,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    Signals,
)
from curation_features.storage.cache import CacheEntry, FeatureCache
from curation_features.versions import digest

INFO = PhotoInfo("a" * 64, "JPEG", 640, 480)


def entry() -> CacheEntry:
    vector = np.zeros(8, np.float32)
    vector[3] = 1.0
    found = CacheEntry(INFO)
    found.add("sharpness", "1-s", Measurement(0.5, {"tenengrad": 1098.6}))
    found.add("brisque", "1-b", Measurement(error=FeatureError("brisque", "flat_image", "no variation")))
    found.add("edges", "1-d", Signals({"blur_px": 0.5, "streak": None}))
    found.add("embedding", "1-e", Embedding(vector, norm=10.434171))
    found.add("labels", "1-l", LabelPrediction((LabelScore("sky", 0.9, 0.3),), (0.3, -0.1), 0.8))
    return found


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def test_an_entry_comes_back_as_it_went_in(cache: FeatureCache) -> None:
    cache.save("photo", entry())
    [path] = cache.folder.iterdir()
    assert path.name == hashlib.md5(b"photo_features").hexdigest() + ".json"  # by the contract
    assert set(json.loads(path.read_bytes())) == {"version", "features"}
    loaded = cache.load("photo", INFO.sha256)
    assert loaded is not None
    assert loaded.info == INFO
    assert loaded.measurements == entry().measurements
    assert loaded.signals == {"edges": Signals({"blur_px": 0.5, "streak": None})}
    assert loaded.prediction == entry().prediction
    assert loaded.embedding is not None
    assert loaded.embedding.vector is not None
    assert loaded.embedding.norm == 10.434171
    np.testing.assert_array_equal(loaded.embedding.vector, np.eye(8, dtype=np.float32)[3])


def test_parts_are_valid_one_by_one(cache: FeatureCache) -> None:
    wanted = {"edges": "2-d", "sharpness": "1-s", "brisque": "2-b", "noise": "1-n", "embedding": "1-e"}
    assert entry().valid(wanted) == {"sharpness", "embedding"}


def test_an_error_that_may_pass_is_not_kept() -> None:
    found = CacheEntry(INFO)
    found.add("brisque", "1-b", Measurement(error=FeatureError("brisque", "missing_weights", "...")))
    found.add("embedding", "1-e", Embedding(error=FeatureError("image_embedding", "out_of_memory", "...")))
    assert found.versions == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"score": 0.5', b'"score": 0.6'),
        lambda data: data.replace(b'"photo_id": "photo"', b'"photo_id": "other"'),
        lambda data: data.replace(b"a" * 64, b"b" * 64),
        lambda data: b"\x80\x04\x95",
        lambda data: b"[" * 100_000,
        lambda data: b"null",
    ],
    ids=["truncated", "altered", "of-another-photo", "of-other-bytes", "pickle", "deep", "null"],
)
def test_an_entry_that_cannot_be_trusted_is_none(cache: FeatureCache, damage) -> None:
    cache.save("photo", entry())
    path = cache.path("photo")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load("photo", INFO.sha256) is None


def test_an_entry_of_an_older_version_is_read(cache: FeatureCache) -> None:
    """Older entries have the digest of canonical JSON."""
    cache.save("photo", entry())
    path = cache.path("photo")
    document = json.loads(path.read_bytes())
    document["version"]["content"] = digest(document["features"])
    path.write_text(json.dumps(document, indent=1))
    loaded = cache.load("photo", INFO.sha256)
    assert loaded is not None
    assert loaded.prediction == entry().prediction


@pytest.mark.parametrize("norm", [None, -1.0, float("inf"), float("nan"), "10", 0.0, 2])
def test_a_norm_is_finite_or_unknown(cache: FeatureCache, norm: Any) -> None:
    """Entries of an earlier release have none."""
    cache.save("photo", entry())
    path = cache.path("photo")
    document = json.loads(path.read_bytes())
    document["features"]["embedding_norm"] = norm
    if norm is None:
        del document["features"]["embedding_norm"]
    text = json.dumps(document["features"])
    document["version"]["content"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(f'{{"version": {json.dumps(document["version"])}, "features": {text}}}')
    loaded = cache.load("photo", INFO.sha256)
    assert (loaded is not None) == (norm in (None, 0.0, 2))
    if loaded is not None:
        assert loaded.embedding is not None
        assert loaded.embedding.norm == norm
        assert loaded.prediction == entry().prediction


def test_the_digest_covers_what_is_read_and_nothing_else(cache: FeatureCache) -> None:
    """JSON takes the last of equal keys; the digest covers the first."""
    cache.save('", "features": {', entry())
    assert cache.load('", "features": {', INFO.sha256) is not None
    cache.save("photo", entry())
    path = cache.path("photo")
    path.write_bytes(path.read_bytes()[:-1] + b', "features": {"photo": {}}}')
    assert cache.load("photo", INFO.sha256) is None


def test_a_cache_that_cannot_be_written_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    cache = FeatureCache(tmp_path / "file" / "features")
    with caplog.at_level(logging.WARNING):
        cache.save("one", entry())
        cache.save("two", entry())
    assert len(caplog.records) == 1
    assert cache.load("one", INFO.sha256) is None


def test_stats_and_clear(cache: FeatureCache) -> None:
    assert cache.stats().photos == 0
    cache.save("one", entry())
    cache.save("two", entry())
    cache.label_embeddings.write_bytes(b"vectors")
    assert (cache.stats().photos, cache.stats().label_embeddings) == (2, 1)
    assert cache.clear() == 2
    assert cache.load("one", INFO.sha256) is None
    assert cache.label_embeddings.exists()
    assert cache.clear(label_embeddings=True) == 1
    cache.save("one", entry())
    subprocess.run(f"rm -rf {cache.folder}/*.json", shell=True, check=True)  # the specification's way
    assert (cache.load("one", INFO.sha256), cache.stats().photos) == (None, 0)


def test_entries_of_the_first_decoding_keep_their_bytes(cache: FeatureCache) -> None:
    cache.save("photo", entry())
    document = json.loads(cache.path("photo").read_bytes())
    assert set(document["version"]) == {"photo_id", "image", "content", "parts"}
    found = cache.load("photo", INFO.sha256)
    assert found is not None
    assert found.decoding == 1
    found.decoding = 2
    cache.save("photo", found)
    again = cache.load("photo", INFO.sha256)
    assert again is not None
    assert again.decoding == 2


def test_labels_do_not_outlive_their_embedding() -> None:
    found = entry()
    found.add("embedding", "2-e", Embedding(np.eye(8, dtype=np.float32)[0]))
    assert found.prediction is None
    assert found.valid({"labels": "1-l", "embedding": "2-e"}) == {"embedding"}
