"""Shared fixtures: where third-party reference data lies, and a small project to run things in."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from worlds import World

from curation_features.photos.processes.isolation import Decoder
from curation_features.settings import Settings

pytest_plugins = ["checkpoints", "databases", "hubs", "libraries", "s3_servers", "webhooks"]

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples each time, and as long as a busy machine takes for them: no run fails by chance.
hypothesis.settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Set a separate folder for weights, for this process and its children, and the path of the children.

    A `make` that a test starts must not act as a child of the `make` that runs the tests: its output would differ.
    """
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        os.environ.pop(name, None)
    paths = [str(REPOSITORY / "tests" / "impatient"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    folder = tempfile.TemporaryDirectory(prefix="weights-")
    config.add_cleanup(folder.cleanup)
    os.environ["HF_HOME"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker of `--dist worksteal` begin with its share of the slow tests: they mostly wait, and end last."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    share = -(-len(quick) // workers)  # they are dealt out in equal parts, in this order
    items[:] = [
        item
        for worker in range(workers)
        for item in (*slow[worker::workers], *quick[worker * share : (worker + 1) * share])
    ]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt everything that is imported now from garbage collection, which takes a tenth of the imports' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party photos, damaged files and recorded embeddings; tests that need it skip without it."""
    folder = Path(os.environ.get("CURATION_FEATURES_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no reference data: set CURATION_FEATURES_SHARED_DATA to its folder")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Default settings in an empty project folder."""
    return Settings(root=tmp_path)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project in an empty folder. Decoding is the real one, and counted."""
    found = World(tmp_path)

    decode = Decoder.decode

    def counted(decoder, file):
        found.decoded.append(file.sha256)
        return decode(decoder, file)

    monkeypatch.setattr(Decoder, "decode", counted)
    return found
