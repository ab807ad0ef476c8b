"""The commands and code blocks of the documentation work, in their order."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from devserver import dagster_dev, free_port, project, wait_for
from documents import REPOSITORY, blocks, commands, run, run_line
from hubs import Hub, Machine
from PIL import Image

from curation_features.cli.app import parser
from curation_features.cli.command import UsageError
from curation_features.orchestration import launch
from curation_features.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


DOCUMENTS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
BRISQUE = "CURATION_FEATURES_BRISQUE_WEIGHTS"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone as the current folder, with its environment and three photos, without weights: no command loads torch."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached"], cwd=REPOSITORY, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not name.startswith("tests/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (tmp_path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (tmp_path / ".venv" / ".installed").touch()  # newer than pyproject.toml
    (tmp_path / "my photos").mkdir()
    for number in range(3):
        Image.effect_noise((96, 64), 20 + number).convert("RGB").save(tmp_path / "my photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    path = f"{tmp_path / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    path_of_packages = os.pathsep.join(map(str, (REPOSITORY / "tests" / "impatient", REPOSITORY)))
    without_weights = {"CURATION_FEATURES_ON_MISSING_WEIGHTS": "degrade", "HF_HUB_OFFLINE": "1", BRISQUE: "nowhere"}
    for name, value in {**without_weights, "PATH": path, "PYTHONPATH": path_of_packages}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_the_quick_start(checkout: Path, monkeypatch: pytest.MonkeyPatch, small_models: dict[str, str]) -> None:
    for name, value in {**small_models, "CURATION_FEATURES_ON_MISSING_WEIGHTS": "fail", BRISQUE: ""}.items():
        monkeypatch.setenv(name, value)
    for line in commands("quickstart.md"):
        run_line(line)
    for suffix in ("html", "parquet", "json"):
        assert (checkout / "data" / "features" / f"trip.{suffix}").stat().st_size > 1000
    for block in blocks(REPOSITORY / "docs" / "quickstart.md", "python"):
        run(sys.executable, "-c", block)


def test_operations(checkout: Path) -> None:
    run("make", "run", "PHOTOS=my photos", "BATCH=trip")
    for line in commands("operations.md"):
        run_line(line)
    assert not list((checkout / "data" / "cache" / "features").glob("*.json"))


def test_the_guide_to_scale(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands("scale.md"):
        run_line(line)
    (manifest,) = (checkout / "data" / "shards" / "archive").glob("*.json")
    assert (checkout / "data" / "features" / manifest.name).exists()
    assert "1 batch: 1 already done" in capsys.readouterr().out


def test_the_guide_to_orchestrators(checkout: Path) -> None:
    run(sys.executable, "-c", "\n".join(blocks(REPOSITORY / "docs" / "orchestrator.md", "python")))
    for command in commands("orchestrator.md"):
        run("bash", "-c", command)
    (result,) = (checkout / "data" / "orchestrator").glob("*.json")
    assert len(json.loads(result.read_bytes())["artifacts"]) == 3


def test_the_readme(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands in their order; its example prints the scores that it shows."""
    readme = REPOSITORY / "README.md"
    for block in blocks(readme, "sh"):
        for line in block.splitlines():
            run("bash", "-c", line)
    assert (checkout / "data" / "features" / "trip.html").exists()
    example, signals = blocks(readme, "python")
    monkeypatch.delenv(BRISQUE)
    printed = run(sys.executable, "-c", example).splitlines()
    assert len(printed) == 5
    assert all(score in example for score in printed[:3])
    assert run(sys.executable, "-c", signals).startswith("blurred - ")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_not_run_exist(path: Path) -> None:
    text = path.read_text()
    lines = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        command = re.sub(r"\s+(#|\|).*", "", line.strip())
        if re.match(r"(python -m )?curation.features [a-z]", command) and not {"|", "..."} & {*command.split()}:
            arguments = shlex.split(command.partition("curation-features ")[2])
            named_only = not any(argument.startswith("-") for argument in arguments)
            assert _parses(arguments) or (named_only and _parses([*arguments, "--help"])), command
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), command


def _parses(arguments: list[str]) -> bool:
    try:
        parser().parse_args(arguments)
    except UsageError:
        return False
    except SystemExit as stopped:
        return stopped.code == 0
    return True


def test_the_walk_through_of_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "data" / "dagster"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    chosen = {"DAGSTER_HOME": str(home), "PATH": path, "CURATION_FEATURES_DEVICE": "cpu"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    project(tmp_path, with_fakes=True)
    (tmp_path / "my photos").mkdir()
    for number in range(3):
        Image.effect_noise((96, 64), 20 + number).convert("RGB").save(tmp_path / "my photos" / f"{number}.png")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "labels.json").write_text(json.dumps({"labels": ["a", "b", "c", "d", "e", "f"]}))
    port = free_port()

    def succeeded() -> int:
        runs = instance.get_runs()
        assert not any(run.status is dg.DagsterRunStatus.FAILURE for run in runs)
        return len([run for run in runs if run.is_success and run.job_name != "group_photos"])

    outputs = []
    with launch.project_instance(load_settings(tmp_path)) as instance, dagster_dev(tmp_path, port):
        for command in commands("dagster.md"):
            with_url = command.replace("features backfill", f"features backfill --url http://127.0.0.1:{port}")
            outputs.append(run("bash", "-c", with_url))
            if " submit " in command:
                wait_for(succeeded, 400)
        assert succeeded() == 4  # the sensor's run, and three backfills
    backfills = [text for text in outputs if " made, 0 failed" in text]
    assert [text.rsplit("\n", 2)[-2] for text in backfills] == [
        "3 made, 0 failed, of 1 batches x 3 assets",
        "2 made, 0 failed, of 1 batches x 2 assets",
        "5 made, 0 failed, of 1 batches x 5 assets",
    ]
    features = json.loads((tmp_path / "data" / "features" / "trip.json").read_bytes())
    assert {artifact["features"]["status"] for artifact in features["artifacts"]} == {"ok"}


def test_the_guide_to_models(
    hub: Hub,
    make_machine: Callable[..., Machine],
    clip_checkpoint: Path,
    small_models: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.repositories = {"org/model": {path.name: path.read_bytes() for path in clip_checkpoint.iterdir()}}
    machine = make_machine("machine", **{name: value for name, value in small_models.items() if "WEIGHTS" in name})
    monkeypatch.chdir(machine.root)
    for line in commands("models.md"):
        if "carried" in line:
            shutil.copytree(machine.home / "hub", machine.root / "carried" / "hub")
            shutil.rmtree(machine.home)
            hub.repositories.clear()
        with machine.settings():
            run_line(line)
        assert capsys.readouterr().out.count("  here: ") == 3
    assert not hub.gets("open_clip_model.safetensors")[1:]
