"""Weights on this machine, and a model made out of them once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from curation_features.errors import CurationError, WeightsError

S = TypeVar("S")
T = TypeVar("T")

Loading: TypeAlias = Callable[[], AbstractContextManager[object]]

RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights on this machine.

    Attributes:
        source: what was asked for, as in the settings (`hf-hub:...`, `local-dir:...`, a URL or a file).
        path: the weights file.
        sha256: digest of everything that decides the model's numbers (the file, and its configuration if it has one).
    """

    source: str
    path: Path
    sha256: str

    @property
    def identity(self) -> str:
        """Names these very weights; part of the version of every result that they make."""
        return f"{self.source}@{self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class ClipWeights(Weights):
    """A CLIP checkpoint with what else a CLIP model is made of.

    Attributes:
        config: `{"model_cfg": ..., "preprocess_cfg": ...}`, as in `open_clip_config.json`.
        tokenizer: folder of a tokenizer for `transformers`; None: open_clip's own, which needs no files.
        text_cosines: cosines of pairs of prompts that the published model is known to give.
    """

    config: Mapping[str, Any] = field(repr=False)
    tokenizer: Path | None = None
    text_cosines: tuple[tuple[str, str, float], ...] = field(default=(), repr=False)


class LazyModel(Generic[T]):
    """A model that is located when its identity is asked for, and loaded on first use, once for all threads.

    A failure is remembered for a minute, so that a batch without weights does not try again for every photo, and a
    service that runs on finds them once they are there.

    Args:
        locate: finds or fetches the weights; raises `WeightsError`. Must not import torch.
        load: makes the model out of what `locate` found.
        loading: context manager entered while the model loads (seconds); used to show progress.
    """

    def __init__(self, locate: Callable[[], Weights], load: Callable[..., T], loading: Loading = nullcontext) -> None:
        self._locate = locate
        self._load = load
        self._loading = loading
        self._lock = threading.RLock()
        self._weights: Weights | None = None
        self._model: T | None = None
        self._failure: WeightsError | None = None
        self._failed_at = 0.0

    @classmethod
    def ready(cls, model: T, identity: str) -> LazyModel[T]:
        """Wrap a model that exists already (a fake in a test, or an engine of one's own)."""
        return cls(lambda: Weights(identity, Path(), ""), lambda _: model)

    @property
    def identity(self) -> str:
        """Name and digest of the weights, without loading them. Raises `WeightsError` where there are none."""
        return self._located().identity

    def get(self) -> T:
        """The model, loaded on the first call. Raises `WeightsError` where it cannot be."""
        with self._lock:
            if self._model is None:
                weights = self._located()
                with self._loading():
                    self._model = self._tried(lambda: self._load(weights))
            return self._model

    def _located(self) -> Weights:
        with self._lock:
            if self._weights is None:
                self._weights = self._tried(self._locate)
            return self._weights

    def _tried(self, step: Callable[[], S]) -> S:
        if self._failure is not None and time.monotonic() - self._failed_at < RETRY_AFTER_S:
            raise self._failure.with_traceback(None)  # else each raise would make its traceback longer
        try:
            return step()
        except WeightsError as error:
            self._failure, self._failed_at = error, time.monotonic()
            raise
        except CurationError:
            raise
        except Exception as error:
            summary = f"a model cannot be loaded ({type(error).__name__}: {error})"
            self._failure = WeightsError("load_failed", summary, "free memory, or see the error it comes from")
            self._failed_at = time.monotonic()
            raise self._failure from error
