"""A batch from its manifest to its event without Dagster, which learns about it later."""

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
    """A batch that is finished and announced.

    Attributes:
        merged: the enriched manifest, and the records that it was made of.
        cached: how many distinct photos came out of the cache.
        partly_cached: of how many others a part did.
        event: `features.completed`.
    """

    merged: EnrichedBatch
    cached: int
    partly_cached: int
    event: Mapping[str, Any]


def accept_without_dagster(batch: Batch, store: ArtifactStore) -> None:
    """Accept a manifest, and note that Dagster has to learn about it.

    Raises:
        ManifestError: the batch id differs from a known one in case only.
        StoreError: the manifest cannot be written.
    """
    store.check_batch_id(batch.batch_id)
    Adoptions(store.data_path).note(Adoption(batch.batch_id, batch.digest))  # first: an accepted batch is never unknown
    store.put_manifest(batch)


def process_batch(
    batch: Batch, stages: FeatureStages, store: ArtifactStore, outbox: Outbox, *, retry_failed: bool = False
) -> ProcessedBatch:
    """Make, verify and announce the features of an accepted manifest.

    Call it while no other process makes the same batch (`ArtifactStore.exclusive`).

    Args:
        retry_failed: see `build_assets`.

    Raises:
        SupersededError: another manifest was accepted meanwhile.
        CurationError: as in `build_assets` and `FinishedBatch.announce`.
    """
    check_accepted(batch, store)
    bound = stages.for_batch(batch)
    results = {result.asset: result for result in build_assets(batch, ASSETS, bound, store, retry_failed=retry_failed)}
    finished, metrics = results["features"].finished, results["technical_metrics"].stats
    assert finished is not None and metrics is not None  # noqa: S101, PT018 (what these two assets always have)
    event = finished.announce(outbox, stages.settings.root)
    # As a run of Dagster has them: those of all vocabularies, not of the one that this batch asks for.
    versions = code_versions(stages.settings, stages)
    assets = {
        name: AdoptedAsset(result.data_version, versions[name], result.numbers()) for name, result in results.items()
    }
    Adoptions(store.data_path).note(Adoption(batch.batch_id, batch.digest, event["id"], assets))
    return ProcessedBatch(finished.merged, metrics.cached, metrics.partly_cached, event)
