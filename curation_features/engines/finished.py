"""Recognises batches that need no run: everything that `process` would write now is on disk and announced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curation_features.atomic_files import file_digest
from curation_features.events.outbox import Outbox
from curation_features.manifest import Batch
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.plan import ALL_PARTS, feature_versions
from curation_features.schema import STATUSES
from curation_features.storage import places
from curation_features.storage.adoptions import Adoptions
from curation_features.storage.artifacts import ArtifactStore


class FinishedBatches:
    """Compares the finished batches of one data folder with the batches of a run."""

    def __init__(self, data_path: Path, outbox: Outbox) -> None:
        self._data_path = data_path
        self._outbox = outbox
        self._store = ArtifactStore(data_path)
        self._adoptions = Adoptions(data_path)

    def statuses(self, batch: Batch, stages: FeatureStages, *, retry_failed: bool) -> Mapping[str, int] | None:
        """Return the number of artifacts by status of a finished batch; None if a run would change anything.

        A batch is finished if its manifest is the accepted one, its newest event is of this manifest and these
        features, in the journal, with the versions of a run that starts now, and all its files exist. Features that are
        older than their event are not read.

        Args:
            stages: bound to the batch's vocabulary.
            retry_failed: photos with a transient error count as unfinished.

        Raises:
            WeightsError: model weights are missing, and settings do not allow degraded runs.
        """
        batch_id = batch.batch_id
        event = self._outbox.latest.get(batch_id)
        if event is None or not self._outbox.journal.holds(event):
            return None
        data = event["data"]
        plan = stages.plan(ALL_PARTS)
        if data.get("manifest") != batch.digest or data.get("version") != feature_versions(plan, stages.settings):
            return None
        if retry_failed and data.get("retryable"):
            return None
        if self._store.accepted_digest(batch_id) != batch.digest or not self._adoptions.is_noted(batch_id, event["id"]):
            return None
        if not self._has_files(batch_id, stages, data.get("features")):
            return None
        counts = data.get("statuses")
        return counts if isinstance(counts, dict) and counts.keys() == set(STATUSES) else None

    def _has_files(self, batch_id: str, stages: FeatureStages, features: object) -> bool:
        """Return whether all files exist, and the features have this digest or are older than the event."""
        needed = [places.FEATURES, places.TABLE, places.EMBEDDINGS, *places.STAGES]
        needed += [places.PAGE] if stages.settings.contact_sheet else []
        try:
            found = {
                place: places.Found(status.st_size, status.st_mtime_ns)
                for place in (*needed, places.LATEST_EVENT)
                for status in [place.path(self._data_path, batch_id).stat()]
            }
        except OSError:
            return False
        # A run that changes nothing writes the features again, but not the event.
        return places.is_announced(found) or file_digest(places.FEATURES.path(self._data_path, batch_id)) == features
