"""Measure photos per second from JPEG files to labels and all scores, on the CPU or with `--device cuda`.

Three ways over the same photos, with loaded models of the real sizes (ViT-L/14 and RN50, random weights). *Bare* is the
forward passes of both models on ready tensors, at the batch size that is best here: on a GPU with ViT-L/14 in fp16; on
a CPU with the linear layers of `F.linear` (MKL in torch's wheels), by oneDNN with packed weights, and in bf16 if the
processor computes in it. *Ours* is the pixel pass with labels and an empty cache, in each precision. *Straightforward*
is a script that follows the README examples of open_clip, piq and scikit-image, one photo at a time. Rounds are
interleaved. The limit is the fastest of the bare passes in fp32; for ours in bf16 it is the bare passes in bf16.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from checkpoints import write_brisque, write_checkpoints, write_rn50
from cpu_metrics import straightforward, straightforward_decode
from measure import Report, arguments, elapsed, interleaved, median_ratio
from packed import can_pack, pack
from photos import write_photos
from PIL import Image
from processor import this_processor

from curation_features import Settings
from curation_features.errors import SettingsError
from curation_features.manifest import batch_from
from curation_features.pipeline import FeatureStages, Models
from curation_features.pipeline.plan import ALL_PARTS
from curation_features.pipeline.stats import RunStats
from curation_features.schema import CPU_METRICS
from curation_features.storage.cache import FeatureCache

BATCH_SIZES = {"cpu": (1, 2, 4), "cuda": (16, 64, 128, 256), "mps": (8, 16, 32, 64)}


class Project:
    """A project with photos, full-size checkpoints and few labels."""

    def __init__(self, root: Path, photos: int, device: str) -> None:
        self.root = root
        self.paths = write_photos(root / "photos", photos)
        folder = write_checkpoints(root, "ViT-L-14")["safetensors"]
        shutil.rmtree(root / "torch.save")
        cache = root / ".cache" / "clip"  # piq reads its archive and its tokens from here
        cache.mkdir(parents=True)
        rn50 = write_rn50(cache)
        torch.save(open_clip.SimpleTokenizer()(["Good photo.", "Bad photo."]), cache / "clipiqa_tokens.pt")
        (root / "config").mkdir()
        (root / "config" / "templates.json").write_text('{"templates": ["a photo of {}"]}')
        self.settings = Settings(
            root=root,
            model=f"local-dir:{folder}",
            clip_iqa_weights=str(rn50),
            device=device,
        )
        artifacts = [{"photo_id": path.stem, "original_uri": str(path)} for path in self.paths]
        self.batch = batch_from({"batch_id": "benchmark", "artifacts": artifacts})

    def ours(self, **changes: Any) -> Ours:
        """Return our way with changed settings."""
        return Ours(self, self.settings.replace(**changes))


class Ours:
    """Our way: the stages of a run, each with an empty cache and the models of the first."""

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
        """Return the label embeddings, computed once."""
        cache = FeatureCache(self._project.root / "caches" / f"{id(self)}-labels")
        stages = FeatureStages(self._settings, models=self._models, cache=cache)
        stages.ensure_label_embeddings(stages.plan(ALL_PARTS))
        return cache.label_embeddings

    def top(self, count: int) -> list[list[str]]:
        """Return the best labels of each photo."""
        return [[score.label for score in record.prediction.labels[:count]] for record in self.records]

    def vectors(self) -> np.ndarray:
        """Return the image embeddings (N, D)."""
        return np.stack([record.embedding.vector for record in self.records])


class Straightforward:
    """A script after the README examples; on a GPU, which is much faster, over fewer photos."""

    def __init__(self, project: Project, device: str) -> None:
        import piq

        os.environ["HOME"] = str(project.root)
        self._device = device
        self.paths = project.paths[:32]
        self.vectors: list[np.ndarray] = []
        model, self._preprocess = open_clip.create_model_from_pretrained(project.settings.model, device=device)
        self._model = model.eval()
        self._clip_iqa = piq.CLIPIQA(data_range=1.0).to(device)
        with torch.no_grad():
            self._texts = model.encode_text(open_clip.tokenize(["a photo of a cat", "a photo of a dog"]).to(device))
        hub = project.root / "torch" / "hub" / "checkpoints"
        hub.mkdir(parents=True)
        write_brisque(hub)
        os.environ["TORCH_HOME"] = str(project.root / "torch")

    @torch.no_grad()
    def __call__(self) -> None:
        """Measure and label the photos."""
        self.vectors = []
        for path in self.paths:
            image = self._preprocess(Image.open(path)).unsqueeze(0).to(self._device)
            with torch.autocast(self._device, enabled=self._device != "cpu"):
                features = self._model.encode_image(image, normalize=True)
                (100.0 * features @ self._texts.T).softmax(dim=-1).cpu()
            self.vectors.append(features[0].float().cpu().numpy())
            rgb = straightforward_decode(path)
            straightforward(rgb, CPU_METRICS)
            x = torch.tensor(rgb).to(self._device).permute(2, 0, 1)[None] / 255.0
            x = torch.nn.functional.interpolate(x, size=(336, 336), mode="bicubic", antialias=True)
            self._clip_iqa(x.clamp(0, 1)).cpu()


BareWay = Literal["fp16", "F.linear", "oneDNN", "bf16"]

DTYPES: dict[BareWay, tuple[torch.dtype, torch.dtype]] = {
    "fp16": (torch.float16, torch.float32),
    "F.linear": (torch.float32, torch.float32),
    "oneDNN": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
}
"""Of ViT-L/14 and of RN50."""


def bare_ways(device: str) -> list[BareWay]:
    """Return the ways to run the bare passes on this machine."""
    if device != "cpu":
        return ["fp16"]
    has_bf16 = "bf16" in this_processor().instructions
    return ["F.linear", *(["oneDNN"] if can_pack() else []), *(["bf16"] if has_bf16 else [])]


class Limit:
    """The bare forward passes of both models on ready tensors, at the best batch size; RN50 in channels_last."""

    def __init__(self, project: Project, device: str, photos: int, way: BareWay) -> None:
        import piq

        self._device, self._photos = device, photos
        clip, _ = open_clip.create_model_from_pretrained(project.settings.model)
        vit_type, rn50_type = DTYPES[way]
        vit = clip.visual.eval().requires_grad_(False).to(device, vit_type)
        if way in ("oneDNN", "bf16") and can_pack(vit_type):
            pack(vit)
        rn50 = piq.CLIPIQA(data_range=1.0).feature_extractor.visual.eval().requires_grad_(False)
        rn50 = rn50.to(device, rn50_type).to(memory_format=torch.channels_last)
        self._passes = {
            "ViT-L/14": (vit, torch.empty(0, 3, 224, 224, dtype=vit_type, device=device)),
            "RN50": (partial(rn50, pos_embedding=False), torch.empty(0, 3, 336, 336, dtype=rn50_type, device=device)),
        }
        self.sizes = {name: self._best_size(name) for name in self._passes}

    def __call__(self) -> None:
        """Run the passes of all photos."""
        for name, size in self.sizes.items():
            self._forward(name, self._batch(name, size), -(-self._photos // size))

    def _batch(self, name: str, size: int) -> torch.Tensor:
        _, like = self._passes[name]
        batch = torch.rand_like(like.new_empty(size, *like.shape[1:]))
        is_nchw = name == "ViT-L/14" and self._device == "cpu"
        return batch if is_nchw else batch.contiguous(memory_format=torch.channels_last)

    def _forward(self, name: str, batch: torch.Tensor, times: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                self._passes[name][0](batch)
            if self._device == "cuda":
                torch.cuda.synchronize()

    def _best_size(self, name: str) -> int:
        seconds = {}
        for size in BATCH_SIZES[self._device]:
            batch = self._batch(name, size)
            self._forward(name, batch, 1)
            seconds[size] = min(elapsed(lambda b=batch: self._forward(name, b, 1)) for _ in range(2)) / size
        return min(seconds, key=seconds.__getitem__)


def agreement(exact: Ours, fast: Ours) -> dict[str, float]:
    """Compare labels and embeddings of two precisions: the least cosine, and fractions of equal labels."""
    pairs = [list(zip(exact.top(count), fast.top(count), strict=True)) for count in (1, 5)]
    first, five = ([len({*a} & {*b}) / len(a) for a, b in found] for found in pairs)
    cosines = (exact.vectors() * fast.vectors()).sum(axis=1)
    return {"cosine": float(cosines.min()), "same label": float(np.mean(first)), "of five": float(np.mean(five))}


def difference(ours: Ours, theirs: Straightforward) -> float:
    """Return the largest difference of a component between our unit embeddings and open_clip's."""
    return float(np.abs(ours.vectors()[: len(theirs.vectors)] - np.stack(theirs.vectors)).max())


