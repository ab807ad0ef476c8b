"""Batches that were made without Dagster become batches of Dagster: a partition, an observation, materializations."""

import logging
from collections.abc import Mapping, Sequence

import dagster as dg

from curation_features.errors import StoreError
from curation_features.events.outbox import LatestEvents
from curation_features.manifest import Batch
from curation_features.orchestration.partitions import DIMENSION
from curation_features.orchestration.provenance import Provenance, data_version
from curation_features.storage.adoptions import Adoption, Adoptions
from curation_features.storage.artifacts import ArtifactStore

log = logging.getLogger(__name__)


def observation(batch: Batch) -> dg.AssetObservation:
    """The observation that a manifest was accepted; its data version is the manifest's digest."""
    return dg.AssetObservation(
        "preprocess_batches",
        partition=batch.batch_id,
        tags={"dagster/data_version": batch.digest},
        metadata={"artifacts": len(batch.artifacts)},
    )


def observe(batch: Batch, instance: dg.DagsterInstance) -> None:
    """Make an accepted manifest known: a partition, and an observation unless this manifest was observed last."""
    instance.add_dynamic_partitions(DIMENSION, [batch.batch_id])
    observed = observation(batch)
    wanted = dg.AssetRecordsFilter(observed.asset_key, asset_partitions=[batch.batch_id])
    latest = instance.fetch_observations(wanted, limit=1).records
    if [data_version(record) for record in latest] != [batch.digest]:
        instance.report_runless_asset_event(observed)


def adopt_all(
    store: ArtifactStore, instance: dg.DagsterInstance, specs: Sequence[dg.AssetSpec], limit: int = 100
) -> list[str]:
    """Adopt the batches that wait for it, at most `limit`; gives their ids. One that fails is logged, and waits."""
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
    """Report to Dagster what was made of a batch without it, if anything was.

    Only the current state is reported: what was made of an older manifest, or superseded by a later run, is not.

    Raises:
        StoreError: the accepted manifest cannot be read, or the note of the adoption cannot be deleted.
    """
    with Adoptions(store.data_path).take(batch_id) as adoption:
        if adoption is None or not store.manifest_path(batch_id).exists():  # it was deleted since
            return
        batch = store.manifest(batch_id)
        observe(batch, instance)
        latest = LatestEvents(store.data_path).get(batch_id)
        if adoption.manifest == batch.digest and latest is not None and adoption.event == latest["id"]:
            _report_materializations(adoption, instance, specs)


def _report_materializations(adoption: Adoption, instance: dg.DagsterInstance, specs: Sequence[dg.AssetSpec]) -> None:
    versions: Mapping[str, str] = {name: asset.code_version for name, asset in adoption.assets.items()}
    provenance = Provenance(instance, specs, versions)
    for name, asset in adoption.assets.items():
        key = dg.AssetKey(name)
        tags = provenance.tags(key, adoption.batch_id, asset.data_version, adoption.manifest)
        metadata = {**asset.metadata, "made_by": "curation-features process"}
        instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=adoption.batch_id, metadata=metadata, tags=tags)
        )
