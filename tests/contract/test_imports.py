"""Public names, and the cost of imports: heavy libraries load on first use."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

import curation_features
from curation_features import errors, testing

HEAVY = {"cv2", "dagster", "open_clip", "pandas", "piq", "pyarrow", "skimage", "torch", "torchvision"}
MODELS = {"open_clip", "piq", "skimage", "torch", "torchvision"}
PUBLIC_NAMES = f"from curation_features import {', '.join(curation_features.__all__)}"

REPOSITORY = Path(__file__).resolve().parents[2]
IMPORT = re.compile(r"^ *from (curation_features[\w.]*) import (\w+(?:, \w+)*)", re.MULTILINE)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter loads for `statement`."""
    run = subprocess.run([sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True)
    timed = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    assert run.returncode == 0, "\n".join(line for line in run.stderr.splitlines() if line not in timed)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in timed}


def test_the_measurement_sees_a_heavy_import() -> None:
    assert "cv2" in loaded_by("import cv2")


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import curation_features", HEAVY),
        ("import curation_features.cli", MODELS | {"dagster", "pandas"}),
        ("import curation_features.orchestration.backfill", HEAVY),
        pytest.param(PUBLIC_NAMES, MODELS | {"dagster", "pandas"}, marks=pytest.mark.long, id="public names"),
        *(
            pytest.param(f"import curation_features.{module}", MODELS, marks=pytest.mark.long)
            for module in ("definitions", "pipeline", "service", "testing")
        ),
    ],
)
def test_an_import_loads_no_unneeded_library(statement: str, unwanted: set[str]) -> None:
    loaded = loaded_by(statement)
    assert "curation_features" in loaded
    assert loaded & unwanted == set()


@pytest.mark.parametrize("name", curation_features.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(curation_features, name) is not None
    assert name in dir(curation_features)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nonsense'"):
        curation_features.nonsense  # noqa: B018


def test_every_exception_is_public() -> None:
    exceptions = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert len(exceptions) > 10
    assert exceptions <= set(curation_features.__all__)


def test_documented_exceptions_are_public() -> None:
    documented = set()
    for name in curation_features.__all__:
        public = getattr(curation_features, name)
        methods = [method for key, method in vars(public).items() if key[0] != "_"] if isinstance(public, type) else []
        for code in (public, *methods):
            documented |= set(re.findall(r"\b([A-Z]\w*Error)\b", getattr(code, "__doc__", None) or ""))
    assert {"PhotoError", "StoreError", "ResourceError"} <= documented
    assert documented - set(curation_features.__all__) - set(dir(builtins)) == set()


def imports_in(path: Path) -> list[tuple[str, str]]:
    """Module and name of each import from this package in a file."""
    text = path.read_text().replace("`", "\n").replace('"', "\n")
    text = re.sub(r"\((?:\s+\w+,)+\s+\)", lambda names: ", ".join(re.findall(r"\w+", names[0])), text)
    return [(module, name) for module, names in IMPORT.findall(text) for name in names.split(", ")]


def test_imports_in_documents_and_examples_are_public() -> None:
    public = {"curation_features": set(curation_features.__all__), "curation_features.testing": set(vars(testing))}
    paths = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/*.py")]
    shown = [(path.name, module, name) for path in paths for module, name in imports_in(path)]
    assert len({name for *_, name in shown}) > 10
    assert [item for item in shown if item[2] not in public.get(item[1], ())] == []
