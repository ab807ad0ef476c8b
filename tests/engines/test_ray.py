"""The engine `ray` on a Ray that starts here; skipped without Ray."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from engine_work import ERRORS_OF_ALL_SHARDS, attempts, script, shards

from curation_features.engines import EngineOptions, create_engine
from curation_features.engines.executor import ShardResult
from curation_features.errors import CurationError, ResourceError, SettingsError
from curation_features.settings import Settings

ray = pytest.importorskip("ray")
ray_cluster = pytest.importorskip("curation_features.engines.ray_cluster")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests, whose actors can import the tests' work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("OMP_NUM_THREADS", raising=False)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def run(tmp_path: Path, processes: int, *ids: str, shown: Counter[str] | None = None, **given) -> list[ShardResult]:
    def progress(photos: int, worked: bool) -> None:
        if shown is not None:
            shown.update({str(worked): photos})

    engine = create_engine("ray", EngineOptions(Settings(root=tmp_path, device="cpu"), processes, progress=progress))
    found = list(engine.run(shards(*ids), script(tmp_path, **given)))
    assert engine.description == f"{processes} Ray actor{'s' * (processes > 1)} on CPUs of 1 node"
    return found


def test_a_shard_that_fails_costs_only_itself(tmp_path: Path) -> None:
    shown: Counter[str] = Counter()
    ids = ("busy", "ok1", "die", "raise", "bug", "dead", "ok2", "ok3")
    found = {result.batch_id: result for result in run(tmp_path, 2, *ids, shown=shown)}
    assert {name: result.state for name, result in found.items()} == {
        "busy": "done", "ok1": "done", "die": "done", "raise": "failed", "bug": "failed", "dead": "failed",
        "ok2": "done", "ok3": "done",
    }  # fmt: skip
    assert found["raise"].reason == "no space"
    assert found["bug"].reason == "ValueError: odd"
    assert "died 2 times, the last one (" in found["dead"].reason
    assert "worker process has died" in found["dead"].reason
    assert shown.total() == 80
    tried = {name: attempts(tmp_path, name) for name in found}
    assert {name: len(tries) for name, tries in tried.items() if len(tries) > 1} == {"busy": 2, "die": 2, "dead": 2}
    assert [one["wait"] for one in tried["busy"]] == [False, True]
    assert tried["die"][0]["pid"] != tried["die"][1]["pid"]
    assert {one["OMP_NUM_THREADS"] for tries in tried.values() for one in tries} == {"2"}


@pytest.mark.parametrize(
    ("ids", "prepare", "error", "said"), ERRORS_OF_ALL_SHARDS.values(), ids=ERRORS_OF_ALL_SHARDS.keys()
)
def test_an_error_of_all_shards_stops_the_run(
    tmp_path: Path, ids: list[str], prepare: str, error: type[CurationError], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(tmp_path, 1, *ids, prepare=prepare)
    assert not attempts(tmp_path, "ok2")


def test_another_release_on_a_node_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation_features.engines.ray_cluster.__version__", "0.0.1")
    with pytest.raises(ResourceError, match=r"is \S+ on this node and 0\.0\.1 on the driver's"):
        run(tmp_path, 1, "ok1")


def test_a_cluster_that_cannot_be_reached_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(SettingsError, match=r"cannot be used: .*refused.*RAY_AUTH_TOKEN"):
            ray_cluster._connect()
