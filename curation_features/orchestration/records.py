"""Partitions and active runs of batches in the project's Dagster instance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import dagster as dg

from curation_features.manifest import Batch
from curation_features.orchestration.launch import accept, project_instance
from curation_features.orchestration.partitions import DIMENSION
from curation_features.orchestration.resources import dagster_home
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore

_ACTIVE = [dg.DagsterRunStatus(name) for name in ("QUEUED", "STARTING", "STARTED", "CANCELING")]


class BatchRecords:
    """Partitions and active runs in one Dagster instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def holds(self, batch_id: str) -> bool:
        """Whether the batch has a partition."""
        return self._instance.has_dynamic_partition(DIMENSION, batch_id)

    def run_of(self, batch_id: str) -> str | None:
        """Id of a queued or started run of a batch; None if there is none."""
        return self._runs.get(batch_id)

    def forget(self, batch_id: str) -> None:
        """Delete the partition of a batch, if it has one; its run history stays."""
        self._instance.delete_dynamic_partition(DIMENSION, batch_id)

    def accept(self, batch: Batch, store: ArtifactStore) -> None:
        """Accept a new manifest of a batch, and report it to Dagster."""
        accept(batch, store, self._instance)

    @cached_property
    def _runs(self) -> dict[str, str]:
        """Ids of active runs, by batch."""
        keys: Sequence[str] = self._instance.get_dynamic_partitions(DIMENSION)
        runs: dict[str, str] = {}
        for run in self._instance.get_runs(dg.RunsFilter(statuses=_ACTIVE)):
            names = [run.tags.get("dagster/partition", "")]
            first, last = (run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
            if first in keys and last in keys:
                names += keys[keys.index(first) : keys.index(last) + 1]
            runs.update(dict.fromkeys(names, run.run_id))
        return runs


@contextmanager
def open_batch_records(settings: Settings) -> Iterator[BatchRecords | None]:
    """Open the records of the project's instance; None if it has no instance yet.

    Raises:
        StoreError: the records cannot be read or written, now or later in the block.
    """
    if not (dagster_home(settings) / "dagster.yaml").exists():
        yield None
        return
    with project_instance(settings) as instance:
        yield BatchRecords(instance)
