"""`World`: a project folder with fake models that count their calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curation_features.manifest import Batch, batch_from
from curation_features.pipeline import FeatureStages, Models
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel


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

    def run(
        self, batch: Mapping[str, Any], settings: Settings | None = None, **models: LazyModel[Any]
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Process a batch in new stages; the features of its artifacts, and the work, as `done_by` counts it."""
        result: dict[str, Any] = {}
        service = FeaturesService(stages=self.stages(settings, **models))
        done = self.done_by(lambda: result.update(service.process(batch)))
        return [artifact["features"] for artifact in result["artifacts"]], done

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
