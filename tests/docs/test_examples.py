"""The examples run as users run them."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from degraded import blurred
from PIL import Image
from skimage import data as bundled
from specification import EXAMPLE, OUTPUT_FEATURES

from curation_features.clip.vocabulary import load_vocabulary
from curation_features.schema import METRIC_NAMES
from curation_features.settings import load_settings

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATH = (EXAMPLES, EXAMPLES.parent, EXAMPLES.parent / "tests" / "impatient")
Run = Callable[..., subprocess.CompletedProcess[str]]

NO_WEIGHTS = {
    "CURATION_FEATURES_MODEL": "local-dir:nowhere",
    "CURATION_FEATURES_CLIP_IQA_WEIGHTS": "nowhere/RN50.pt",
}
# The specification only names the fields of the input "from ingest": those of preprocess less its own.
INGEST_FIELDS = ("exif", "format", "original_uri", "ranking_uri", "photo_id")


@pytest.fixture
def run(tmp_path: Path, small_models: dict[str, str]) -> Run:
    """Run Python in an empty project folder with the small models; `environment` replaces variables."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CURATION_FEATURES_")}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**inherited, **small_models, "PYTHONPATH": os.pathsep.join(map(str, PATH)), **environment},
            capture_output=True,
            text=True,
        )

    return call


def write_photo(path: Path, darkest: int, **save: Any) -> Path:
    """A JPEG of noise, 50 gray levels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(darkest).integers(darkest, darkest + 50, (144, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95, **save)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """Three photos by their expected ids; the first has EXIF."""
    exif = Image.Exif()
    exif[0x0110] = "iPhone 11"  # Model
    folder = tmp_path / "photos"
    paths = [write_photo(folder / "a.jpg", 0, exif=exif), *(write_photo(folder / f"{n}.jpg", n) for n in (50, 100))]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(paths)}


def document(folder: Path) -> dict[str, Any]:
    [path] = folder.glob("*.json")
    return json.loads(path.read_bytes())


def test_the_orchestrator_turns_photos_into_features(tmp_path: Path, run: Run, photos: dict[str, Path]) -> None:
    done = run(str(EXAMPLES / "orchestrator.py"), "photos")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == [path.name for path in photos.values()]
    assert "Degraded" not in done.stdout
    assert "Features extracted for batch" in done.stderr

    result = document(tmp_path / "data" / "orchestrator")
    for artifact in result["artifacts"]:
        features = artifact.pop("features")
        assert features["status"] == "ok"
        assert features["errors"] == []
        assert list(features["tech"]) == list(METRIC_NAMES)
        assert len({label["label"] for label in features["clip_labels"]}) == 5
        assert all(label["confidence"] > 0 for label in features["clip_labels"])
    assert json.dumps(result) == json.dumps(document(tmp_path / "data" / "batches"))  # as ingest wrote it
    assert [artifact["photo_id"] for artifact in result["artifacts"]] == list(photos)
    assert [artifact["exif"]["camera"] for artifact in result["artifacts"]] == ["Unknown", "Unknown", "iPhone 11"]


def test_the_orchestrator_runs_degraded_if_permitted(tmp_path: Path, run: Run, photos: dict[str, Path]) -> None:
    stopped = run(str(EXAMPLES / "orchestrator.py"), "photos", **NO_WEIGHTS)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].endswith("CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade)")
    assert "Traceback" not in stopped.stderr
    degraded = {**NO_WEIGHTS, "CURATION_FEATURES_ON_MISSING_WEIGHTS": "degrade"}
    done = run(str(EXAMPLES / "orchestrator.py"), "photos", **degraded)
    assert done.returncode == 0, done.stderr
    assert "Degraded: no model weights for clip_iqa, image_embedding;" in done.stdout
    name, *scores, label = done.stdout.splitlines()[1].split()
    assert name == next(iter(photos.values())).name
    assert [score == "-" for score in scores] == [metric == "clip_iqa" for metric in METRIC_NAMES]
    assert label == "-"


def shape(value: Any) -> Any:
    """Return names, order and types, without values."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def test_the_service_takes_both_inputs_of_the_specification(
    tmp_path: Path, small_models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output has the names, order and types of the specification's example."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    for name, value in small_models.items():
        monkeypatch.setenv(name, value)
    preprocessed, ingested = json.loads(EXAMPLE), json.loads(EXAMPLE)
    [artifact] = preprocessed["artifacts"]
    ingested["artifacts"] = [{name: artifact[name] for name in INGEST_FIELDS}]
    write_photo(tmp_path / artifact["std_uri"], darkest=10)
    write_photo(tmp_path / artifact["ranking_uri"], darkest=100)
    services = importlib.import_module("orchestrator").RealServices()
    results = [services.process_features_service(input_data=batch) for batch in (preprocessed, ingested)]
    features = [result["artifacts"][0].pop("features") for result in results]
    assert json.dumps(results) == json.dumps([preprocessed, ingested])
    for found in features:
        assert found["status"] == "ok"
        assert shape({name: found[name] for name in OUTPUT_FEATURES}) == shape(OUTPUT_FEATURES)
        assert {label["label"] for label in found["clip_labels"]} <= set(load_vocabulary(load_settings()).labels)
        assert all(0 <= value <= 1 for value in found["tech"].values())
    standardised, ranking = (found["tech"]["exposure"] for found in features)
    assert standardised < 0.5 < ranking  # a dark image and a bright one


