"""Report batches that were processed without Dagster: a partition, an observation, materializations."""

import logging
from collections.abc import Sequence

import dagster as dg

from curation_features.errors import StoreError
from curation_features.events.outbox import LatestEvents
from curation_features.manifest import Batch
from curation_features.orchestration.partitions import DIMENSION
from curation_features.orchestration.provenance import Provenance, data_version
from curation_features.storage.adoptions import Adoptions
from curation_features.storage.artifacts import ArtifactStore

log = logging.getLogger(__name__)


def observation(batch: Batch) -> dg.AssetObservation:
    """The observation of an accepted manifest; its data version is the manifest's digest."""
    return dg.AssetObservation(
        "preprocess_batches",
        partition=batch.batch_id,
        tags={"dagster/data_version": batch.digest},
        metadata={"artifacts": len(batch.artifacts)},
    )


def observe(batch: Batch, instance: dg.DagsterInstance) -> None:
    """Add the partition of an accepted manifest; observe it unless it is the latest one observed."""
    instance.add_dynamic_partitions(DIMENSION, [batch.batch_id])
    observed = observation(batch)
    records = dg.AssetRecordsFilter(observed.asset_key, asset_partitions=[batch.batch_id])
    latest = instance.fetch_observations(records, limit=1).records
    if [data_version(record) for record in latest] != [batch.digest]:
        instance.report_runless_asset_event(observed)


def adopt_pending(
    store: ArtifactStore, instance: dg.DagsterInstance, specs: Sequence[dg.AssetSpec], limit: int = 100
) -> list[str]:
    """Adopt at most `limit` pending batches and return their ids; a failure is logged and retried later."""
    adopted = []
    for batch_id in Adoptions(store.data_path).waiting()[:limit]:
        try:
            adopt(batch_id, store, instance, specs)
        except StoreError as error:
            log.warning("Batch %s is not yet known to Dagster: %s", batch_id, error)
        else:
            adopted.append(batch_id)
    return adopted


def adopt(batch_id: str, store: ArtifactStore, instance: dg.DagsterInstance, specs: Sequence[dg.AssetSpec]) -> None:
    """Report a pending adoption of a batch to Dagster.

    Only the current state is reported, not results of an older manifest or those that a later run superseded.

    Raises:
        StoreError: the accepted manifest cannot be read, or the adoption file cannot be deleted.
    """
    with Adoptions(store.data_path).take(batch_id) as adoption:
        if adoption is None or not store.manifest_path(batch_id).exists():  # the batch was deleted
            return
        batch = store.manifest(batch_id)
        observe(batch, instance)
        latest = LatestEvents(store.data_path).get(batch_id)
        if adoption.manifest != batch.digest or latest is None or adoption.event != latest["id"]:
            return
        versions = {name: asset.code_version for name, asset in adoption.assets.items()}
        provenance = Provenance(instance, specs, versions)
        for name, asset in adoption.assets.items():
            tags = provenance.tags(dg.AssetKey(name), batch_id, asset.data_version, batch.digest)
            metadata = {**asset.metadata, "made_by": "curation-features process"}
            instance.report_runless_asset_event(
                dg.AssetMaterialization(name, partition=batch_id, metadata=metadata, tags=tags)
            )
