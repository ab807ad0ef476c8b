"""Norms of image embeddings: those of the engine that gives the vectors, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curation_features.clip.embeddings import Embeddings, embed_images
from curation_features.testing import FakeClipEngine

INPUTS = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
OTHER = np.eye(3, 16, dtype=np.float32)


class Plain:
    """An engine of an earlier release: unit vectors, and no norms."""

    def encode_images(self, batch: Any) -> np.ndarray:
        return OTHER


class Inheriting(FakeClipEngine):
    def encode_images(self, batch: Any) -> np.ndarray:
        return OTHER


class Delegating:
    def __init__(self) -> None:
        self._engine = FakeClipEngine()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode_images(self, batch: Any) -> np.ndarray:
        return OTHER


def patched() -> FakeClipEngine:
    engine = FakeClipEngine()
    engine.encode_images = lambda batch: OTHER  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("make", [Plain, Inheriting, Delegating, patched])
def test_an_engine_without_norms_gives_its_own_vectors(make) -> None:
    """Also if a part of it could give norms, of other vectors."""
    vectors, norms = embed_images(make(), INPUTS)
    assert vectors is OTHER
    assert norms == [None] * 3


def test_an_engine_with_norms_gives_both_in_one_pass() -> None:
    class Halved(FakeClipEngine):
        def embed_images(self, batch: Any) -> Embeddings:
            vectors, norms = super().embed_images(batch)
            return Embeddings(vectors, norms / 2)

    engine, halved = FakeClipEngine(), Halved()
    vectors, norms = embed_images(engine, INPUTS)
    assert engine.images_encoded == 3
    assert np.array_equal(vectors, engine.encode_images(INPUTS))
    assert embed_images(halved, INPUTS)[1] == [norm / 2 for norm in norms if norm]


def test_the_norms_of_the_fake_are_linear() -> None:
    """Its projection of x + 1 is linear: that of 2x + 1 is twice as long, in the same direction."""
    engine = FakeClipEngine()
    (vectors, norms), (same, doubled) = engine.embed_images(INPUTS), engine.embed_images(2 * INPUTS + 1)
    np.testing.assert_allclose(doubled, 2 * norms, rtol=1e-6)
    np.testing.assert_allclose(same, vectors, atol=1e-6)
    assert norms.dtype == np.float32
    assert engine.embed_images(INPUTS[:0]).norms.shape == (0,)
