"""End to end in separate processes, with real libraries and small real models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # five processes that load every library, on any machine

COMMAND = """
import sys
from curation_features.cli import main
code = main(sys.argv[1:])
print(sorted({'torch', 'open_clip', 'piq', 'skimage'} & sys.modules.keys()))
sys.exit(code)
"""


class Project:
    """A project whose commands run in fresh interpreters.

    Attributes:
        models: the environment variables that name its models.
    """

    def __init__(self, root: Path, models: dict[str, str]) -> None:
        self.root = root
        self.models = models

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """The last line of the output of Python code."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CURATION_FEATURES_")}
        inherited.pop("DAGSTER_HOME", None)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=self.root, env={**inherited, **self.models, **environment},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def outputs(self) -> dict[str, bytes]:
        """Finished features and events."""
        files = (path for name in ("features", "events") for path in (self.root / "data" / name).rglob("*.*"))
        return {str(path.relative_to(self.root / "data")): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, str]) -> Project:
    """A project with a batch of sample photos."""
    project = Project(tmp_path_factory.mktemp("project"), small_models)
    project.run(COMMAND, "ingest", "--samples", "--batch-id", "b")
    return project


@pytest.fixture(scope="module")
def processed(project: Project) -> tuple[str, dict[str, bytes]]:
    """The heavy modules that `process` loads without a cache, and what it writes."""
    return project.run(COMMAND, "process", "data/batches/b.json"), project.outputs()


def test_the_table_holds_the_raw_measurements_behind_the_scores(project: Project, processed) -> None:
    frame = pd.read_parquet(project.root / "data" / "features" / "b.parquet")
    assert set(frame["status"]) == {"ok"}
    np.testing.assert_allclose(frame["sharpness"], np.tanh(frame["tenengrad"] / 2000), atol=1e-6)
    np.testing.assert_allclose(frame["noise"], np.minimum(frame["noise_sigma"] / 0.08, 1), atol=2e-5)
    np.testing.assert_allclose(frame["brisque"], 1 - np.clip(frame["brisque_raw"] / 100, 0, 1), atol=1e-6)
    midtone = 1 - 2 * abs(frame["p50"] - 0.5)
    clipped = frame["clipped_low"] + frame["clipped_high"]
    expected = np.clip(0.5 * midtone + 0.5 * (frame["p99"] - frame["p1"]) - clipped, 0, 1)
    np.testing.assert_allclose(frame["exposure"], expected, atol=3e-6)
    cosines = np.stack(frame["label_cosines"].to_numpy())
    assert cosines.shape == (10, 50)
    np.testing.assert_allclose([max(row[0]["cosine_score"], 0) for row in frame["clip_labels"]], cosines.max(axis=1))


def test_a_cached_run_is_the_same_without_asserts_and_torch(project: Project, processed) -> None:
    modules, written = processed
    assert "torch" in modules
    assert len(written) == 6
    again = project.run(COMMAND, "process", "data/batches/b.json", "--output", "again.json", PYTHONOPTIMIZE="1")
    assert again == "[]"
    assert (project.root / "again.json").read_bytes() == written["features/b.json"]


def test_service_and_dagster_write_the_same_bytes(project: Project, processed) -> None:
    for folder in ("features", "events", "cache"):
        shutil.rmtree(project.root / "data" / folder)
    assert "torch" in project.run(COMMAND, "materialize", "data/batches/b.json")
    assert project.outputs() == processed[1]
