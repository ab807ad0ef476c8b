"""The asset `groups` over all batches, and the sensor that keeps it current."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from curation_features.library import update_groups
from curation_features.orchestration import library
from curation_features.orchestration.project import build_definitions

pytestmark = pytest.mark.long


def tick(pipeline: Any) -> dg.SensorResult:
    """Evaluate the sensor; its events are stored like by the daemon."""
    definitions = pipeline.definitions()
    context = dg.build_sensor_context(
        instance=pipeline.instance,
        instance_ref=pipeline.instance.get_ref(),
        repository_def=definitions.get_repository_def(),
        resources=dict(definitions.resources or {}),
    )
    found = definitions.resolve_sensor_def("photo_groups").evaluate_tick(context)
    for event in found.asset_events:
        pipeline.instance.report_runless_asset_event(event)
    return found


def made(pipeline: Any, asset: str = "groups") -> list[dg.EventLogRecord]:
    return list(pipeline.instance.fetch_materializations(dg.AssetKey(asset), limit=9).records)


def test_a_changed_batch_starts_one_run(pipeline, world) -> None:
    assert tick(pipeline).skip_message
    photo = world.photo("same.png", 7)
    pipeline.process(world.batch([photo, {**photo, "photo_id": "copy"}, world.photo("other.png", 8)], "one"))
    [request] = tick(pipeline).run_requests
    assert [one.run_key for one in tick(pipeline).run_requests] == [request.run_key]  # Dagster launches it once
    job = pipeline.definitions().resolve_job_def("group_photos")
    assert job.execute_in_process(instance=pipeline.instance).success
    [record], [index] = made(pipeline), made(pipeline, "search_index")
    metadata = record.asset_materialization.metadata
    numbers = {name: metadata[name].value for name in ("batches", "photos", "groups_copy", "groups_set", "grouped")}
    assert numbers == {"batches": 1, "photos": 3, "groups_copy": 1, "groups_set": 0, "grouped": 2}
    assert {name: index.asset_materialization.metadata[name].value for name in ("batches", "photos", "added")} == {
        "batches": 1, "photos": 3, "added": 3,
    }  # fmt: skip
    [row] = [dict(row.data) for row in metadata["largest"].records]
    assert (row["kind"], row["photos"], row["best"]) == ("copy", 2, "./photos/same.png")
    assert not tick(pipeline).run_requests
    pipeline.process(world.batch([{**photo, "photo_id": "third"}], "two"))
    assert [one.run_key != request.run_key for one in tick(pipeline).run_requests] == [True]
    update_groups(pipeline.settings)  # by the command
    found = tick(pipeline)
    assert (found.run_requests, len(found.asset_events)) == ([], 1)
    assert [len(made(pipeline)), len(tick(pipeline).asset_events)] == [2, 0]
    assert made(pipeline)[0].asset_materialization.metadata["photos"].value == 4


def test_a_running_update_is_waited_for(pipeline, world) -> None:
    pipeline.process(world.batch([world.photo("a.png", 1)], "one"))
    run = pipeline.instance.create_run_for_job(pipeline.definitions().resolve_job_def("group_photos"))
    found = tick(pipeline)
    assert not found.run_requests
    assert "has not ended" in found.skip_message
    pipeline.instance.report_run_canceled(run)
    assert len(tick(pipeline).run_requests) == 1


def test_a_failed_update_is_tried_again(pipeline, world, monkeypatch: pytest.MonkeyPatch) -> None:
    """With longer and longer pauses."""
    pipeline.process(world.batch([world.photo("a.png", 1)], "one"))
    job = pipeline.definitions().resolve_job_def("group_photos")
    [request] = tick(pipeline).run_requests
    keys = [request.run_key]
    for wait, fail in ((60, pipeline.instance.report_run_canceled), (120, pipeline.instance.report_run_failed)):
        fail(pipeline.instance.create_run_for_job(job, tags=request.tags))
        ended = time.time()
        monkeypatch.setattr(library, "time", SimpleNamespace(time=lambda early=ended + wait - 20: early))
        assert "tried again in" in tick(pipeline).skip_message
        monkeypatch.setattr(library, "time", SimpleNamespace(time=lambda late=ended + wait + 20: late))
        [request] = tick(pipeline).run_requests
        keys.append(request.run_key)
    assert len({*keys}) == 3
    pipeline.process(world.batch([world.photo("b.png", 2)], "two"))  # another state of the batches: no pause
    monkeypatch.undo()
    assert len(tick(pipeline).run_requests) == 1


def test_the_asset_is_like_the_others(settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    node = graph.get(dg.AssetKey("groups"))
    assert (node.is_partitioned, node.parent_keys) == (False, {dg.AssetKey("features")})
    assert (node.kinds, node.owners) == ({"python", "opencv", "parquet"}, ["team:curation"])
    assert node.code_version
    assert "group_similarity" in {column.name for column in node.metadata["dagster/column_schema"].columns}
