"""Weights on this machine, and a model that is loaded from them once."""

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


def identity_of(source: str, sha256: str) -> str:
    """Return the identity of weights."""
    return f"{source}@{sha256[:16]}"


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights on this machine.

    Attributes:
        source: their name in the settings (`hf-hub:...`, `local-dir:...` or a file), or a URL.
        path: the weights file.
        sha256: digest of everything that decides the model's numbers: the file, and its configuration if it has one.
        replaces: identity of other weights with the same numbers, if results of them may be cached.
    """

    source: str
    path: Path
    sha256: str
    replaces: str = field(default="", kw_only=True)

    @property
    def identity(self) -> str:
        """Source and digest, of the weights that these replace if any; part of the version of every result."""
        return self.replaces or identity_of(self.source, self.sha256)


@dataclass(frozen=True, slots=True)
class ClipWeights(Weights):
    """A CLIP checkpoint with its configuration and tokenizer.

    Attributes:
        config: `{"model_cfg": ..., "preprocess_cfg": ...}`, as in `open_clip_config.json`.
        tokenizer: folder of a tokenizer for `transformers`; None: open_clip's own, which needs no files.
        text_cosines: recorded cosines of pairs of prompts, to recognise the published model.
    """

    config: Mapping[str, Any] = field(repr=False)
    tokenizer: Path | None = None
    text_cosines: tuple[tuple[str, str, float], ...] = field(default=(), repr=False)


class LazyModel(Generic[T]):
    """A model that is loaded once, on first use, for all threads.

    Reading `identity` locates the weights without loading the model. A failure is remembered for a minute: a batch
    without weights does not retry for every photo, and a running service finds weights that arrive later.

    Args:
        locate: finds or fetches the weights; raises `WeightsError`. Must not import torch.
        load: builds the model from the weights.
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
        """Wrap an existing model: a fake in a test, or a user-supplied engine."""
        return cls(lambda: Weights(identity, Path(), ""), lambda _: model)

    @property
    def identity(self) -> str:
        """Source and digest of the weights, without loading them. Raises `WeightsError` if they are missing."""
        return self._find_weights().identity

    @property
    def weights(self) -> Weights:
        """The weights, without loading them. Raises `WeightsError` if they are missing."""
        return self._find_weights()

    def get(self) -> T:
        """Return the model, loaded on the first call. Raises `WeightsError` if it cannot be loaded."""
        with self._lock:
            if self._model is None:
                weights = self._find_weights()
                with self._loading():
                    self._model = self._attempt(lambda: self._load(weights))
            return self._model

    def _find_weights(self) -> Weights:
        with self._lock:
            if self._weights is None:
                self._weights = self._attempt(self._locate)
            return self._weights

    def _attempt(self, step: Callable[[], S]) -> S:
        if self._failure is not None and time.monotonic() - self._failed_at < RETRY_AFTER_S:
            raise self._failure.with_traceback(None)  # each raise would make its traceback longer
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
