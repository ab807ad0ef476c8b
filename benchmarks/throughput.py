"""Photos per second from JPEG files to labels and all five scores, on this machine's CPU.

Three ways over the same photos, with models that are loaded already and have the real sizes (ViT-L/14 and RN50, random
weights): the *limit* is the bare forward passes of both models on ready tensors, at the batch size that is best here;
*ours* is the pixel pass with labels and an empty cache; *straightforward* is a script that follows the README examples
of open_clip, piq and scikit-image, one photo at a time. Rounds are interleaved.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import open_clip
import torch
from checkpoints import write_checkpoints, write_small_ones
from cpu_metrics import straightforward, straightforward_decode
from measure import Report, arguments, elapsed
from photos import write_photos
from PIL import Image

from curation_features import Settings
from curation_features.cache import FeatureCache
from curation_features.manifest import batch_from
from curation_features.schema import CPU_METRICS
from curation_features.stages import FeatureStages, Models
from curation_features.stages.plan import ALL_PARTS
from curation_features.stages.stats import RunStats

BATCH_SIZES = (1, 2, 4)


class Project:
    """A folder with photos, full-size checkpoints and few labels, for what is ours."""

    def __init__(self, root: Path, photos: int) -> None:
        self.root = root
        self.paths = write_photos(root / "photos", photos)
        folder = write_checkpoints(root, "ViT-L-14")["safetensors"]
        shutil.rmtree(root / "torch.save")
        cache = root / ".cache" / "clip"  # piq reads its archive and its tokens here
        cache.mkdir(parents=True)
        rn50, brisque = write_small_ones(cache)
        torch.save(open_clip.SimpleTokenizer()(["Good photo.", "Bad photo."]), cache / "clipiqa_tokens.pt")
        (root / "config").mkdir()
        (root / "config" / "templates.json").write_text('{"templates": ["a photo of {}"]}')
        self.settings = Settings(
            root=root,
            model=f"local-dir:{folder}",
            clip_iqa_weights=str(rn50),
            brisque_weights=str(brisque),
            device="cpu",
        )
        artifacts = [{"photo_id": path.stem, "original_uri": str(path)} for path in self.paths]
        self.batch = batch_from({"batch_id": "benchmark", "artifacts": artifacts})

    def ours(self, **changes: Any) -> Ours:
        """Our way, with some settings changed."""
        return Ours(self, self.settings.replace(**changes))


class Ours:
    """The stages of a run; every run has an empty cache, and the models of the first."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project, self._settings = project, settings
        self._models = Models.from_settings(settings)
        self._runs = itertools.count()
        self.summary: dict[str, Any] = {}
        self.records: list[Any] = []

    def __call__(self) -> None:
        """Measure and label all photos."""
        cache = FeatureCache(self._project.root / "caches" / f"{id(self)}-{next(self._runs)}")
        shutil.copytree(self._labels().parent, cache.label_embeddings.parent, dirs_exist_ok=True)
        stages = FeatureStages(self._settings, models=self._models, cache=cache)
        plan, stats = stages.plan(ALL_PARTS), RunStats()
        self.records = list(stages.label(stages.measure(self._project.batch, plan, stats), plan, stats))
        self.summary = stats.summary()

    def _labels(self) -> Path:
        """The label vectors, which are made once."""
        cache = FeatureCache(self._project.root / "caches" / f"{id(self)}-labels")
        stages = FeatureStages(self._settings, models=self._models, cache=cache)
        stages.ensure_label_embeddings(stages.plan(ALL_PARTS))
        return cache.label_embeddings

    def top(self, count: int) -> list[list[str]]:
        """The best labels of each photo."""
        return [[score.label for score in record.labelling.labels[:count]] for record in self.records]

    def vectors(self) -> np.ndarray:
        """The image vectors (N, D)."""
        return np.stack([record.embedding.vector for record in self.records])


