"""What a materialization was made of, as the tags by which Dagster tells stale partitions from fresh ones.

For an output that an asset returns Dagster writes them itself, but then all partitions of a run get one data version
(dagster issue 34013). Assets here report each partition by itself, so they write the same tags themselves.
"""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

_DATA_VERSION = "dagster/data_version"
_NO_EVENT = "NULL"
_OBSERVATIONS_SEARCHED = 100


class Provenance:
    """Writes the tags of the materialisations of one run.

    Args:
        specs: of the assets, with their dependencies.
        code_versions: those of the settings that this run really has, which its configuration may have changed.
    """

    def __init__(
        self, instance: dg.DagsterInstance, specs: Iterable[dg.AssetSpec], code_versions: Mapping[str, str]
    ) -> None:
        self._instance = instance
        self._specs = {spec.key: spec for spec in specs}
        self._code_versions = code_versions

    def tags(self, asset: dg.AssetKey, partition: str, data_version: str, manifest: str) -> dict[str, str]:
        """The tags of a materialisation.

        Args:
            data_version: digest of what was made.
            manifest: digest of the manifest that it was made from.
        """
        spec = self._specs[asset]
        tags = {
            _DATA_VERSION: data_version,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": self._code_versions[asset.to_user_string()],
        }
        for dep in spec.deps:
            pointer, version = self._parent(dep.asset_key, partition, manifest)
            tags[f"dagster/input_event_pointer/{dep.asset_key.to_user_string()}"] = pointer
            tags[f"dagster/input_data_version/{dep.asset_key.to_user_string()}"] = version
        return tags

    def _parent(self, asset: dg.AssetKey, partition: str, manifest: str) -> tuple[str, str]:
        """The event of a parent that was used, and its data version."""
        wanted = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
        if asset in self._specs:
            records = self._instance.fetch_materializations(wanted, limit=1).records
        else:  # a newer manifest may have come in while this one was at work
            observed = self._instance.fetch_observations(wanted, limit=_OBSERVATIONS_SEARCHED).records
            records = [record for record in observed if data_version(record) == manifest]
        if not records:
            return _NO_EVENT, manifest if asset not in self._specs else ""
        return str(records[0].storage_id), data_version(records[0]) or ""


def data_version(record: dg.EventLogRecord) -> str | None:
    """The data version of a materialisation or an observation."""
    event = record.asset_materialization or record.event_log_entry.asset_observation
    return (event.tags or {}).get(_DATA_VERSION) if event else None


def latest_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> Mapping[str, dg.MetadataValue]:
    """Metadata of the latest materialisation of a partition; empty where there is none."""
    wanted = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
    return _metadata(instance.fetch_materializations(wanted, limit=1).records)


def recent_metadata(
    instance: dg.DagsterInstance, asset: dg.AssetKey, limit: int
) -> dict[str, Mapping[str, dg.MetadataValue]]:
    """Metadata of an asset's latest materialisations, by partition: the newest of each among the last `limit`."""
    found: dict[str, Mapping[str, dg.MetadataValue]] = {}
    for record in instance.fetch_materializations(asset, limit=limit).records:
        if record.partition_key is not None:
            found.setdefault(record.partition_key, _metadata([record]))
    return found


def _metadata(records: Sequence[dg.EventLogRecord]) -> Mapping[str, dg.MetadataValue]:
    event = records[0].asset_materialization if records else None
    return event.metadata if event else {}
