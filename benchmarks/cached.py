"""Measure a cached batch: photos from the cache, new labels from stored embeddings, and memory.

The models are the fakes of `curation_features.testing`, so this runs anywhere: "first run" is reading, decoding and the
CPU metrics other than BRISQUE, without the time of a real model.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import Report, arguments, elapsed, medians, process_peak_mib
from photos import write_photos

from curation_features import CLIPClassifier, FeaturesService, Settings
from curation_features.pipeline import FeatureStages, Models
from curation_features.storage.cache import FeatureCache
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel

DIMENSION = 768
PEAK_COUNTS = (200, 2000)


def service(settings: Settings) -> FeaturesService:
    """Return a service as a new process would create it."""
    return FeaturesService(stages=stages(settings))


def stages(settings: Settings) -> FeatureStages:
    """Return the stages with stand-in models."""
    models = Models(
        clip=LazyModel.ready(FakeClipEngine(DIMENSION), "fake-clip"),
        clip_iqa=LazyModel.ready(FakeQualityModel(), "fake-clip-iqa"),
        brisque=LazyModel.ready(FakeBrisque(), "fake-brisque"),
    )
    return FeatureStages(settings, models=models)


def batch_of(paths: Sequence[Path]) -> dict[str, Any]:
    return {
        "batch_id": "benchmark",
        "artifacts": [{"photo_id": str(number), "original_uri": str(path)} for number, path in enumerate(paths)],
    }


def peak_mib(folder: str, data_dir: str, paths: Sequence[Path]) -> float:
    """Peak memory (MiB) of a first and a second run; call it in a new process."""
    settings = Settings(root=Path(folder), data_dir=data_dir, device="cpu", workers=1)
    for _ in range(2):
        service(settings).process(batch_of(paths))
    return process_peak_mib()


def report_peaks(report: Report, folder: str, paths: Sequence[Path], rounds: int) -> None:
    """Report peak memory. Files repeat under different ids, so that every photo is computed and cached separately."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for photos in PEAK_COUNTS:
            chosen = list(islice(cycle(paths), photos))
            peaks = [pool.apply(peak_mib, (folder, f"peak-{photos}-{n}", chosen)) for n in range(rounds)]
            report.add(f"peak memory, {photos:,} photos, both runs", MiB=median(peaks))


def report_runs(report: Report, folder: str, paths: Sequence[Path], rounds: int) -> None:
    """Report the runs, which alternate: each finds the cache as the others left it."""
    settings = Settings(root=Path(folder), device="cpu", workers=1)
    cache, batch, scales = FeatureCache(settings.cache_path), batch_of(paths), count(50)

    def first() -> None:
        cache.clear()
        service(settings).process(batch)

    def second() -> None:
        service(settings).process(batch)

    def relabelled() -> None:  # labels depend on the scale: a new one makes all of them stale
        service(settings.replace(temperature=float(next(scales)))).process(batch)

    for run in (first, second, relabelled):
        run()  # a warm-up
    runs = {"first run": first, "second run": second, "run with new labels": relabelled}
    found = [{name: elapsed(run) for name, run in runs.items()} for _ in range(rounds)]
    for name in runs:
        report.add(f"{name}, one worker", **rates(len(paths), median(seconds[name] for seconds in found)))


def rates(photos: int, seconds: float) -> dict[str, float]:
    return {"photos/s": photos / seconds, "ms/photo": 1000 * seconds / photos}


def report_labels(report: Report, folder: str, photos: int, rounds: int) -> None:
    """Report labelling; on one core only if the process has `OPENBLAS_NUM_THREADS=1`, which NumPy reads at import."""
    import torch  # not at the top: a process that only reads the cache does not need it

    torch.set_num_threads(1)
    classifier = CLIPClassifier(
        Settings(root=Path(folder)), engine=LazyModel.ready(FakeClipEngine(DIMENSION), "fake-clip")
    )
    vectors = np.random.default_rng(0).standard_normal((photos, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels, known = classifier.vocabulary.labels, classifier.label_embeddings()
    ways = {
        "ours": lambda: classifier.label(vectors),
        "readme": lambda: label_as_in_readme(vectors, known.vectors, labels, known.logit_scale),
    }
    found = medians(ways, rounds)
    report.add(f"new labels from vectors ({len(labels)} labels)", **rates(photos, found["ours"]))
    report.add("the same as in CLIP's README, five labels only", **rates(photos, found["readme"]))


def label_as_in_readme(
    vectors: np.ndarray, label_vectors: np.ndarray, labels: Sequence[str], scale: float
) -> list[list[dict[str, Any]]]:
    """Predict as the READMEs of CLIP and open_clip show: in float32, without the other cosines."""
    import torch

    cosines = torch.from_numpy(vectors) @ torch.from_numpy(label_vectors).T
    values, indices = (scale * cosines).softmax(dim=-1).topk(5)
    return [
        [
            {"label": labels[at], "confidence": confidence, "cosine_score": row[at]}
            for at, confidence in zip(places, confidences, strict=True)
        ]
        for row, places, confidences in zip(cosines.tolist(), indices.tolist(), values.tolist(), strict=True)
    ]


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--no-memory", action="store_true", help="leave out the runs that measure peak memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder) / "photos", options.photos)
        report = Report(f"Cached work ({options.photos:,} photos of 1024 px, {options.rounds} rounds, stand-in models)")
        report_runs(report, folder, paths, options.rounds)
        report_labels(report, folder, options.photos, 3 * options.rounds)
        if not options.no_memory:
            report_peaks(report, folder, paths, options.rounds)
        report.show(options.json)


if __name__ == "__main__":
    main()
