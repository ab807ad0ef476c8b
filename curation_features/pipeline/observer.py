"""`Observer`: progress of a run."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from curation_features.errors import WeightsError
from curation_features.schema import PhotoRecord

if TYPE_CHECKING:
    from curation_features.pipeline.merge import EnrichedBatch

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Receives the progress of a run, possibly from several threads. By default every method does nothing.

    `return None` makes a method concrete for mypy: subclasses override only what they need.
    """

    def downloading(self, name: str, done: int, total: int | None) -> None:
        """Report the progress of a download in bytes; see `weights.Progress`."""
        return None

    def model_loading(self, name: str) -> AbstractContextManager[object]:
        """Return a context manager that is entered while a model loads (seconds)."""
        return nullcontext()

    def labels_embedding(self) -> AbstractContextManager[object]:
        """Return a context manager that is entered while label embeddings are computed."""
        return nullcontext()

    def photo_done(self, record: PhotoRecord) -> None:
        """Report a measured photo, once per distinct photo."""
        return None

    def photos_rendered(self, count: int) -> None:
        """Report photos added to the contact sheet."""
        return None

    def features_merged(self, merged: EnrichedBatch) -> None:
        """Report the features of a batch, before they are written."""
        return None

    def degraded(self, error: WeightsError) -> None:
        """Report, once, why a model cannot be used; the run continues with defaults."""
        return None


class SilentObserver(Observer):
    """Ignores everything."""


class LogObserver(Observer):
    """Logs missing models; the default."""

    def degraded(self, error: WeightsError) -> None:
        """Log a warning."""
        log.warning("A model cannot be used, so its values will be defaults: %s", error)
