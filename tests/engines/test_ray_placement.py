"""Actors on the nodes of a Ray cluster."""

from __future__ import annotations

from typing import Any

import pytest

from curation_features.engines.ray_placement import place_actors
from curation_features.errors import ResourceError

GB = 10**9


def node(name: str, cpus: float, gpus: float = 0, gigabytes: float = 100, *, alive: bool = True) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus, "memory": gigabytes * GB, f"node:{name}": 1.0}
    return {"NodeID": name, "Alive": alive, "Resources": {key: value for key, value in resources.items() if value}}


@pytest.mark.parametrize(
    ("nodes", "requested", "uses_gpus", "expected"),
    [
        ([node("a", 2)], None, True, ["a 2 0"]),
        ([node("a", 16)], None, True, ["a 4 0"] * 4),
        ([node("a", 2)], 4, True, ["a 0.5 0"] * 4),
        ([node("a", 3)], 2, True, ["a 1 0"] * 2),
        ([node("a", 1)], 3, True, ["a 0.3333 0"] * 3),
        ([node("a", 16, gigabytes=8)], None, True, ["a 8 0"] * 2),  # 2.9 GB each
        # one per GPU; a node without GPUs is not used; fewer actors are spread over nodes
        ([node("head", 8), node("a", 24, 2), node("b", 8, 1)], None, True, ["a 12 1", "b 8 1", "a 12 1"]),
        ([node("a", 24, 2), node("b", 24, 2)], 2, True, ["a 24 1", "b 24 1"]),
        ([node("a", 24, 2), node("b", 24, 2)], 3, True, ["a 12 1", "b 12 1", "a 12 1"]),
        ([node("a", 24, 2)], 3, True, ["a 8 0.6666"] * 3),
        ([node("a", 8, 2)], None, False, ["a 4 0"] * 2),
        ([node("head", 0), node("gone", 8, alive=False), node("a", 4)], None, True, ["a 4 0"]),
    ],
)
def test_actors_fit_their_nodes(
    nodes: list[dict[str, Any]], requested: int | None, uses_gpus: bool, expected: list[str]
) -> None:
    slots = place_actors(nodes, requested, 2 * GB, uses_gpus)
    assert [f"{slot.node} {slot.cpus:g} {slot.gpus:g}" for slot in slots] == expected
    assert {slot.environ["OMP_NUM_THREADS"] for slot in slots} == {str(max(1, int(slot.cpus))) for slot in slots}
    assert all("CUDA_VISIBLE_DEVICES" not in slot.environ for slot in slots)  # Ray sets it


@pytest.mark.parametrize("nodes", [[], [node("head", 0)], [node("gone", 8, alive=False)]])
def test_a_cluster_without_cores_is_refused(nodes: list[dict[str, Any]]) -> None:
    with pytest.raises(ResourceError, match="start its worker nodes"):
        place_actors(nodes, None, 0, True)
