"""Process a batch from manifest to event without Dagster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curation_features.build import build_assets
from curation_features.events.outbox import Outbox
from curation_features.finish import check_accepted
from curation_features.manifest import Batch
from curation_features.pipeline import EnrichedBatch, FeatureStages
from curation_features.pipeline.code_versions import code_versions
from curation_features.schema import ASSETS
from curation_features.storage.adoptions import AdoptedAsset, Adoption, Adoptions
from curation_features.storage.artifacts import ArtifactStore


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """A finished batch whose event is published.

    Attributes:
        merged: the enriched manifest and its records.
        cached: number of distinct photos from the cache.
        partly_cached: number of photos with some cached parts.
        event: `features.completed`.
    """

    merged: EnrichedBatch
    cached: int
    partly_cached: int
    event: Mapping[str, Any]


def accept_without_dagster(batch: Batch, store: ArtifactStore) -> None:
    """Accept a manifest, and record it for adoption by Dagster.

    Raises:
        ManifestError: the batch id differs only in case from a known one.
        StoreError: the manifest cannot be written.
    """
    store.check_batch_id(batch.batch_id)
    Adoptions(store.data_path).note(Adoption(batch.batch_id, batch.digest))  # before the manifest
    store.put_manifest(batch)


def process_batch(
    batch: Batch, stages: FeatureStages, store: ArtifactStore, outbox: Outbox, *, retry_failed: bool = False
) -> ProcessedBatch:
    """Build, verify and publish the features of an accepted manifest.

    The caller holds the batch's lock (`ArtifactStore.exclusive`).

    Args:
        retry_failed: see `build_assets`.

    Raises:
        SupersededError: another manifest was accepted in the meantime.
        CurationError: see `build_assets` and `FinishedBatch.announce`.
    """
    check_accepted(batch, store)
    bound = stages.for_batch(batch)
    results = {result.asset: result for result in build_assets(batch, ASSETS, bound, store, retry_failed=retry_failed)}
    finished, metrics = results["features"].finished, results["technical_metrics"].stats
    assert finished is not None and metrics is not None  # noqa: S101, PT018 (always set for these assets)
    event = finished.announce(outbox, stages.settings.root)
    # Like in a Dagster run, the versions depend on all vocabularies, not only on the batch's.
    versions = code_versions(stages.settings, stages)
    assets = {
        name: AdoptedAsset(result.data_version, versions[name], result.numbers()) for name, result in results.items()
    }
    Adoptions(store.data_path).note(Adoption(batch.batch_id, batch.digest, event["id"], assets))
    return ProcessedBatch(finished.merged, metrics.cached, metrics.partly_cached, event)
