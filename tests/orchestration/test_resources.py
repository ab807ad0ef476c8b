"""Resources can be replaced, or configured for one run."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from curation_features.events.outbox import EventSink
from curation_features.orchestration.project import build_definitions
from curation_features.orchestration.resources import ArtifactsResource, EventSinkResource

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]


def run(pipeline, config: dict | None = None, **resources) -> dg.ExecuteInProcessResult:
    """Run the batch with the project's resources, except for the models."""
    given = {"stages": pipeline.world.stages(pipeline.settings), **resources}
    definitions = build_definitions(pipeline.settings, resources=given)
    run_config = {"resources": {name: {"config": fields} for name, fields in (config or {}).items()}}
    return definitions.resolve_job_def("extract_features").execute_in_process(
        instance=pipeline.instance, partition_key="batch_1", run_config=run_config, raise_on_error=False
    )


@pytest.mark.parametrize("way", ["resource", "run"])
def test_artifacts_and_events_can_be_stored_elsewhere(pipeline, world, way) -> None:
    elsewhere = world.root / "elsewhere"
    (pipeline.settings.data_path / "manifests").rename(world.root / "manifests")
    elsewhere.mkdir()
    (world.root / "manifests").rename(elsewhere / "manifests")
    fields = {"folder": "elsewhere"}
    if way == "run":
        assert run(pipeline, {"artifacts": fields}).success
    else:
        assert run(pipeline, artifacts=ArtifactsResource(**fields)).success
    assert (elsewhere / "features" / "batch_1.json").exists()
    assert len(list((elsewhere / "events" / "features.completed").iterdir())) == 1
    assert not (pipeline.settings.data_path / "features").exists()


@pytest.mark.parametrize("way", ["resource", "settings"])
def test_a_webhook_can_be_named(pipeline, receiver, monkeypatch, way) -> None:
    fields = {"webhook": receiver.url, "token": "secret-token"}
    if way == "resource":
        assert run(pipeline, sink=EventSinkResource(**fields)).success
    else:
        monkeypatch.setenv("CURATION_FEATURES_EVENT_WEBHOOK", receiver.url)
        monkeypatch.setenv("CURATION_FEATURES_EVENT_WEBHOOK_TOKEN", "secret-token")
        assert run(pipeline).success
    [post] = receiver.posts
    assert f"{post.id}.json" in pipeline.events()
    assert post.headers["Authorization"] == "Bearer secret-token"


def test_a_custom_sink_replaces_the_webhook(pipeline) -> None:
    taken = []

    class Queue:
        def deliver(self, event) -> None:
            taken.append(json.loads(json.dumps(event)))

    class QueueResource(EventSinkResource):
        def sink(self, settings) -> EventSink:
            return Queue()

    assert run(pipeline, sink=QueueResource()).success
    assert [f"{event['id']}.json" for event in taken] == pipeline.events()


def test_every_field_of_a_resource_is_described(pipeline) -> None:
    resources = pipeline.definitions().resources
    configurable = {
        name: resource.resource_cls for name, resource in resources.items() if hasattr(resource, "resource_cls")
    }
    assert set(configurable) == {"settings", "device", "models", "cache", "artifacts"}
    for name, resource_class in {**configurable, "sink": EventSinkResource}.items():
        for field, info in resource_class.model_fields.items():
            assert info.description, f"{name}.{field}"


def test_a_webhook_in_a_runs_configuration_is_not_used(pipeline, receiver) -> None:
    assert run(pipeline, {"sink": {"webhook": receiver.url, "token": "secret-token"}}).success
    assert receiver.posts == []


def test_every_asset_is_described(pipeline) -> None:
    graph = pipeline.definitions().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        asset = graph.get(key)
        assert asset.kinds, key
        assert asset.group_name == ("library" if key.path[0] in ("groups", "search_index") else "photo_features")
        assert asset.description, key
        assert asset.owners or not asset.is_materializable, key


def test_similar_names_are_explained() -> None:
    text = (REPOSITORY / "docs" / "dagster.md").read_text()
    for name in ("preprocess_outputs", "preprocess_batches", "extract_features", "photo_features", "features"):
        assert f"\n| `{name}` | " in text
