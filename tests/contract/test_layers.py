"""Imports point downward (`[tool.importlinter]` in pyproject.toml), and breaches are found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(folder: Path) -> tuple[int, str]:
    """Exit status and output of import-linter on the package in `folder`."""
    run = subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.long
def test_the_layers_hold() -> None:
    status, output = lint(REPOSITORY)
    assert status == 0, output


BREACHES = {  # a line added to a module -> the report
    ("photos/reader", "from curation_features.service import FeaturesService"): "photos is not allowed to import",
    ("technical/__init__", "import curation_features.clip.labels"): "technical is not allowed to import",
    ("storage/artifacts", "import dagster"): "curation_features.storage.artifacts -> dagster",
    ("unheard_of", ""): "unheard_of",
}


@pytest.mark.long
def test_breaches_are_found(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    package = shutil.copytree(REPOSITORY / "curation_features", tmp_path / "curation_features")
    for module, line in BREACHES:
        with (package / f"{module}.py").open("a") as file:
            file.write(f"\n{line}\n")
    status, output = lint(tmp_path)
    assert status != 0
    assert [report for report in BREACHES.values() if report not in output] == []
