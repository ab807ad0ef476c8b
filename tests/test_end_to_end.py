"""End to end in separate processes, with real libraries and small real models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from specification import EXAMPLE

pytestmark = pytest.mark.long

Run = Callable[..., subprocess.CompletedProcess[str]]

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
REPORT_MODULES = "import sys; print(sorted({'torch', 'open_clip', 'piq', 'skimage'} & sys.modules.keys()))"


def shape(value: Any) -> Any:
    """Return names, order and types, without values."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value)


@pytest.fixture
def run(tmp_path: Path, small_models: dict[str, str]) -> Run:
    """Run Python code in a fresh interpreter in the project's folder, where a warning is an error."""

    def call(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CURATION_FEATURES_")}
        inherited.pop("DAGSTER_HOME", None)
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={**inherited, **small_models, **environment},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        return found

    return call


@pytest.fixture
def manifest(tmp_path: Path, run: Run) -> Path:
    """A batch of sample photos, ingested by the command line."""
    run("from curation_features.cli import main; raise SystemExit(main())", "ingest", "--samples", "--batch-id", "b")
    return tmp_path / "data" / "batches" / "b.json"


def test_the_specifications_example_validates_field_by_field(tmp_path: Path, run: Run) -> None:
    from PIL import Image

    artifact = INPUT["artifacts"][0]
    path = tmp_path / artifact["std_uri"]
    path.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(90, 160, (288, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    (tmp_path / "m.json").write_text(json.dumps(INPUT))
    code = (
        "import json, sys; from curation_features import FeaturesService\n"
        "json.dump(FeaturesService().process(json.load(open('m.json'))), sys.stdout)"
    )
    result = json.loads(run(code).stdout)
    [enriched] = result["artifacts"]
    features = enriched.pop("features")
    assert json.dumps(result) == json.dumps(INPUT)
    assert features["status"] == "ok"
    assert shape({name: features[name] for name in OUTPUT_FEATURES}) == shape(OUTPUT_FEATURES)
    labels = json.loads((Path(__file__).parent.parent / "config" / "labels.json").read_text())["labels"]
    assert {label["label"] for label in features["clip_labels"]} <= set(labels)
    assert all(0 <= value <= 1 for value in features["tech"].values())


def test_a_cached_service_run_needs_no_torch(manifest: Path, run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from curation_features.cli import main\n"
        "assert main(['process', 'data/batches/b.json', '--output', sys.argv[1]]) == 0\n" + REPORT_MODULES
    )
    first, second = run(code, "first.json").stdout, run(code, "second.json").stdout
    assert "torch" in first
    assert second.splitlines()[-1] == "[]"
    project = manifest.parents[2]
    assert (project / "first.json").read_bytes() == (project / "second.json").read_bytes()
    document = json.loads((project / "first.json").read_bytes())
    assert {artifact["features"]["status"] for artifact in document["artifacts"]} == {"ok"}


def test_a_cached_materialization_needs_no_torch(manifest: Path, run: Run) -> None:
    code = (
        "from curation_features.cli import main\n"
        "assert main(['materialize', 'data/batches/b.json']) == 0\n" + REPORT_MODULES
    )
    features = manifest.parents[1] / "features"
    assert "torch" in run(code).stdout.splitlines()[-1]
    before = {path: path.read_bytes() for path in features.rglob("*.*")}
    assert run(code).stdout.splitlines()[-1] == "[]"
    assert {path: path.read_bytes() for path in features.rglob("*.*")} == before
    names = {str(path.relative_to(features)) for path in before}
    assert names == {"b.html", "b.json", "b.parquet", "embeddings/b.parquet"}


def test_service_and_pipeline_give_the_same_bytes(manifest: Path, run: Run) -> None:
    code = (
        "from curation_features.cli import main\n"
        "assert main(['materialize', 'data/batches/b.json']) == 0\n"
        "assert main(['cache', 'clear', '--all']) == 0\n"
        "assert main(['process', 'data/batches/b.json', '--output', 'service.json']) == 0"
    )
    run(code)
    project = manifest.parents[2]
    features = project / "data" / "features"
    assert (project / "service.json").read_bytes() == (features / "b.json").read_bytes()
    tables = {path: path.read_bytes() for path in features.rglob("*.parquet")}  # with that of the embeddings
    run("from curation_features.cli import main; assert main(['process', 'data/batches/b.json']) == 0")
    assert {path: path.read_bytes() for path in tables} == tables


def test_the_table_holds_the_raw_measurements_behind_the_scores(manifest: Path, run: Run) -> None:
    run("from curation_features.cli import main; raise SystemExit(main())", "process", "data/batches/b.json")
    frame = pd.read_parquet(manifest.parents[1] / "features" / "b.parquet")
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


@pytest.mark.timeout(900)  # four processes that load every library
def test_the_results_are_the_same_without_asserts(manifest: Path, run: Run, tmp_path: Path) -> None:
    """A plain run of the service, and one of the pipeline with `-O` and nothing in the cache."""
    command = "from curation_features.cli import main; raise SystemExit(main())"

    def made() -> dict[str, bytes]:
        files = (path for folder in ("features", "events") for path in (tmp_path / "data" / folder).rglob("*.*"))
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files if path.is_file()}

    run(command, "process", "data/batches/b.json")
    plain = made()
    assert len(plain) == 6
    run(command, "cache", "clear", "--all")
    for folder in ("features", "events"):
        shutil.rmtree(tmp_path / "data" / folder)
    run(command, "materialize", "data/batches/b.json", PYTHONOPTIMIZE="1")
    assert made() == plain
