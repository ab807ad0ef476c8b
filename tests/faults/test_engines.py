"""Shards whose processes or driver are killed: the files are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_work import FAKES, all_gone, wait_until
from worlds import World

from curation_features.engines.batch_work import batch_work
from curation_features.engines.local import LocalEngine
from curation_features.engines.placement import Placement, Slot
from curation_features.engines.shard_files import read_shards
from curation_features.manifest import to_json
from curation_features.settings import Settings

SHARDS, PHOTOS = 6, 3

DRIVER = """
import json, sys
from pathlib import Path
from test_engines import run
for result in run(Path(sys.argv[1])):
    print(json.dumps(result.to_json()), flush=True)
"""


def run(root: Path) -> Any:
    engine = LocalEngine(Placement((Slot(1), Slot(1)), "here"))
    shards = list(read_shards(sorted((root / "shards").glob("*.json"))))
    settings = Settings(root=root, device="cpu", workers=1, on_missing_weights="degrade")
    return engine.run(shards, batch_work(settings, function=FAKES))


def make(root: Path) -> Path:
    """A project of some shards; neighbours share a photo, one photo is missing."""
    (root / "shards").mkdir(parents=True)
    world = World(root)
    for n in range(SHARDS):
        photos = [world.photo(f"{m}.png", m, (48, 32)) for m in range(n * (PHOTOS - 1), n * (PHOTOS - 1) + PHOTOS)]
        if n == 3:
            photos[1]["original_uri"] = "./photos/missing.png"
        (root / "shards" / f"s-{n}.json").write_bytes(to_json({"batch_id": f"s-{n}", "artifacts": photos}))
    return root


def outputs(root: Path) -> dict[str, bytes]:
    """All files but locks and adoptions, which hold timings."""
    data = root / "data"
    paths = (path for path in data.rglob("*") if path.is_file() and path.relative_to(data).parts[0] != "locks")
    return {str(path.relative_to(data)): b"" if "adoptions" in path.parts else path.read_bytes() for path in paths}


def children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' list of child processes")
def test_killed_processes_and_drivers_cost_nothing(tmp_path: Path) -> None:
    undisturbed, killed = make(tmp_path / "undisturbed"), make(tmp_path / "killed")
    assert {result.state for result in run(undisturbed)} == {"done"}

    python_path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environ = {**os.environ, "PYTHONPATH": python_path, "FAKE_SECONDS": "0.2"}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(killed)], env=environ, stdout=subprocess.PIPE)
    try:
        assert driver.stdout is not None
        first = json.loads(driver.stdout.readline())
        assert first["state"] == "done"
        before = children(driver.pid)
        os.kill(before[0], signal.SIGKILL)  # one of the workers
        wait_until(lambda: set(children(driver.pid)) - set(before))  # it is replaced
        every = {*before, *children(driver.pid)}
    finally:
        driver.kill()
        driver.communicate()
    wait_until(lambda: all_gone(every), 20)
    finished = {path.stem for path in (killed / "data/events/latest").glob("*.json")}
    assert first["batch_id"] in finished
    assert len(finished) < SHARDS

    results = {result.batch_id: result.state for result in run(killed)}
    assert set(results.values()) <= {"done", "already_done"}
    assert results[first["batch_id"]] == "already_done"
    assert outputs(killed) == outputs(undisturbed)
    photos = [
        artifact["photo_id"]
        for path in (killed / "data/features").glob("*.json")
        for artifact in json.loads(path.read_bytes())["artifacts"]
    ]
    assert len(photos) == SHARDS * PHOTOS
    assert {result.state for result in run(killed)} == {"already_done"}
    assert outputs(killed) == outputs(undisturbed)
