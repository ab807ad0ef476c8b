"""Provenance of a materialization: the tags from which Dagster computes staleness.

Dagster writes them for an output that an asset returns, but gives all partitions of a run one data version (dagster
issue 34013). The assets here report each partition separately, so they write the same tags.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

_DATA_VERSION = "dagster/data_version"
_NO_EVENT = "NULL"
_OBSERVATIONS_SEARCHED = 100
_FETCHED_AT_ONCE = 10


@dataclass(frozen=True)
class Provenance:
    """Builds the tags of the materializations of one run.

    Attributes:
        specs: specs of the assets, with their dependencies.
        code_versions: by asset, from the settings of this run, which its configuration may override.
    """

    instance: dg.DagsterInstance
    specs: Sequence[dg.AssetSpec]
    code_versions: Mapping[str, str]

    def tags(self, asset: dg.AssetKey, partition: str, data_version: str, manifest: str) -> dict[str, str]:
        """The tags of a materialization.

        Args:
            data_version: digest of the result.
            manifest: digest of the manifest.
        """
        [spec] = (spec for spec in self.specs if spec.key == asset)
        tags = {
            _DATA_VERSION: data_version,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": self.code_versions[asset.to_user_string()],
        }
        for parent in (dep.asset_key for dep in spec.deps):
            pointer, version = self._find_parent(parent, partition, manifest)
            tags[f"dagster/input_event_pointer/{parent.to_user_string()}"] = pointer
            tags[f"dagster/input_data_version/{parent.to_user_string()}"] = version
        return tags

    def _find_parent(self, asset: dg.AssetKey, partition: str, manifest: str) -> tuple[str, str]:
        """Storage id of the parent's event, and its data version."""
        records_filter = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
        if any(spec.key == asset for spec in self.specs):
            made = self.instance.fetch_materializations(records_filter, limit=1).records
            return (str(made[0].storage_id), data_version(made[0]) or "") if made else (_NO_EVENT, "")
        # A newer manifest may have been observed during the run.
        observed = self.instance.fetch_observations(records_filter, limit=_OBSERVATIONS_SEARCHED).records
        ids = (str(record.storage_id) for record in observed if data_version(record) == manifest)
        return next(ids, _NO_EVENT), manifest


def data_version(record: dg.EventLogRecord) -> str | None:
    """The data version of a materialization or an observation."""
    event = record.asset_materialization or record.event_log_entry.asset_observation
    return (event.tags or {}).get(_DATA_VERSION) if event else None


def latest_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> Mapping[str, dg.MetadataValue]:
    """Metadata of the latest materialization of a partition; empty if there is none."""
    records_filter = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
    made = instance.fetch_materializations(records_filter, limit=1).records
    return _metadata_of(made[0]) if made else {}


def recent_metadata(
    instance: dg.DagsterInstance, asset: dg.AssetKey, limit: int
) -> Iterator[tuple[str, Mapping[str, dg.MetadataValue]]]:
    """Yield partition and metadata of the last `limit` materializations, newest first, each partition once.

    They are fetched as they are needed: one takes Dagster some milliseconds.
    """
    seen: set[str] = set()
    cursor = None
    for fetched in range(0, limit, _FETCHED_AT_ONCE):
        page = instance.fetch_materializations(asset, limit=min(_FETCHED_AT_ONCE, limit - fetched), cursor=cursor)
        for record in page.records:
            if record.partition_key is not None and record.partition_key not in seen:
                seen.add(record.partition_key)
                yield record.partition_key, _metadata_of(record)
        if not page.has_more:
            return
        cursor = page.cursor


def _metadata_of(record: dg.EventLogRecord) -> Mapping[str, dg.MetadataValue]:
    return record.asset_materialization.metadata if record.asset_materialization else {}
