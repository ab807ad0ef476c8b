"""Work of engines for benchmarks and kills: batches with stand-in models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from curation_features.engines import Shard, ShardFunction, ShardResult
from curation_features.engines.batch_work import ProcessBatches
from curation_features.pipeline import Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel

PYTHON_S = 0.005
"""Seconds of Python code per photo, with Python's lock held: transforms and bookkeeping of a real model."""

TORCH_SIDE = 1100  # two products of such matrices take some 60 ms on one core of 2021


def nothing(settings: Mapping[str, Any]) -> ShardFunction:
    """Return a function that does nothing, in a process that has imported all that real work imports."""

    def run(shard: Shard, progress: Callable[[int], None], *, wait: bool) -> ShardResult:
        return ShardResult(shard.batch_id, "done")

    return run


def fakes(settings: Mapping[str, Any]) -> ShardFunction:
    """`ProcessBatches` with the fakes of `curation_features.testing`, which take no time."""
    return _with_clip(settings, FakeClipEngine())


def real_size(settings: Mapping[str, Any]) -> ShardFunction:
    """Return `fakes` with embeddings of 768 numbers, as ViT-L/14 has."""
    return _with_clip(settings, FakeClipEngine(768))


def busy(settings: Mapping[str, Any]) -> ShardFunction:
    """`ProcessBatches` with a CLIP that holds Python's lock for a while and multiplies matrices, as a real one does."""
    return _with_clip(settings, BusyClip())


class BusyClip(FakeClipEngine):
    """A stand-in CLIP: for each photo some ms of Python code, and a product of matrices by torch."""

    def __init__(self) -> None:
        super().__init__()
        import torch

        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.rand(TORCH_SIDE, TORCH_SIDE, generator=generator)

    def encode_images(self, batch: Any) -> Any:
        """Return unit vectors (N, D)."""
        for _ in batch:
            _hold_lock(PYTHON_S)
            for _ in range(2):
                self._matrix @ self._matrix
        return super().encode_images(batch)


def _hold_lock(seconds: float) -> None:
    """Run Python code for so many seconds of CPU time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def _with_clip(settings: Mapping[str, Any], clip: FakeClipEngine) -> ShardFunction:
    class StandIns(ProcessBatches):
        def models(self, _: object) -> Models:
            models = (clip, FakeQualityModel(), FakeBrisque())
            return Models(*(LazyModel.ready(model, f"stand-in {type(model).__name__}") for model in models))

    return StandIns(settings)


def pixels(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Pixels of a photo (H, W, 3) with noise."""
    return np.random.default_rng(seed).integers(90, 160, (*size, 3), dtype=np.uint8)