def ways_of(project: Project, device: str) -> dict[str, Ours]:
    """Return our ways on a device; precisions that it does not support are reported and skipped."""
    ways = {"ours": project.ours()}
    if device == "cpu":
        ways["ours, 4 at once"] = project.ours(batch_size=4)
        for precision in ("bf16", "int8"):
            try:
                ways[f"ours, {precision}"] = project.ours(precision=precision)
            except SettingsError as error:
                print(f"{precision}: not on this processor ({error})")
    return ways


def limit_of(name: str, seconds: Mapping[str, Sequence[float]]) -> Sequence[float]:
    """Return the seconds of the fastest bare passes in the precision of a way."""
    bare = [taken for way, taken in seconds.items() if way.startswith("bare") and "bf16" not in way]
    return seconds["bare, bf16"] if "bf16" in name and "bare, bf16" in seconds else min(bare, key=median)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--device", choices=BATCH_SIZES, default="cpu")
    parser.add_argument("--photos", type=int, help="a multiple of 4 (default: 32 on a CPU, 2048 on a GPU)")
    options = parser.parse_args()
    photos = options.photos or (32 if options.device == "cpu" else 2048)
    with tempfile.TemporaryDirectory() as temporary:
        project = Project(Path(temporary), photos, options.device)
        theirs, ours = Straightforward(project, options.device), ways_of(project, options.device)
        bare = {f"bare, {way}": Limit(project, options.device, photos, way=way) for way in bare_ways(options.device)}
        ways: dict[str, Callable[[], None]] = {**bare, **ours, "straightforward": theirs}
        counts = {name: len(theirs.paths) if way is theirs else photos for name, way in ways.items()}
        rounds = rounds_of(ways, options.rounds).items()
        seconds = {name: [seconds / counts[name] for seconds in taken] for name, taken in rounds}
        agreements = {name: agreement(ours["ours"], way) for name, way in ours.items() if name != "ours"}
        agreements["ours"] = {"differs by": difference(ours["ours"], theirs)}
    sizes = "; ".join(f"{way}: {name} by {size}" for way, limit in bare.items() for name, size in limit.sizes.items())
    report = Report(f"{photos} photos on {options.device}, {options.rounds} rounds; {sizes}")
    for name, taken in seconds.items():
        numbers = {"photos/s": 1 / median(taken), "s per photo": median(taken)}
        ratios = {
            "of the limit": median_ratio(taken, limit_of(name, seconds)),
            "times as fast": median_ratio(seconds["straightforward"], taken),
        }
        if "bare, F.linear" in seconds:
            ratios["of F.linear"] = median_ratio(taken, seconds["bare, F.linear"])
        report.add(name, **numbers, **ratios, **agreements.get(name, {}))
    report.show(options.json)
    for name, way in ours.items():
        show_stages(name, way.summary)


def rounds_of(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time each way in each round, and print a line for each."""
    told = {name: lambda name=name, way=way: tell(name, elapsed(way)) for name, way in ways.items()}
    return interleaved(told, rounds)


def tell(name: str, taken: float) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: {taken:.1f} s", flush=True)


def show_stages(name: str, summary: dict[str, Any]) -> None:
    """Print the seconds of each stage of a run."""
    part = Report(f"{name}, last round: seconds of each stage, which overlap, and of waiting in queues")
    for stage, taken in summary.items():
        if stage.startswith("seconds_"):
            part.add(stage.removeprefix("seconds_"), seconds=taken, **{"of the wall time": taken / summary["seconds"]})
    part.show()


if __name__ == "__main__":
    main()
