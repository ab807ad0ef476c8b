"""`benchmarks/gpu.py` packs what a bare machine needs, and measures on the CPU with small models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "gpu.py"
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text()


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import wheels

    return wheels


def test_wheels_are_the_tested_versions_without_torch(wheels) -> None:
    wanted = dict(line.split("==") for line in wheels.requirements((), "2.11.0+cu130", wheels.pinned(CONSTRAINTS)))
    assert wanted.pop("torchvision") == "0.26.*"  # the release notes of torchvision 0.26 name torch 2.11
    assert not {"torch", "triton", "dagster", "pyarrow"} & wanted.keys()
    tested = [line.replace("_", "-").lower() for line in CONSTRAINTS.splitlines()]
    assert {f"{name}=={version}" for name, version in wanted.items()} <= {*tested}
    fewer = wheels.requirements(["OpenCV_Python.Headless", "numpy"], "2.11", wheels.pinned(CONSTRAINTS))
    assert len(wanted) + 1 - len(fewer) == 2


def test_pip_is_asked_for_wheels_of_the_machine(wheels, tmp_path: Path) -> None:
    command = wheels.download_command(tmp_path, ["piq==0.8.0"], "3.12", "aarch64")
    assert command[command.index("--python-version") + 1] == "3.12"
    platforms = [command[at + 1] for at, option in enumerate(command) if option == "--platform"]
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64"} <= {*platforms}
    assert not [tag for tag in platforms if "x86" in tag]
    assert {"--no-deps", "--only-binary=:all:"} <= {*command}


def test_only_what_a_machine_lacks_is_installed(wheels) -> None:
    minimum = wheels.oldest((REPOSITORY / "pyproject.toml").read_text())
    assert minimum["pillow"] >= (12, 3)
    present = dict.fromkeys(wheels.PACKAGES, "2999.1")
    assert wheels.missing(present, minimum) == []
    assert wheels.missing({**present, "pillow": "11.3.0"}, minimum) == ["pillow"]
    assert wheels.missing({name: version for name, version in present.items() if name != "ftfy"}, minimum) == ["ftfy"]
    for old, new in (("2.9", "2.10"), ("0.22.1", "0.22.1+cu130"), ("4.13", "5.0.0.93")):
        assert (wheels.numbers(old) < wheels.numbers(new)) == (Version(old) < Version(new.partition("+")[0]))


def test_what_cannot_be_carried_is_refused(wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wheels.refusal({"small.whl": 2**20}, 1) is None
    reason = wheels.refusal({"small.whl": 2**20, "large.whl": 60 * 2**20}, 60)
    assert "61.0 MiB" in reason
    assert "large.whl 60.0" in reason
    assert "--compress" in reason
    present = {**dict.fromkeys(wheels.PACKAGES, "2999"), "piq": "0.7", "torch": "2.11"}
    monkeypatch.setattr(wheels, "installed", lambda: present)
    with pytest.raises(SystemExit, match="has no wheel of piq, and"):
        wheels.install(tmp_path, tmp_path / "packages")


def test_a_compressed_wheel_has_the_same_files(wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "COMPRESS_FROM", 2**18)
    wheel, content = tmp_path / "a-1-py3-none-any.whl", bytes(range(256)) * 4_000
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("a/b.bin", content)
    wheels.compress(wheel)
    assert wheel.stat().st_size < len(content) / 100
    with zipfile.ZipFile(wheel) as file:
        assert {name: file.read(name) for name in file.namelist()} == {"a/b.bin": content}


def options(models: dict[str, str]) -> list[str]:
    """Options for a short run on the CPU."""
    named = {name.removeprefix("CURATION_FEATURES_").lower(): value for name, value in models.items()}
    words = [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [*words, "--photos", "4", "--threads", "2", "--batch-sizes", "2", "--seconds", "0.01"]


@pytest.mark.slow
def test_every_part_is_measured_on_the_cpu(tmp_path: Path, small_models: dict[str, str]) -> None:
    result = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "run", *options(small_models), "--json", str(result)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "photos/s" in done.stdout
    found = json.loads(result.read_text())["parts"]
    parts = {part: {row["name"]: row for row in rows} for part, rows in found.items()}
    errors = [row for rows in parts.values() for row in rows.values() if "error" in row]
    assert (done.returncode, errors) == (0, [])
    assert {*parts} == {"prepare", "tests/gpu", "machine", "device", "whole", "host", "total"}
    assert "skipped" in parts["tests/gpu"]["summary"]["result"]
    whole = parts["whole"]["files to records, default"]
    bare = parts["device"]["bare passes together"]["photos/s"]
    assert whole["photos"] == 4
    assert whole["of the bare passes"] == pytest.approx(whole["photos/s"] / bare)
    assert {"seconds_wait_for_photos", "seconds_wait_for_models", "seconds_decode"} <= whole.keys()
    assert parts["host"]["decode in processes: 2"]["children's CPU ms"] >= 0
    assert parts["prepare"]["photos and models written"]["kB"] > 100


def test_a_failed_figure_does_not_stop_the_others(
    wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "checkpoints", raising=False)  # the benchmarks have a module of that name, too
    import gpu_parts

    numbers = {"photos": 4, "threads": [1], "batch_sizes": [1], "seconds": 0.01, "limit": 60}
    (tmp_path / "options.json").write_text(json.dumps({**numbers, "device": "cpu", "models": {}}))
    part = gpu_parts.Part(tmp_path)
    assert part.measure("missing", lambda: json.loads((tmp_path / "bare.json").read_text())) == {}
    part.measure("next", lambda: {"photos/s": 2.0})
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "FileNotFoundError" in first["error"]
    assert second == {"name": "next", "photos/s": 2.0}


def test_a_failed_part_does_not_stop_the_others(wheels, tmp_path: Path) -> None:
    import gpu

    measurement = gpu.Measurement(tmp_path, tmp_path, time.monotonic() + 60)
    codes = {"device": "print(1); exit(3)", "whole": "import time; time.sleep(60)", "host": "print(2)"}
    lines = {
        part: list(measurement._lines(part, [sys.executable, "-c", code], 0.4 if part == "whole" else 30, tmp_path))
        for part, code in codes.items()
    }
    assert lines == {"device": ["1"], "whole": [], "host": ["2"]}
    late = gpu.Measurement(tmp_path, tmp_path, time.monotonic())
    late.run("device", {})
    errors = {part: row["error"] for part, [row] in measurement.figures.items()}
    assert errors == {"device": "ended with exit code 3", "whole": "stopped after 0 s"}
    assert late.figures["device"][0]["error"] == "no time left"
