"""Concurrent processes and threads: on one batch, on batches with shared photos, while the cache is cleared."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from interpreters import run_python
from worlds import World

from curation_features.service import FeaturesService
from curation_features.weights import LazyModel
from curation_features.weights.weights import Weights

T = TypeVar("T")

BATCHES = {"one": range(8), "two": range(2, 10), "three": range(4, 12), "four": (*range(4), *range(8, 12))}

SCRIPT = """
import json, os, shutil, sys, time
from pathlib import Path
from processes import kill, start, wait
from curation_features.storage.cache import FeatureCache

folder = Path(sys.argv[1])

def at_once(name, *commands, meanwhile=None):
    root = shutil.copytree(folder / "project", folder / name)
    processes = [start(root, command, root / f"{number}.log") for number, command in enumerate(commands)]
    other = meanwhile and os.fork()
    if other == 0:
        os.setsid()
        while True:
            meanwhile(root / "data/cache/features")
            time.sleep(0.005)
    codes = [wait(process) for process in processes]
    if meanwhile:
        kill(other)
        wait(other)
    return codes

def clear(cache):
    FeatureCache(cache).clear(label_embeddings=True)

def remove(cache):
    shutil.rmtree(cache, ignore_errors=True)

names = ["one", "two", "three", "four"]
process = [["process", f"{name}.json"] for name in names]
alone = shutil.copytree(folder / "project", folder / "alone")
print(json.dumps({
    "alone": [wait(start(alone, command, alone / "log")) for command in process],
    "same": at_once("same", process[0], process[0], ["materialize", "one.json"]),
    "shared": at_once("shared", *process),
    "cleared": at_once("cleared", *process, meanwhile=clear),
    "removed": at_once("removed", *process, meanwhile=remove),
}))
"""


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of all projects, and the exit codes of their processes."""
    folder = tmp_path_factory.mktemp("projects")
    (folder / "project").mkdir()
    photos = [World(folder / "project").photo(f"{number}.png", number, (64, 48)) for number in range(12)]
    for name, numbers in BATCHES.items():
        batch = {"batch_id": name, "artifacts": [photos[number] for number in numbers]}
        (folder / "project" / f"{name}.json").write_text(json.dumps(batch))
    return folder, json.loads(run_python("-c", SCRIPT, folder).splitlines()[-1])


def outputs(root: Path) -> dict[str, bytes]:
    """Finished features and events."""
    files = [*root.glob("data/features/**/*"), *root.glob("data/events/*/*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


def said(root: Path) -> str:
    return "\n".join(path.read_text() for path in root.glob("*.log"))


def entries(root: Path) -> set[str]:
    return {path.name for path in root.glob("data/cache/features/*")}


@pytest.mark.long
def test_processes_on_one_batch_make_it_once(codes) -> None:
    folder, found = codes
    assert found["alone"] == [0, 0, 0, 0]
    assert found["same"] == [0, 0, 0], said(folder / "same")
    assert "WARNING" not in said(folder / "same")
    expected = {name: data for name, data in outputs(folder / "alone").items() if "/one" in name}
    assert outputs(folder / "same") == expected
    assert len(expected) == 6


@pytest.mark.long
def test_processes_with_shared_photos_give_equal_results(codes) -> None:
    folder, found = codes
    assert found["shared"] == [0, 0, 0, 0], said(folder / "shared")
    assert outputs(folder / "shared") == outputs(folder / "alone")
    assert entries(folder / "shared") == entries(folder / "alone")  # no temporary files; one set of label embeddings
    assert len(entries(folder / "alone")) == 12 + 1
    assert "WARNING" not in said(folder / "shared")


@pytest.mark.parametrize("way", ["cleared", "removed"])
def test_a_cache_that_is_cleared_during_runs_changes_no_result(codes, way: str) -> None:
    folder, found = codes
    assert found[way] == [0, 0, 0, 0], said(folder / way)
    assert outputs(folder / way) == outputs(folder / "alone")


@pytest.mark.long
def test_threads_share_models_and_give_equal_results(world) -> None:
    loads: list[str] = []

    def counted(name: str, model: T) -> LazyModel[T]:
        def load(_: Weights) -> T:
            loads.append(name)
            time.sleep(0.05)  # until all other threads wait
            return model

        return LazyModel(lambda: Weights(name, Path(), ""), load)

    def service(data: str) -> FeaturesService:
        models = {name: counted(name, getattr(world, name)) for name in ("brisque", "clip", "clip_iqa")}
        return FeaturesService(stages=world.stages(world.settings.replace(data_dir=data), **models))

    artifacts = [world.photo(f"{number}.png", number, (64, 48)) for number in range(10)]
    batches = [
        {"batch_id": f"b{start}", "artifacts": [artifacts[(start + n) % 10] for n in range(6)]} for start in range(8)
    ]
    alone = service("alone")
    expected = [alone.process(batch) for batch in batches]
    loads.clear()
    together = service("together")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together.process, batches * 2)) == expected * 2
    assert sorted(loads) == ["brisque", "clip", "clip_iqa"]
