from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curation_features.errors import InvalidWeightsError, WeightsError
from curation_features.weights import LazyModel, Weights, weights


def find() -> Weights:
    return Weights("source", Path("file"), "0123456789abcdef0123")


def test_a_model_is_located_and_loaded_once_for_all_threads():
    calls: list[str] = []
    barrier = threading.Barrier(8)

    def locate() -> Weights:
        calls.append("locate")
        return find()

    def load(weights: Weights) -> object:
        calls.append("load")
        time.sleep(0.05)
        return object()

    model = LazyModel(locate, load)
    models: list[object] = []

    def use() -> None:
        barrier.wait()
        models.append(model.get())

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(use)
    assert calls == ["locate", "load"]
    assert len(models) == 8
    assert len(set(map(id, models))) == 1


def test_the_identity_does_not_load_the_model():
    def refuse(weights: Weights) -> object:
        raise AssertionError("loaded")

    assert LazyModel(find, refuse).identity == "source@0123456789abcdef"


def test_a_failure_is_remembered_for_a_while(monkeypatch):
    attempts: list[str] = []

    def load(_: Weights) -> str:
        attempts.append("load")
        if len(attempts) == 1:
            raise InvalidWeightsError("damaged")
        return "model"

    model = LazyModel(find, load)
    for _ in range(3):
        with pytest.raises(InvalidWeightsError, match="damaged"):
            model.get()
    assert attempts == ["load"]
    monkeypatch.setattr(weights, "RETRY_AFTER_S", 0.0)
    assert model.get() == "model"


def test_a_failed_load_names_its_error_and_the_remedy():
    def load(_: Weights) -> str:
        raise MemoryError("32 GiB")

    with pytest.raises(WeightsError, match=r"\(MemoryError: 32 GiB\); free memory") as caught:
        LazyModel(find, load).get()
    assert caught.value.reason == "load_failed"
