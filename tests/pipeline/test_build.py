"""Assets that are built in one run, and one after the other from what is stored."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from worlds import World

from curation_features.build import build_assets
from curation_features.manifest import Batch
from curation_features.schema import ASSETS
from curation_features.signals import table
from curation_features.storage.artifacts import ArtifactStore


def build(world: World, batch: Batch, *assets: str) -> dict[str, bytes]:
    """Build assets in new stages; return the files of the features by suffix and folder."""
    stages = world.stages()
    store = ArtifactStore(stages.settings.data_path)
    store.put_manifest(batch)
    list(build_assets(batch, assets, stages, store))
    paths = [*store.feature_paths(batch.batch_id), store.embeddings_path(batch.batch_id)]
    return {f"{path.parent.name}{path.suffix}": path.read_bytes() for path in paths}


@pytest.fixture
def broken_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one signal fail for photos that are 40 px wide."""

    def edges(views: Any) -> Any:
        if views.width == 40:
            raise RuntimeError("no edges")
        return table.edges(views)

    monkeypatch.setattr(table, "MEASURES", MappingProxyType({**table.MEASURES, "edges": edges}))


def test_features_are_those_of_the_stored_stages(world: World, broken_edges: None) -> None:
    damaged = world.photo("damaged.png", 2)
    (world.root / "photos" / "damaged.png").write_bytes(b"no image")
    photos = [world.photo("a.png"), world.photo("narrow.png", 1, (40, 40)), damaged]
    missing = [{"photo_id": name, "original_uri": f"photos/{name}"} for name in ("none.png", "caf\udce9.png")]
    batch = world.batch([*photos, *missing[:1], photos[0], *missing[1:-1], {**missing[1], "photo_id": "latin-1"}])
    together = build(world, batch, *ASSETS)
    found = [artifact["features"] for artifact in json.loads(together["features.json"])["artifacts"]]
    assert [item["status"] for item in found] == ["ok", "degraded", "failed", "failed", "ok", "failed"]
    assert [error["stage"] for error in found[1]["errors"]] == ["edges"]
    assert build(world, batch, "features") == together
    assert build(world, batch, "clip_labels", "features") == together
