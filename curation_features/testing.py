"""Fake models for tests: small, deterministic, without torch.

engine = FakeClipEngine()
classifier = CLIPClassifier(settings, engine=LazyModel.ready(engine, "fake"))
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation_features.clip.embeddings import Embeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COUNTING = threading.Lock()


class FakeClipEngine:
    """A fake `ClipEngine`: embeddings depend on pixels, or on a text's digest.

    Args:
        dimension: length D of an embedding.
        side: side S of the input, px.
        logit_scale: factor on cosines before the softmax.

    Attributes:
        context_length: words per prompt; further ones are ignored.
        images_encoded: number of images passed to `encode_images` and `embed_images` so far.
        texts_encoded: number of prompts passed to `encode_texts` so far.
    """

    def __init__(self, dimension: int = 16, side: int = 8, logit_scale: float = 100.0) -> None:
        self.dimension = dimension
        self.logit_scale = logit_scale
        self.context_length = 77
        self.images_encoded = 0
        self.texts_encoded = 0
        self._side = side
        self._projection = np.random.default_rng(0).standard_normal((3 * side * side, dimension))

    def preprocess(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resize an image to (3, S, S), values 0..1."""
        return _resize(rgb, self._side)

    def encode_images(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors (N, D); each depends on its image only."""
        return self.embed_images(batch).vectors

    def embed_images(self, batch: NDArray[np.float32]) -> Embeddings:
        """Unit vectors (N, D), and their norms (N,) before normalisation."""
        with _COUNTING:
            self.images_encoded += len(batch)
        raw = [(image.astype(np.float64).ravel() + 1.0) @ self._projection for image in batch]
        vectors = np.stack([*map(_normalize, raw)]) if raw else np.empty((0, self.dimension), np.float32)
        return Embeddings(vectors, np.array([np.linalg.norm(vector) for vector in raw], np.float32))

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, D), one per prompt."""
        with _COUNTING:
            self.texts_encoded += len(prompts)
        vectors = [_normalize(_seeded_generator(prompt).standard_normal(self.dimension)) for prompt in prompts]
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def tokenize(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """One token per word, at most `context_length`, and whether a prompt was cut."""
        words = [prompt.split() for prompt in prompts]
        tokens = np.zeros((len(prompts), self.context_length), np.int64)
        for row, prompt in zip(tokens, words, strict=True):
            row[: len(prompt)] = [zlib.crc32(word.encode()) for word in prompt[: self.context_length]]
        return tokens, np.array([len(prompt) > self.context_length for prompt in words], bool)


class FakeQualityModel:
    """A fake CLIP-IQA: the score is the mean brightness, in [0, 1].

    Attributes:
        images_scored: number of images passed to `score` so far.
    """

    def __init__(self, side: int = 8) -> None:
        self.images_scored = 0
        self._side = side

    def preprocess(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resize an image to (3, S, S), values 0..1."""
        return _resize(rgb, self._side)

    def score(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (N,); each depends on its image only."""
        with _COUNTING:
            self.images_scored += len(batch)
        return np.array([image.mean() for image in batch], np.float32)


class FakeBrisque:
    """A fake BRISQUE: the index is the mean gray level, scaled to 0..100.

    Attributes:
        images_scored: number of images passed to `score` so far.
        batched: None: scores one image at a time.
    """

    batched = None

    def __init__(self) -> None:
        self.images_scored = 0

    def score(self, rgb: NDArray[np.uint8]) -> float:
        """Index of one image (H, W, 3)."""
        with _COUNTING:
            self.images_scored += 1
        return float(rgb.mean()) / 2.55


def _resize(rgb: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    import cv2  # not at the top: a run whose photos are all cached resizes nothing

    small = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def _seeded_generator(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def _normalize(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