class Straightforward:
    """The script that one writes after the README examples."""

    def __init__(self, project: Project) -> None:
        import piq

        os.environ["HOME"] = str(project.root)
        self._paths = project.paths
        model, self._preprocess = open_clip.create_model_from_pretrained(project.settings.model)
        self._model = model.eval()
        self._clip_iqa = piq.CLIPIQA(data_range=1.0)
        with torch.no_grad():
            self._texts = model.encode_text(open_clip.tokenize(["a photo of a cat", "a photo of a dog"]))
        hub = project.root / "torch" / "hub" / "checkpoints"
        hub.mkdir(parents=True)
        shutil.copy(project.settings.brisque_weights, hub)
        os.environ["TORCH_HOME"] = str(project.root / "torch")

    @torch.no_grad()
    def __call__(self) -> None:
        """Measure and label all photos."""
        for path in self._paths:
            image = self._preprocess(Image.open(path)).unsqueeze(0)
            features = self._model.encode_image(image, normalize=True)
            (100.0 * features @ self._texts.T).softmax(dim=-1)
            rgb = straightforward_decode(path)
            straightforward(rgb, CPU_METRICS)
            x = torch.tensor(rgb).permute(2, 0, 1)[None] / 255.0
            x = torch.nn.functional.interpolate(x, size=(336, 336), mode="bicubic", antialias=True)
            self._clip_iqa(x.clamp(0, 1))

    def limit(self, count: int) -> tuple[Callable[[], None], str]:
        """The bare forward passes of `count` photos, each model at its best batch size."""
        towers = (("ViT-L/14", self._model.encode_image, 224), ("RN50", self._rn50, 336))
        chosen = [(name, tower, side, best_batch_size(tower, side)) for name, tower, side in towers]

        def run() -> None:
            for _, tower, side, size in chosen:
                forward(tower, torch.rand(size, 3, side, side), count // size)

        return run, ", ".join(f"{name} by {size}" for name, _, _, size in chosen)

    def _rn50(self, x: torch.Tensor) -> torch.Tensor:
        return self._clip_iqa.feature_extractor.encode_image(x, pos_embedding=False)


def forward(tower: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, times: int) -> None:
    with torch.inference_mode():
        for _ in range(times):
            tower(batch)


def best_batch_size(tower: Callable[[torch.Tensor], torch.Tensor], side: int) -> int:
    seconds = {}
    for size in BATCH_SIZES:
        batch = torch.rand(size, 3, side, side)
        forward(tower, batch, 1)
        seconds[size] = min(elapsed(lambda batch=batch: forward(tower, batch, 1)) for _ in range(2)) / size
    return min(seconds, key=seconds.__getitem__)


def agreement(exact: Ours, fast: Ours) -> str:
    """How far labels and vectors of two precisions agree."""
    cosines = (exact.vectors() * fast.vectors()).sum(axis=1)
    first = np.mean([a == b for a, b in zip(exact.top(1), fast.top(1), strict=True)])
    five = np.mean([len({*a} & {*b}) / 5 for a, b in zip(exact.top(5), fast.top(5), strict=True)])
    return f"int8 against fp32: cosine {cosines.min():.5f} at least, the first label is the same for {first:.0%}, " + (
        f"of the first five {five:.0%}"
    )


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--photos", type=int, default=32, help="a multiple of 4 (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        project = Project(Path(temporary), options.photos)
        ours, int8, theirs = project.ours(), project.ours(precision="int8"), Straightforward(project)
        limit, sizes = theirs.limit(options.photos)
        ways = {"limit": limit, "ours": ours, "ours, int8": int8, "straightforward": theirs}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                taken = elapsed(ways[name])
                if number:
                    seconds[name].append(taken)
                print(f"{time.strftime('%H:%M:%S')} round {number}: {name} {taken:.1f} s", flush=True)
        found = {name: median(taken) for name, taken in seconds.items()}
        stages = {name: way.summary for name, way in (("ours", ours), ("ours, int8", int8))}
        said = agreement(ours, int8)
    report = Report(f"{options.photos} photos, {options.rounds} rounds; limit: {sizes}\n{said}")
    for name, taken in found.items():
        numbers = {"s per photo": taken / options.photos, "of the limit": taken / found["limit"]}
        report.add(name, **numbers, **{"times as fast": found["straightforward"] / taken})
    report.show(options.json)
    for name, summary in stages.items():
        part = Report(f"{name}, last round: seconds of each stage, which overlap")
        for stage, taken in summary.items():
            if stage.startswith("seconds_"):
                part.add(
                    stage.removeprefix("seconds_"), seconds=taken, **{"of the wall time": taken / summary["seconds"]}
                )
        part.show()


if __name__ == "__main__":
    main()
