"""Shared fixtures: where third-party reference data lies, and a small project to run things in."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from curation_features.manifest import Batch, batch_from
from curation_features.photos.decode import decode
from curation_features.pipeline import FeatureStages, Models, preparation
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel

pytest_plugins = ["checkpoints", "hubs", "libraries", "webhooks"]

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples each time, and as long as a busy machine takes for them: no run fails by chance.
hypothesis.settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Set a separate folder for weights, for this process and its children.

    A `make` that a test starts must not act as a child of the `make` that runs the tests: its output would differ.
    """
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        os.environ.pop(name, None)
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


@dataclass
class World:
    """A project folder with fake models that count their calls."""

    root: Path
    clip: FakeClipEngine = field(default_factory=FakeClipEngine)
    clip_iqa: FakeQualityModel = field(default_factory=FakeQualityModel)
    brisque: FakeBrisque = field(default_factory=FakeBrisque)
    decoded: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(root=self.root, device="cpu")

    def models(self, **replaced: LazyModel[Any]) -> Models:
        ready = {
            "clip": LazyModel.ready(self.clip, "fake-clip"),
            "clip_iqa": LazyModel.ready(self.clip_iqa, "fake-clip-iqa"),
            "brisque": LazyModel.ready(self.brisque, "fake-brisque"),
        }
        return Models(**{**ready, **replaced})

    def stages(self, settings: Settings | None = None, **models: LazyModel[Any]) -> FeatureStages:
        """New stages, as a new process would make them, over the same folder and models."""
        settings = settings or self.settings
        return FeatureStages(settings, models=self.models(**models), cache=FeatureCache(settings.cache_path))

    def photo(self, name: str, seed: int = 0, size: tuple[int, int] = (96, 64)) -> dict[str, Any]:
        """Write a photo of faint noise, and give its artifact."""
        path = self.root / "photos" / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(100, 130, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"photo_id": digest, "original_uri": f"./photos/{name}", "exif": {"iso": 64}, "format": path.suffix}

    def batch(self, artifacts: Sequence[dict[str, Any]], batch_id: str = "batch_1") -> Batch:
        return batch_from({"batch_id": batch_id, "artifacts": list(artifacts)})

    def counts(self) -> dict[str, int]:
        """Count photos decoded, and images and texts that each model has seen."""
        return {
            "decoded": len(self.decoded),
            "clip_images": self.clip.images_encoded,
            "clip_texts": self.clip.texts_encoded,
            "clip_iqa": self.clip_iqa.images_scored,
            "brisque": self.brisque.images_scored,
        }

    def done_by(self, action: Callable[[], Any]) -> dict[str, int]:
        """Count the work of an action, as `counts` does; zeros are left out."""
        before = self.counts()
        action()
        return {name: count - before[name] for name, count in self.counts().items() if count != before[name]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project in an empty folder. Decoding is the real one, and counted."""
    found = World(tmp_path)

    def counted(file, **limits):
        found.decoded.append(file.sha256)
        return decode(file, **limits)

    monkeypatch.setattr(preparation, "decode", counted)
    return found
