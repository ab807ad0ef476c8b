"""End to end in separate processes, with real libraries and small real models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pictures import encoded
from specification import EXAMPLE

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # seven processes that load every library, on any machine

# The specification's examples; the test compares names, order and types of the output's fields.
INPUT = json.loads(EXAMPLE)
OUTPUT_FEATURES = {
    "tech": {
        "sharpness": 1.0,
        "exposure": 0.7250478958473853,
        "noise": 0.09551166822581503,
        "clip_iqa": 0.8234567890123456,
        "brisque": 0.6789012345678901,
    },
    "clip_labels": [
        {"label": "wide shot", "confidence": 0.956, "cosine_score": 0.845},
        {"label": "colorful", "confidence": 0.823, "cosine_score": 0.781},
        {"label": "close-up", "confidence": 0.712, "cosine_score": 0.658},
        {"label": "panorama", "confidence": 0.634, "cosine_score": 0.542},
        {"label": "indoor", "confidence": 0.521, "cosine_score": 0.421},
    ],
}
COMMAND = """
import sys
from curation_features.cli import main
code = main(sys.argv[1:])
print(sorted({'torch', 'open_clip', 'piq', 'skimage'} & sys.modules.keys()))
sys.exit(code)
"""
SERVICE = """
import json, sys
from curation_features import FeaturesService
json.dump(FeaturesService().process(json.load(open('m.json'))), sys.stdout)
"""


def shape(value: Any) -> Any:
    """Return names, order and types, without values."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value)


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


def test_the_specifications_example_validates_field_by_field(tmp_path: Path, small_models: dict[str, str]) -> None:
    artifact = INPUT["artifacts"][0]
    path = tmp_path / artifact["std_uri"]
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(np.random.default_rng(0).integers(90, 160, (288, 512, 3), dtype=np.uint8), quality=95))
    (tmp_path / "m.json").write_text(json.dumps(INPUT))
    result = json.loads(Project(tmp_path, small_models).run(SERVICE))
    [enriched] = result["artifacts"]
    features = enriched.pop("features")
    assert json.dumps(result) == json.dumps(INPUT)
    assert features["status"] == "ok"
    assert shape({name: features[name] for name in OUTPUT_FEATURES}) == shape(OUTPUT_FEATURES)
    labels = json.loads((Path(__file__).parent.parent / "config" / "labels.json").read_text())["labels"]
    assert {label["label"] for label in features["clip_labels"]} <= set(labels)
    assert all(0 <= value <= 1 for value in features["tech"].values())


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


def test_a_cached_service_run_needs_no_torch(project: Project, processed) -> None:
    modules, written = processed
    assert "torch" in modules
    assert len(written) == 6
    assert project.run(COMMAND, "process", "data/batches/b.json", "--output", "again.json") == "[]"
    assert (project.root / "again.json").read_bytes() == written["features/b.json"]


def test_the_results_are_the_same_without_asserts(project: Project, processed) -> None:
    """Service and pipeline write the same bytes: the pipeline with `-O`, first without a cache, then with one."""
    for folder in ("features", "events", "cache"):
        shutil.rmtree(project.root / "data" / folder)
    for is_cached in (False, True):
        modules = project.run(COMMAND, "materialize", "data/batches/b.json", PYTHONOPTIMIZE="1")
        assert "torch" not in modules if is_cached else "torch" in modules
        assert project.outputs() == processed[1]
