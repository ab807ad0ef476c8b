"""Public names, and the cost of imports: heavy libraries load on first use."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from projects import project_at

import curation_features
from curation_features import engines, errors, testing

MODELS = {"open_clip", "piq", "skimage", "torch", "torchvision"}
DECODERS = {"cv2", "simplejpeg"}
CACHED = MODELS | DECODERS | {"fsspec", "pandas", "requests"}
"""Not needed by a run whose photos are all cached."""
HEAVY = CACHED | {"PIL", "dagster", "numpy", "pyarrow"}
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
        ("import curation_features.testing", HEAVY - {"numpy"}),
        ("import curation_features.cli", MODELS | {"dagster", "pandas"}),
        ("import curation_features.orchestration.backfill", HEAVY),
        pytest.param(PUBLIC_NAMES, MODELS | {"dagster", "pandas"}, marks=pytest.mark.long, id="public names"),
        *(
            pytest.param(f"import curation_features.{module}", CACHED, marks=pytest.mark.long)
            for module in ("definitions", "pipeline", "service")
        ),
    ],
)
def test_an_import_loads_no_unneeded_library(statement: str, unwanted: set[str]) -> None:
    loaded = loaded_by(statement)
    assert "curation_features" in loaded
    assert loaded & unwanted == set()


COMMAND = """
import sys
from curation_features.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as error:  # of --help
    code = error.code
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
sys.exit(code)
"""
WITH_FAKES = """
from curation_features.pipeline import Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel
fakes = (FakeClipEngine(), FakeQualityModel(), FakeBrisque())
Models.from_settings = lambda *_: Models(*(LazyModel.ready(fake, type(fake).__name__) for fake in fakes))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose batch `trip` is finished and cached with its thumbnails, by the same fakes as in `WITH_FAKES`."""
    root = tmp_path_factory.mktemp("finished")
    (root / "photos").mkdir()
    Image.effect_noise((96, 64), 40).save(root / "photos" / "one.png")
    with project_at(root) as project:
        assert project.command("ingest", str(root / "photos"), "--batch-id", "trip") == 0, project.terminal.getvalue()
        assert project.command("materialize", "trip") == 0, project.terminal.getvalue()
    return root


def modules_of(code: str, root: Path, *arguments: str) -> tuple[set[str], str]:
    """Top-level modules that a command has loaded at its end, and its standard output."""
    command = [sys.executable, "-c", code, "--root", str(root), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines()[-1].split()), run.stdout


@pytest.mark.parametrize("command", ["--help", "config show", "models list", "process --help"])
def test_a_small_command_loads_nothing_heavy(command: str, tmp_path: Path) -> None:
    assert modules_of(COMMAND, tmp_path, *command.split())[0] & HEAVY == set()


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("process trip", {"numpy", "pyarrow"}),
        ("process trip --output again.json", {"numpy"}),
        ("report trip", {"numpy", "pyarrow"}),
        ("batches list", {"numpy", "pyarrow"}),
        ("flags list trip", {"numpy", "pyarrow"}),
        ("gather all --embeddings --distinct", {"numpy", "pyarrow"}),
        ("materialize trip", {"dagster", "fsspec", "numpy", "pyarrow"}),
    ],
)
def test_a_command_on_cached_photos_loads_no_decoder(command: str, needed: set[str], finished: Path) -> None:
    loaded, output = modules_of(WITH_FAKES + COMMAND, finished, *command.split(), "--json")
    assert json.loads(output).get("cached", 1) == 1
    assert loaded & HEAVY == needed


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
    public = {
        "curation_features": set(curation_features.__all__),
        "curation_features.engines": set(engines.__all__),
        "curation_features.engines.batch_work": {"batch_work"},
        "curation_features.engines.shard_files": {"read_shards"},
        "curation_features.testing": set(vars(testing)),
    }
    paths = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/*.py")]
    shown = [(path.name, module, name) for path in paths for module, name in imports_in(path)]
    assert len({name for *_, name in shown}) > 10
    assert [item for item in shown if item[2] not in public.get(item[1], ())] == []
