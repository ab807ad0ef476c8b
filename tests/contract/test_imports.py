"""Imports are cheap: a heavy library is loaded on first use, not before."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys

import pytest

import curation_features

HEAVY = {"cv2", "dagster", "open_clip", "pandas", "piq", "pyarrow", "skimage", "torch", "torchvision"}
MODELS = {"open_clip", "piq", "skimage", "torch", "torchvision"}

PUBLIC_NAMES = [
    "CLIPClassifier",
    "CurationError",
    "FeaturesService",
    "InvalidWeightsError",
    "ManifestError",
    "MissingWeightsError",
    "PhotoError",
    "ResourceError",
    "Settings",
    "SettingsError",
    "StoreError",
    "TechnicalQualityAnalyzer",
    "WeightsError",
    "__version__",
    "load",
    "load_settings",
    "read_features",
]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter loads for `statement`."""
    run = subprocess.run([sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True)
    timed = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    assert run.returncode == 0, "\n".join(line for line in run.stderr.splitlines() if line not in timed)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in timed}


def test_the_measurement_sees_a_heavy_import() -> None:
    assert "cv2" in loaded_by("import cv2")


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import curation_features") & HEAVY == set()


def test_the_public_names_load_neither_dagster_nor_a_model_library() -> None:
    loaded = loaded_by(f"from curation_features import {', '.join(PUBLIC_NAMES)}")
    assert loaded & (MODELS | {"dagster", "pandas"}) == set()


@pytest.mark.parametrize("module", ["definitions", "pipeline", "service"])
def test_orchestration_and_service_load_no_model_library(module: str) -> None:
    assert loaded_by(f"import curation_features.{module}") & MODELS == set()


def test_the_command_line_starts_without_dagster_or_a_model_library() -> None:
    loaded = loaded_by("import curation_features.cli")
    assert "curation_features" in loaded
    assert loaded & (MODELS | {"dagster", "pandas"}) == set()


def test_the_public_names() -> None:
    assert curation_features.__all__ == sorted(PUBLIC_NAMES)
    assert dir(curation_features) == sorted(PUBLIC_NAMES)


def test_what_public_functions_say_they_raise_is_public() -> None:
    documented_errors = set()
    for name in PUBLIC_NAMES:
        public = getattr(curation_features, name)
        methods = [method for key, method in vars(public).items() if key[0] != "_"] if isinstance(public, type) else []
        for documented in (public, *methods):
            documented_errors |= set(re.findall(r"\b([A-Z]\w*Error)\b", getattr(documented, "__doc__", None) or ""))
    assert {"PhotoError", "StoreError", "ResourceError"} <= documented_errors
    assert documented_errors - set(PUBLIC_NAMES) - set(dir(builtins)) == set()


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(curation_features, name)


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'nonsense'"):
        curation_features.nonsense  # noqa: B018
