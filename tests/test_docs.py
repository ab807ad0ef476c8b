"""What the documentation tells people to type works, in its order, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from devserver import dagster_dev, free_port, project, wait_for
from hubs import Hub, Machine
from PIL import Image

from curation_features.orchestration import launch
from curation_features.settings import load_settings, packaged_file

REPOSITORY = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def commands(document: str) -> list[str]:
    """The lines of the `sh` blocks of a document."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (REPOSITORY / "docs" / document).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_walk_through_of_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_models: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "data" / "dagster"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {**small_models, "DAGSTER_HOME": str(home), "PATH": path}.items():
        monkeypatch.setenv(name, value)
    project(tmp_path)
    (tmp_path / "my photos").mkdir()
    for number in range(3):
        Image.effect_noise((96, 64), 20 + number).convert("RGB").save(tmp_path / "my photos" / f"{number}.png")
    with launch.project_instance(load_settings(tmp_path), packaged_file("dagster.yaml")):
        pass
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "labels.json").write_text(json.dumps({"labels": ["a", "b", "c", "d", "e", "f"]}))
    port = free_port()

    def succeeded() -> int:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs = instance.get_runs()
            assert not any(run.status is dg.DagsterRunStatus.FAILURE for run in runs)
            return len([run for run in runs if run.is_success])

    told = []
    with dagster_dev(tmp_path, port):
        for command in commands("dagster.md"):
            given = command.replace("features backfill", f"features backfill --url http://127.0.0.1:{port}")
            done = subprocess.run(["bash", "-c", given], capture_output=True, text=True, timeout=400)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            told.append(done.stdout)
            if " submit " in command:
                wait_for(succeeded, 400)
    assert succeeded() == 4  # the sensor's run, and three backfills
    backfills = [text for text in told if " made, 0 failed" in text]
    assert [text.rsplit("\n", 2)[-2] for text in backfills] == [
        "3 made, 0 failed, of 1 batches x 3 assets",
        "2 made, 0 failed, of 1 batches x 2 assets",
        "5 made, 0 failed, of 1 batches x 5 assets",
    ]
    features = json.loads((tmp_path / "data" / "features" / "trip.json").read_bytes())
    assert {artifact["features"]["status"] for artifact in features["artifacts"]} == {"ok"}


def test_the_guide_to_models(
    hub: Hub, make_machine: Callable[..., Machine], clip_checkpoint: Path, small_models: dict[str, str]
) -> None:
    hub.repositories = {"org/model": {path.name: path.read_bytes() for path in clip_checkpoint.iterdir()}}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {name: value for name, value in small_models.items() if "WEIGHTS" in name}
    machine = make_machine("machine", PATH=path, **own)
    for command in commands("models.md"):
        if "carried" in command:
            shutil.copytree(machine.home / "hub", machine.root / "carried" / "hub")
            shutil.rmtree(machine.home)
            hub.repositories.clear()
        ran = subprocess.run(["bash", "-c", command], env=machine.environ, cwd=machine.root, capture_output=True)
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        assert ran.stdout.count(b"  here: ") == 3
    assert not hub.gets("open_clip_model.safetensors")[1:]


def test_there_are_commands_to_try() -> None:
    assert len(commands("dagster.md")) >= 7
    assert len(commands("models.md")) == 3
