"""The examples, run as their reader would run them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation_features.schema import METRIC_NAMES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Run = Callable[..., subprocess.CompletedProcess[str]]

# The input "from preprocess" of the specification, unchanged.
PREPROCESSED = """
{
  "batch_id": "batch_20251017_105804",
  "artifacts": [
    {
      "photo_id": "48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541",
      "original_uri": "./data/input/992DDF60-302C-4AB3-A794-EE9D0DDC56AA.jpg",
      "ranking_uri": "./data/rankingInput/48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541.jpg",
      "std_uri": "./data/rankingInput/48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541_1024.jpg",
      "exif": {
        "camera": "Apple iPhone 11 Pro Max",
        "lens": "Unknown",
        "iso": 64,
        "aperture": "f/1.8",
        "shutter_speed": "1/60",
        "focal_length": "4mm",
        "datetime": "2024:12:25 11:25:57",
        "gps": null
      },
      "format": ".jpg",
      "processing_metadata": {
        "original_size": [3840, 2160],
        "standardized_size": [2048, 1152],
        "processing_method": "quality_preserved"
      }
    }
  ]
}
"""
# The fields of the input "from ingest".
INGEST_FIELDS = ("exif", "format", "original_uri", "ranking_uri", "photo_id")


@pytest.fixture
def run(tmp_path: Path, small_models: dict[str, str]) -> Run:
    """Run Python in an empty project folder, with the small models unless `environment` says otherwise."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join(map(str, (EXAMPLES, EXAMPLES.parent)))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CURATION_FEATURES_")}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**inherited, **small_models, "PYTHONPATH": paths, **environment},
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
    """Three photos by the id that each must get, the first of them with EXIF."""
    exif = Image.Exif()
    exif[0x0110] = "iPhone 11"  # Model
    folder = tmp_path / "photos"
    paths = [write_photo(folder / "a.jpg", 0, exif=exif), *(write_photo(folder / f"{n}.jpg", n) for n in (50, 100))]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(paths)}


def document(folder: Path) -> dict[str, Any]:
    [path] = folder.glob("*.json")
    return json.loads(path.read_bytes())


def test_the_orchestrator_takes_photos_to_features(tmp_path: Path, run: Run, photos: dict[str, Path]) -> None:
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
    assert json.dumps(result) == json.dumps(document(tmp_path / "data" / "batches"))  # as ingest had written it
    assert [artifact["photo_id"] for artifact in result["artifacts"]] == list(photos)
    assert [artifact["exif"]["camera"] for artifact in result["artifacts"]] == ["Unknown", "Unknown", "iPhone 11"]


def test_the_orchestrator_continues_without_weights(tmp_path: Path, run: Run, photos: dict[str, Path]) -> None:
    missing = {
        "CURATION_FEATURES_MODEL": "local-dir:nowhere",
        "CURATION_FEATURES_CLIP_IQA_WEIGHTS": "nowhere/RN50.pt",
    }
    stopped = run(str(EXAMPLES / "orchestrator.py"), "photos", **missing)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].endswith("CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade)")
    assert "Traceback" not in stopped.stderr
    missing["CURATION_FEATURES_ON_MISSING_WEIGHTS"] = "degrade"
    done = run(str(EXAMPLES / "orchestrator.py"), "photos", **missing)
    assert done.returncode == 0, done.stderr
    assert "Degraded: no model weights for clip_iqa, image_embedding;" in done.stdout
    name, *scores, label = done.stdout.splitlines()[1].split()
    assert name == next(iter(photos.values())).name
    assert [score == "-" for score in scores] == [metric == "clip_iqa" for metric in METRIC_NAMES]
    assert label == "-"


def test_the_service_takes_both_input_forms(tmp_path: Path, run: Run) -> None:
    preprocessed, ingested = json.loads(PREPROCESSED), json.loads(PREPROCESSED)
    [artifact] = preprocessed["artifacts"]
    ingested["artifacts"] = [{name: artifact[name] for name in INGEST_FIELDS}]
    write_photo(tmp_path / artifact["std_uri"], darkest=10)
    write_photo(tmp_path / artifact["ranking_uri"], darkest=100)
    (tmp_path / "inputs.json").write_text(json.dumps([preprocessed, ingested]))
    code = (
        "import json; from orchestrator import RealServices; services = RealServices()\n"
        "inputs = json.load(open('inputs.json'))\n"
        "print(json.dumps([services.process_features_service(input_data=batch) for batch in inputs]))"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    features = [result["artifacts"][0].pop("features") for result in results]
    assert json.dumps(results) == json.dumps([preprocessed, ingested])
    assert [found["status"] for found in features] == ["ok", "ok"]
    standardised, ranking = (found["tech"]["exposure"] for found in features)
    assert standardised < 0.5 < ranking  # each form names the image that is measured: a dark one, and one that is not
