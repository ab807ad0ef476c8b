"""The parts of `gpu.py`, each in a separate process: `python benchmarks/gpu_parts.py PART FOLDER`.

The folder has `options.json`. A figure is printed as one line of JSON as soon as it is measured; `gpu.py` reads them.
A figure that fails, or for which no time is left, becomes a line with the reason, and the next one follows.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import measure
from checkpoints import write_brisque, write_checkpoints, write_rn50

PREPARED = "prepared.json"
BARE = "bare.json"


class Part:
    """Options, prepared files and printed figures of one part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
        self.device: str = options["device"]
        self.photos: int = options["photos"]
        self.threads: list[int] = options["threads"]
        self.batch_sizes: list[int] = options["batch_sizes"]
        self.seconds: float = options["seconds"]
        self.models: dict[str, str] = options["models"]
        self.ends: float = time.time() + options["limit"]

    def show(self, name: str, **figures: Any) -> None:
        """Print a figure at once."""
        print(json.dumps({"name": name, **figures}), flush=True)

    def measure(self, name: str, action: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Print the figures that an action returns, or why there are none."""
        if time.time() > self.ends - self.seconds:
            self.show(name, error="no time left")
            return {}
        try:
            figures = dict(action())
        except Exception as error:
            self.show(name, error=f"{type(error).__name__}: {error}"[:500])
            return {}
        self.show(name, **figures)
        return figures

    def settings(self, **changes: Any) -> Any:
        """Settings with the prepared models."""
        from curation_features import Settings

        known = json.loads((self.folder / PREPARED).read_text(encoding="utf-8"))
        return Settings(root=self.folder, device=self.device, **known["settings"]).replace(**changes)

    def paths(self) -> list[Path]:
        """The prepared photos."""
        return sorted((self.folder / "photos").glob("*.jpg"))

    def rate(self, action: Callable[[], int]) -> dict[str, float]:
        """Repeat an action, which returns its number of photos, for `seconds`.

        Returns:
            Photos per second of wall time, and CPU milliseconds per photo of this process and of its children.
        """
        action()  # a warm-up
        self.wait_for_device()
        photos, meter, start = 0, CpuMeter(), time.perf_counter()
        while (taken := time.perf_counter() - start) < self.seconds:
            photos += action()
            self.wait_for_device()
        taken = time.perf_counter() - start
        return {"photos/s": photos / taken, **meter.per_photo(photos)}

    def wait_for_device(self) -> None:
        """Wait until the device has finished its queue."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


class CpuMeter:
    """CPU time of this process and of its children since creation."""

    def __init__(self) -> None:
        self._children = self._children_now()
        self._own = time.process_time()

    def per_photo(self, photos: int) -> dict[str, float]:
        """Milliseconds per photo of this process, and of its children that run or have ended."""
        own = time.process_time() - self._own
        children = self._children_now() - self._children
        return {"own CPU ms": 1000 * own / photos, "children's CPU ms": 1000 * children / photos}

    @staticmethod
    def _children_now() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                fields = status.read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds


def in_threads(work: Callable[[Any], object], items: Sequence[Any], threads: int) -> Callable[[], int]:
    """Return an action that works on all items in threads."""
    pool = ThreadPoolExecutor(threads)
    return lambda: len(list(pool.map(work, items)))


def prepare(part: Part) -> None:
    """Write seeded models of the real size and photos, unless models are named."""
    from photos import draw_photos

    with ThreadPoolExecutor() as pool:
        start = time.perf_counter()
        named = part.models
        kinds = ["safetensors"]
        checkpoint = None if "model" in named else pool.submit(write_checkpoints, part.folder, "ViT-L-14", kinds)
        photos = pool.submit(draw_photos, part.folder / "photos", max(4, min(256, part.photos)))
        rn50 = named.get("clip_iqa_weights") or str(write_rn50(part.folder))
        brisque = named.get("brisque_weights") or str(write_brisque(part.folder))
        model = f"local-dir:{checkpoint.result()['safetensors']}" if checkpoint else named["model"]
        paths = photos.result()
    (part.folder / "config").mkdir(exist_ok=True)
    (part.folder / "config" / "templates.json").write_text('{"templates": ["a photo of {}"]}')
    settings = {"model": model, "clip_iqa_weights": rn50, "brisque_weights": brisque}
    (part.folder / PREPARED).write_text(json.dumps({"settings": settings}))
    sizes = [path.stat().st_size for path in paths]
    taken = time.perf_counter() - start
    part.show("photos and models written", seconds=taken, photos=len(paths), kB=median(sizes) / 1000)


def machine(part: Part) -> None:
    """Print what was measured on."""
    import torch

    part.show("machine", **{**measure.machine(), "node": platform.platform(), "load": os.getloadavg()[0]})
    if part.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        part.show("GPU", device=properties.name, GiB=properties.total_memory / 2**30, cuda=torch.version.cuda)
    if tool := shutil.which("nvidia-smi"):
        query = "driver_version,utilization.gpu,clocks.sm,clocks.mem,pcie.link.gen.current,pcie.link.width.current"
        answer = subprocess.run([tool, f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True)
        part.show("nvidia-smi", **dict(zip(query.split(","), answer.stdout.strip().split(", "), strict=False)))


def host(part: Part) -> None:
    """Measure the stages of the processor, by number of threads."""
    import numpy as np

    from curation_features import TechnicalQualityAnalyzer
    from curation_features.photos.processes.isolation import Decoder
    from curation_features.photos.reader import PhotoReader
    from curation_features.schema import METRIC_NAMES, Embedding, Measurement
    from curation_features.storage.cache import CacheEntry, FeatureCache
    from curation_features.technical.brisque.luma import piq_luma

    settings = part.settings()
    reader, analyzer = PhotoReader(settings), TechnicalQualityAnalyzer(settings)
    decoders = {way: Decoder(settings.replace(isolate_decoders=way == "processes")) for way in ("threads", "processes")}
    files = [reader.read(str(path)) for path in islice(cycle(part.paths()), 8 * max(part.threads))]
    photos = [decoders["threads"].decode(file) for file in islice(files, len(part.paths()))]
    metrics = ("sharpness", "exposure", "noise")

    def whole(path: Path) -> None:
        analyzer.measure_cpu(decoders["processes"].decode(reader.read(str(path))).rgb, metrics)

    paths = list(islice(cycle(part.paths()), len(files)))
    images = [photo.rgb for photo in photos]
    works: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "read and hash": (lambda path: reader.read(str(path)), paths),
        "decode in threads": (decoders["threads"].decode, files),
        "decode in processes": (decoders["processes"].decode, files),
        "sharpness, exposure, noise": (lambda rgb: analyzer.measure_cpu(rgb, metrics), images),
        "luma for BRISQUE": (piq_luma, images),
        "read, decode in processes, three metrics": (whole, paths),
    }
    for threads in reversed(part.threads):
        for name, (work, items) in works.items():
            part.measure(f"{name}: {threads}", lambda: part.rate(in_threads(work, items, threads)))  # noqa: B023
    cache, entry = FeatureCache(part.folder / "caches" / "saves"), CacheEntry(photos[0].info)
    for name in METRIC_NAMES:
        entry.add(name, "1", Measurement(0.5, {"raw": 0.5}))
    entry.add("embedding", "1", Embedding(np.full(768, 768**-0.5, np.float32)))
    part.measure("save in the cache: 1", lambda: part.rate(lambda: cache.save("photo", entry) or 1))


def device(part: Part) -> None:
    """Measure the stages of the device, and the bare forward passes of both models."""
    import torch

    from curation_features.devices.transfer import HostToDevice, stacked
    from curation_features.photos.decode import decode
    from curation_features.photos.limits import DecodeLimits
    from curation_features.photos.reader import PhotoReader
    from curation_features.pipeline import Models
    from curation_features.technical.brisque.batched import batched_brisque

    settings = part.settings()
    models, reader = Models.from_settings(settings), PhotoReader(settings)
    limits = DecodeLimits(settings.max_pixels)
    images = [decode(reader.read(str(path)), limits).rgb for path in part.paths()[: max(part.batch_sizes)]]
    images = list(islice(cycle(images), max(part.batch_sizes)))
    clip, quality = models.clip.get(), models.clip_iqa.get()
    brisque = models.brisque.get()
    statistics = brisque.batched or batched_brisque(brisque, part.device, settings.brisque_side)
    transfer = HostToDevice(part.device)
    steps: dict[str, Callable[[Any], object]] = {
        "upload": lambda rgb: transfer(rgb, lambda tensor: tensor),
        "upload from pageable memory": lambda rgb: torch.from_numpy(rgb.copy()).to(part.device),
        "upload and resize for CLIP": clip.preprocess,
        "upload and resize for CLIP-IQA": quality.preprocess,
        "luma and upload for BRISQUE": statistics.preprocess,
        "all three inputs": lambda rgb: [model.preprocess(rgb) for model in (clip, quality, statistics)],
    }
    for name, step in steps.items():
        for threads in part.threads:
            part.measure(f"{name}: {threads}", lambda: part.rate(in_threads(step, images, threads)))  # noqa: B023
    inputs = {model: [model.preprocess(rgb) for rgb in images] for model in (clip, quality, statistics)}
    runs: dict[str, Callable[[int], object]] = {
        "BRISQUE, float64": lambda size: statistics.score(inputs[statistics][:size]),
        "CLIP-IQA": lambda size: quality.score(stacked(inputs[quality][:size])),
        "CLIP": lambda size: clip.encode_images(stacked(inputs[clip][:size])),
    }
    try:
        runs |= bare_passes(part, settings, *(tuple(inputs[model][0].shape) for model in (clip, quality)))
    except Exception as error:
        part.show("bare passes", error=f"{type(error).__name__}: {error}"[:500])
    best: dict[str, float] = {}
    for name, run in runs.items():
        for size in part.batch_sizes:
            rate = part.measure(f"{name}: {size}", lambda: part.rate(lambda: (run(size), size)[1]))  # noqa: B023
            best[name] = max(best.get(name, 0), rate.get("photos/s", 0))
    show_together(part, best)


def show_together(part: Part, best: Mapping[str, float]) -> None:
    """Print the photos per second of models that run one after the other: the bare ones, and those of the pass."""
    bare, ours = (
        1 / sum(1 / best[name] for name in names) if all(best.get(name) for name in names) else None
        for names in (("bare CLIP", "bare CLIP-IQA"), ("CLIP", "CLIP-IQA", "BRISQUE, float64"))
    )
    if bare:
        (part.folder / BARE).write_text(json.dumps(bare))
        part.show("bare passes together", **{"photos/s": bare})
    if bare and ours:
        part.show("models of the pass together", **{"photos/s": ours, "of the bare passes": ours / bare})


def bare_passes(
    part: Part, settings: Any, clip_shape: tuple[int, ...], quality_shape: tuple[int, ...]
) -> dict[str, Callable[[int], object]]:
    """Return the forward passes of the libraries' models on ready tensors: photos per batch -> one pass."""
    import open_clip
    import torch
    from piq.feature_extractors import clip as piq_clip
    from safetensors.torch import load_file

    is_gpu = part.device != "cpu"
    precision = "fp16" if is_gpu else "fp32"
    clip, _ = open_clip.create_model_from_pretrained(settings.model, device=part.device, precision=precision)
    path = Path(settings.clip_iqa_weights)
    state = load_file(path) if path.suffix == ".safetensors" else torch.jit.load(path, map_location="cpu").state_dict()
    quality = piq_clip.build_model(state).float().eval().to(part.device)
    memory_format = torch.channels_last if is_gpu else torch.contiguous_format
    for model in (clip.eval(), quality):
        model.visual.to(memory_format=memory_format)

    def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        ready = torch.rand(max(part.batch_sizes), *shape, device=part.device, dtype=dtype)
        return ready.contiguous(memory_format=memory_format)

    photos = tensors(clip_shape, torch.float16 if is_gpu else torch.float32)
    squares = tensors(quality_shape, torch.float32)

    def forward(encode: Callable[..., object], batch: torch.Tensor, **details: bool) -> object:
        with torch.inference_mode():
            return encode(batch, **details)

    return {
        "bare CLIP": lambda size: forward(clip.encode_image, photos[:size]),
        "bare CLIP-IQA": lambda size: forward(quality.encode_image, squares[:size], pos_embedding=False),
    }


def whole(part: Part) -> None:
    """Measure `FeaturesService` from JPEG files to complete records, with the seconds of its log line."""
    bare = json.loads((part.folder / BARE).read_text()) if (part.folder / BARE).exists() else None
    ways = {"default": {}, "decoding in threads": {"isolate_decoders": False}}
    for name, changes in ways.items():
        run = Batches(part, name, changes)

        def measured(run: Batches = run) -> dict[str, Any]:
            warm = min(part.photos, 256)
            run(warm)  # models load, and decoder processes start
            speed = run(warm)["photos_per_second"]
            fields = run(max(warm, min(part.photos, int(speed * 8 * part.seconds))))
            rate = fields["photos_per_second"]
            share = {"of the bare passes": rate / bare} if bare else {}
            stages = {stage: taken for stage, taken in fields.items() if stage.startswith("seconds_")}
            counts = {key: fields[key] for key in ("photos", "seconds", "own CPU ms", "children's CPU ms")}
            return {"photos/s": rate, **share, **counts, **stages}

        part.measure(f"files to records, {name}", measured)


class Batches:
    """A service whose batches name the same files under new ids, so that nothing is cached."""

    def __init__(self, part: Part, name: str, changes: Mapping[str, Any]) -> None:
        self._part, self._name, self._changes = part, name, changes
        self._service: Any = None
        self._numbers = count()

    def __call__(self, photos: int) -> dict[str, Any]:
        """Process a batch; returns the fields of its log line."""
        from curation_features import FeaturesService
        from curation_features.manifest import batch_from

        if self._service is None:
            self._service = FeaturesService(self._part.settings(**self._changes))
        paths = islice(cycle(self._part.paths()), photos)
        named = [{"photo_id": f"{self._name}-{next(self._numbers)}", "original_uri": str(path)} for path in paths]
        batch = batch_from({"batch_id": "benchmark", "artifacts": named})
        meter = CpuMeter()
        with log_fields() as fields:
            enriched = self._service.run(batch)
        cpu = meter.per_photo(photos)
        if fields["ok"] != photos:
            raise RuntimeError(f"records are not complete: {enriched.statuses()}")
        return {**fields, **cpu}


@contextmanager
def log_fields() -> Iterator[dict[str, Any]]:
    """Collect the fields of a batch's log line."""
    fields: dict[str, Any] = {}

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields.update(getattr(record, "curation_features", {}))

    logger, handler = logging.getLogger("curation_features.pipeline.batch_log"), Collector()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield fields
    finally:
        logger.removeHandler(handler)


PARTS: Mapping[str, Callable[[Part], None]] = {
    "prepare": prepare,
    "machine": machine,
    "host": host,
    "device": device,
    "whole": whole,
}


if __name__ == "__main__":
    PARTS[sys.argv[1]](Part(Path(sys.argv[2])))
