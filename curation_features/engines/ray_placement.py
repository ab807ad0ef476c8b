"""How many actors a Ray cluster takes, and on which nodes. Imports no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation_features.engines.placement import Machine, place
from curation_features.errors import ResourceError


@dataclass(frozen=True, slots=True)
class ActorSlot:
    """The place of an actor.

    Attributes:
        node: id of its node.
        cpus: number of cores that Ray reserves; `gpus`: of GPUs, or the share of one.
        environ: variables of its environment.
    """

    node: str
    cpus: float
    gpus: float = 0
    environ: Mapping[str, str] = field(default_factory=dict)


def place_actors(
    nodes: Sequence[Mapping[str, Any]], requested: int | None, weights_bytes: int, uses_gpus: bool
) -> list[ActorSlot]:
    """Place actors on the nodes of a cluster, on each one as `placement.place` does for a machine.

    Nodes without GPUs are not used if others have some.

    Args:
        nodes: `ray.nodes()`.
        requested: number of actors on all nodes; None: the default.
        weights_bytes: size of the weights that each actor loads.

    Raises:
        ResourceError: the cluster has no node with cores.
    """
    usable = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    with_gpus = [node for node in usable if node["Resources"].get("GPU", 0) >= 1] if uses_gpus else []
    chosen = with_gpus or usable
    if not chosen:
        raise ResourceError("the Ray cluster has no node with free cores yet; start its worker nodes, then try again")
    share = None if requested is None else -(-requested // len(chosen))
    placed = [_place_on(node, share, weights_bytes, bool(with_gpus)) for node in chosen]
    # One on each node, then the second ones: fewer actors than places are spread over the nodes.
    rounds = [slots[at] for at in range(max(map(len, placed))) for slots in placed if at < len(slots)]
    return rounds[:requested]


def _place_on(node: Mapping[str, Any], requested: int | None, weights_bytes: int, uses_gpus: bool) -> list[ActorSlot]:
    resources = node["Resources"]
    cores, free = int(resources["CPU"]), resources.get("memory")
    gpus = tuple(map(str, range(int(resources["GPU"])))) if uses_gpus else ()
    machine = Machine(cores, None if free is None else int(free), gpus)
    slots = place(machine, requested, weights_bytes).slots
    cpus = min(slots[0].threads, _part(cores, len(slots)))
    return [
        ActorSlot(
            node["NodeID"],
            cpus,
            min(1, _part(len(gpus), len(slots))),
            # Ray sets the devices, which may be others when the actor starts.
            {name: value for name, value in slot.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
        )
        for slot in slots
    ]


def _part(whole: int, count: int) -> float:
    """Return the share of one of `count`; a fraction in Ray's resolution, rounded down."""
    return whole // count if whole >= count else int(10_000 * whole / count) / 10_000
