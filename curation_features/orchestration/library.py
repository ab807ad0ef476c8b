"""The groups of the photos of all batches: an asset without partitions, its job, and its sensor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import dagster as dg

from curation_features.groups.photos import Kind
from curation_features.library import LibraryGroups, ListedGroup, is_due, list_groups, update_groups
from curation_features.orchestration import search_index
from curation_features.orchestration.assets import OWNERS, Stages, Store
from curation_features.orchestration.metadata import column_schema
from curation_features.orchestration.provenance import data_version
from curation_features.orchestration.resources import SettingsResource
from curation_features.report.text import one_line
from curation_features.storage.groups import LIBRARY_COLUMNS, groups_metadata, groups_path
from curation_features.storage.tables import Column

ASSET = "groups"
_ACTIVE = [dg.DagsterRunStatus(name) for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
_UNFINISHED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_BATCHES = "curation_features/batches"
"""Tag of a run: digest of the batches that it was launched for."""

_SHORTEST_WAIT, _LONGEST_WAIT = 60.0, 3600.0
"""Seconds from the end of a failed run to the next try: doubled by each failure."""

_ROWS_SHOWN = 10
_NAME_LENGTH = 60  # characters
_LARGEST = {
    "kind": Column("string", "copy, burst or set"),
    "photos": Column("int", "number of photos"),
    "similarity": Column("string", "least similarity of two of them"),
    "best": Column("string", "path of the best photo"),
    "why": Column("string", "why it is the best"),
}


@dg.asset(
    name=ASSET,
    deps=["features"],
    group_name="library",
    owners=OWNERS,
    kinds={"python", "opencv", "parquet"},
    tags={"stage": ASSET},
    metadata={"dagster/column_schema": column_schema(LIBRARY_COLUMNS)},
    description="""Copies, bursts and sets among the photos of all batches, and the best of each; nothing is deleted.

Made incrementally: a photo that is added, changed or deleted touches its group only.
`curation-features groups` makes the same. The sensor `photo_groups` launches it after a batch has changed.""",
)
def photo_groups_asset(stages: Stages, store: Store) -> dg.MaterializeResult[None]:
    """Group the photos of all finished batches, as far as they have changed."""
    made = update_groups(stages.settings, data_path=store.data_path)
    return dg.MaterializeResult(metadata=_metadata(made, store.data_path), data_version=dg.DataVersion(made.made))


group_photos = dg.define_asset_job(
    "group_photos",
    selection=dg.AssetSelection.assets(ASSET, search_index.ASSET),
    description="""Groups the photos of all batches, and brings the index for searches up to date.

The sensor `photo_groups` launches it after a batch has changed.""",
)


@dg.sensor(
    name="photo_groups",
    job=group_photos,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="""Launches the job `group_photos` after a batch was finished, made again or deleted: one run at a time.

A failed run is tried again after a minute, then two, four, ... up to an hour. Groups that `curation-features groups`
made are reported to Dagster.""",
)
def photo_groups(
    context: dg.SensorEvaluationContext, settings: SettingsResource, store: Store
) -> dg.SensorResult | dg.SkipReason:
    """Launch a run if batches have changed; report groups that were made without Dagster."""
    due = is_due(settings.settings(), store.data_path)
    if not due:
        events = _made_elsewhere(context.instance, store.data_path)
        return dg.SensorResult(skip_reason="no batch has changed since the last time", asset_events=events)
    if context.instance.get_runs(dg.RunsFilter(job_name=group_photos.name, statuses=_ACTIVE), limit=1):
        return dg.SkipReason("batches have changed; a run for an earlier change has not ended yet")
    failed = context.instance.get_run_records(dg.RunsFilter(tags={_BATCHES: due}, statuses=_UNFINISHED))
    wait = _seconds_to_wait(failed, time.time())
    if wait > 0:
        return dg.SkipReason(f"the last run, {failed[0].dagster_run.run_id}, failed; tried again in {wait:.0f} s")
    # A key launches one run: each try has its own.
    key = f"{due}:{len(failed)}" if failed else due
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key, tags={_BATCHES: due})])


def _seconds_to_wait(failed: Sequence[dg.RunRecord], now: float) -> float:
    """Return the seconds until the next try after failed runs, the newest first; not above 0: now."""
    if not failed:
        return 0.0
    ended = failed[0].end_time or failed[0].update_timestamp.timestamp()
    return ended + min(_SHORTEST_WAIT * 2.0 ** min(len(failed) - 1, 10), _LONGEST_WAIT) - now


def _made_elsewhere(instance: dg.DagsterInstance, data_path: Path) -> list[dg.AssetMaterialization]:
    """The materialization of groups that Dagster does not know yet; none if it knows them, or there are none."""
    metadata = groups_metadata(data_path)
    if not metadata:
        return []
    known = instance.fetch_materializations(dg.AssetKey(ASSET), limit=1).records
    if known and data_version(known[0]) == metadata["made"]:
        return []
    shown: dict[str, Any] = {**_numbers(metadata), "path": _path(data_path), "made_by": "curation-features groups"}
    tags = {"dagster/data_version": metadata["made"]}
    return [dg.AssetMaterialization(ASSET, metadata=shown, tags=tags)]


def _metadata(made: LibraryGroups, data_path: Path) -> dict[str, Any]:
    found = list_groups(data_path)
    numbers = {"batches": made.batches, "photos": made.photos, "groups": made.groups}
    return {
        **_numbers(numbers),
        "grouped": made.grouped,
        "compared": made.compared,
        **({"largest": _table(found)} if found else {}),
        "path": _path(data_path),
        "dagster/uri": made.path.absolute().as_uri(),
        "dagster/partition_row_count": sum(len(photo.batches) for group in found for photo in group.photos),
    }


def _numbers(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of batches, photos and groups by kind; also zeros, so that a plot has no gaps."""
    kinds = {f"groups_{kind}": metadata["groups"].get(kind, 0) for kind in get_args(Kind)}
    return {"batches": metadata["batches"], "photos": metadata["photos"], **kinds}


def _path(data_path: Path) -> dg.MetadataValue[str | None]:
    return dg.MetadataValue.path(str(groups_path(data_path)))


def _table(found: list[ListedGroup]) -> dg.TableMetadataValue:
    largest = sorted(found, key=lambda group: -group.size)[:_ROWS_SHOWN]
    rows: list[dict[str, str | int]] = [
        {
            "kind": f"{group.kind}: {group.what}" if group.what else group.kind,
            "photos": group.size,
            "similarity": f"{group.similarity:.2f}",
            "best": one_line(group.photos[0].path[-_NAME_LENGTH:], _NAME_LENGTH),
            "why": "all are kept" if group.kind == "set" else one_line(group.photos[0].reason),
        }
        for group in largest
    ]
    return dg.MetadataValue.table([dg.TableRecord({**row}) for row in rows], column_schema(_LARGEST))
