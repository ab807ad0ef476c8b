"""The work of every engine: process a batch from manifest to event, unless it is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from curation_features.clip.vocabulary import chosen_vocabulary
from curation_features.concurrency import MOST_WORKERS
from curation_features.engines.executor import Shard, ShardResult, Work
from curation_features.engines.finished import FinishedBatches
from curation_features.errors import ManifestError
from curation_features.events.outbox import Outbox
from curation_features.manifest import read_manifest
from curation_features.pipeline import FeatureStages, Models
from curation_features.pipeline.observer import SilentObserver
from curation_features.processing import accept_without_dagster, process_batch
from curation_features.schema import PhotoRecord
from curation_features.settings import SPECS, Settings, load_settings
from curation_features.storage.artifacts import ArtifactStore


def batch_work(
    settings: Settings,
    *,
    vocabulary: str = "",
    retry_failed: bool = False,
    function: str = f"{__name__}:ProcessBatches",
) -> Work:
    """Describe the processing of batches with these settings.

    Args:
        vocabulary: name or file of the vocabulary of every batch; empty: as the batch says.
        retry_failed: see `build_assets`.
        function: of the work; see `Work`.
    """
    plain = {spec.name: getattr(settings, spec.name) for spec in SPECS.values() if not spec.metadata["secret"]}
    given = {"root": str(settings.root), "vocabulary": vocabulary, "retry_failed": retry_failed, "settings": plain}
    return Work(function, given)


class ProcessBatches:
    """Processes batches like `curation-features process`, with models that are loaded once: a `ShardFunction`.

    Args:
        given: settings of `batch_work`. Secrets are those of this machine (its settings file and environment).

    Raises:
        SettingsError: settings, labels or templates are unusable.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        settings = _settings_from(given)
        vocabulary = chosen_vocabulary(settings, given["vocabulary"]) if given["vocabulary"] else None
        self._retry_failed = given["retry_failed"]
        self._observer = _PhotoCounter()
        models = self.models(settings)
        self._stages = FeatureStages(settings, vocabulary=vocabulary, models=models, observer=self._observer)
        self._store = ArtifactStore(settings.data_path)
        self._outbox = Outbox.from_settings(settings)
        self._finished = FinishedBatches(settings.data_path, self._outbox)

    def models(self, settings: Settings) -> Models:
        """Create the models; stand-ins override it."""
        return Models.from_settings(settings)

    def __call__(self, shard: Shard, progress: Callable[[int], None], *, wait: bool) -> ShardResult:
        """Process a shard, unless it is finished; see `ShardFunction`."""
        start = time.monotonic()
        batch = read_manifest(shard.manifest)
        if batch.batch_id != shard.batch_id:
            raise ManifestError("batch_id", f"{shard.manifest}: was {shard.batch_id!r}, and is {batch.batch_id!r} now")
        photos = len(batch.artifacts)
        stages = self._stages.for_batch(batch)
        statuses = self._finished.statuses(batch, stages, retry_failed=self._retry_failed)
        if statuses is None:
            with self._store.exclusive(batch.batch_id, wait=wait):
                # Again, because another process may have finished it in the meantime.
                statuses = self._finished.statuses(batch, stages, retry_failed=self._retry_failed)
                if statuses is None:
                    self._observer.progress = progress
                    accept_without_dagster(batch, self._store)
                    made = process_batch(
                        batch, self._stages, self._store, self._outbox, retry_failed=self._retry_failed
                    )
                    counts = made.merged.statuses()
                    return ShardResult(batch.batch_id, "done", "", time.monotonic() - start, photos, counts)
        return ShardResult(batch.batch_id, "already_done", "", time.monotonic() - start, photos, statuses)


class _PhotoCounter(SilentObserver):
    """Counts the photos of the current shard. (The driver reports missing models, once.)"""

    def __init__(self) -> None:
        self.progress: Callable[[int], None] = lambda photos: None

    def photo_done(self, record: PhotoRecord) -> None:
        """Count a photo."""
        self.progress(1)


def _settings_from(given: Mapping[str, Any]) -> Settings:
    """Return the settings of `batch_work`, with the secrets of this machine."""
    own = load_settings(given["root"])
    secrets = {spec.name: getattr(own, spec.name) for spec in SPECS.values() if spec.metadata["secret"]}
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given["settings"].items()
    }
    threads = os.environ.get("OMP_NUM_THREADS", "")  # engines and schedulers of clusters set it per process
    if not plain.get("workers") and threads.isdecimal() and int(threads):
        plain["workers"] = min(int(threads), MOST_WORKERS)
    return own.replace(**plain, **secrets)
