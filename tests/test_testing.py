from __future__ import annotations

import numpy as np

from curation_features.clip.engine import ClipEngine
from curation_features.testing import FakeClipEngine, FakeQualityModel


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 20, 3), dtype=np.uint8)


def test_the_fake_engine_keeps_the_contract_of_a_real_one():
    engine: ClipEngine = FakeClipEngine()
    batch = np.stack([engine.preprocess(picture(seed)) for seed in (1, 2, 1)])
    images, texts = engine.encode_images(batch), engine.encode_texts(["a", "b", "a"])
    for vectors in (images, texts):
        assert vectors.dtype == np.float32
        assert vectors.shape == (3, engine.dimension)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
        assert np.array_equal(vectors[0], vectors[2])
        assert not np.allclose(vectors[0], vectors[1])
    assert np.array_equal(engine.encode_images(batch[1:2])[0], images[1])
    assert np.array_equal(FakeClipEngine().encode_texts(["b"])[0], texts[1])
    assert np.isfinite(engine.encode_images(np.zeros((1, 3, 8, 8), np.float32))).all()
    assert engine.encode_images(batch[:0]).shape == engine.encode_texts([]).shape == (0, engine.dimension)


def test_the_fakes_count_what_they_compute():
    engine, quality = FakeClipEngine(), FakeQualityModel()
    engine.encode_images(np.zeros((3, 3, 8, 8), np.float32))
    engine.encode_texts(["a", "b"])
    quality.score(np.zeros((4, 3, 8, 8), np.float32))
    assert (engine.images_encoded, engine.texts_encoded, quality.images_scored) == (3, 2, 4)


def test_the_fake_quality_is_the_mean_brightness():
    model = FakeQualityModel()
    batch = np.stack([model.preprocess(np.full((5, 9, 3), level, np.uint8)) for level in (0, 51, 255)])
    np.testing.assert_allclose(model.score(batch), [0, 0.2, 1], atol=1e-6)