def test_one_image(run: Run, photos: dict[str, Path]) -> None:
    done = run(str(EXAMPLES / "one_image.py"), "photos/50.jpg", **NO_WEIGHTS)
    assert done.returncode == 0, done.stderr
    scores = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert [name for name, score in scores.items() if score == "-"] == ["clip_iqa"]
    assert all(0 <= float(score) <= 1 for name, score in scores.items() if name != "clip_iqa")
    assert run(str(EXAMPLES / "one_image.py"), "photos/none.jpg").stderr.startswith("error: ")


def test_a_folder_to_pandas(tmp_path: Path, run: Run, photos: dict[str, Path]) -> None:
    (tmp_path / "photos" / "damaged.jpg").write_bytes(b"no photo")
    for radius in (2.5, 0, 1):
        Image.fromarray(blurred(bundled.coffee(), radius) if radius else bundled.coffee()).save(
            tmp_path / "photos" / f"coffee-{radius}.png"
        )
    done = run(str(EXAMPLES / "folder_to_pandas.py"), "photos", **NO_WEIGHTS)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows[:3]] == ["coffee-0.png", "coffee-1.png", "coffee-2.5.png"]  # the sharpest first
    assert [row[-1] == "blurred" for row in rows[:3]] == [False, True, True]
    assert sorted(row[0] for row in rows[3:]) == [path.name for path in sorted(photos.values())]  # noise has no edges
    assert "skipped" in done.stderr
    assert "damaged.jpg" in done.stderr


def test_a_custom_metric(tmp_path: Path, run: Run) -> None:
    for name, colour in (("gray", (90, 90, 90)), ("red", (255, 0, 0))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    done = run(str(EXAMPLES / "custom_metric.py"), "gray.png", "red.png")
    assert done.returncode == 0, done.stderr
    # Red alone has no variance: M = 0.3 sqrt(255^2 + 127.5^2).
    assert [line.split() for line in done.stdout.splitlines()] == [["0.0", "gray.png"], ["85.5", "red.png"]]


def test_every_example_is_listed_and_tested() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(re.findall(r"examples/(\w+\.py)", (EXAMPLES.parent / "README.md").read_text()))
    elsewhere = {"cluster_jobs.py"}  # tests/orchestration/test_cluster_jobs.py
    assert all(f'"{name}"' in Path(__file__).read_text() for name in names - elsewhere)
