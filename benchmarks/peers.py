"""Compare the forward passes of both models, photo by photo, with those of ONNX Runtime and OpenVINO on the CPU.

`make peers` installs the peers; one that is not installed is skipped. All have the same random weights and photos, and
run on one thread and on all cores, in interleaved rounds. *torch* is the bare tower, with `F.linear` and with oneDNN's
packed layers; *ours* is the product's engine in each precision that it accepts here. Cosines are those with torch's
float32 vectors. With `--nncf`, OpenVINO also runs ViT-L/14 in int8, quantised by NNCF on the same photos; that takes
minutes.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from checkpoints import write_checkpoints, write_rn50
from measure import Report, arguments, in_rounds, median_ratio
from packed import can_pack, fold, pack
from photos import write_photos
from PIL import Image
from piq.feature_extractors.clip import build_model
from processor import cores, this_processor

from curation_features import Settings
from curation_features.clip.engine import clip_model
from curation_features.errors import SettingsError
from curation_features.technical.clip_iqa import MEAN, STD, clip_iqa_model

Encode = Callable[[np.ndarray], np.ndarray]
"""Maps one photo (1, 3, S, S) to its vector (1, D), of any norm."""

PHOTOS = 4
PEERS = ("ONNX Runtime", "OpenVINO")
PRECISIONS = ("fp32", "bf16", "int8")
HAS_BF16 = "bf16" in this_processor().instructions


class Way(NamedTuple):
    """One implementation of a tower."""

    who: str
    precision: str

    def __str__(self) -> str:
        return f"{self.who}, {self.precision}"


class Seconds(NamedTuple):
    """Seconds for one photo: of all cores together, and of the clock."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Tower:
    """An image tower, and what it shall encode.

    Attributes:
        name: for the report.
        module: maps (N, 3, S, S) to (N, D).
        photos: (N, 3, S, S), preprocessed.
        ours: returns the product's way in a precision. Raises SettingsError if that is not supported.
        folder: of the files for the peers.
        has_int8: whether peers quantise it: linear layers, not convolutions.
    """

    name: str
    module: torch.nn.Module
    photos: np.ndarray
    ours: Callable[[str], Encode]
    folder: Path
    has_int8: bool

    @property
    def onnx(self) -> Path:
        """The tower as ONNX."""
        return self.folder / "tower.onnx"


class WithoutPosition(torch.nn.Module):
    """RN50 as in CLIP-IQA: without positional embedding."""

    def __init__(self, visual: torch.nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, S, S) to (N, D)."""
        return self.visual(x.contiguous(memory_format=torch.channels_last), pos_embedding=False)


def vit(settings: Settings, pictures: list[np.ndarray], folder: Path) -> Tower:
    """CLIP's image tower."""
    model, _ = open_clip.create_model_from_pretrained(settings.model)
    preprocess = clip_model(settings).get().preprocess
    photos = np.stack([np.asarray(preprocess(picture)) for picture in pictures])
    name = Path(settings.model).name

    def ours(precision: str) -> Encode:
        return clip_model(settings.replace(precision=precision)).get().encode_images

    return Tower(name, model.visual.eval().requires_grad_(False), photos, ours, folder, has_int8=True)


def rn50(settings: Settings, pictures: list[np.ndarray], folder: Path) -> Tower:
    """CLIP-IQA's image tower; our way returns its score (1, 1) and no vector."""
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        state = torch.jit.load(settings.clip_iqa_weights).state_dict()
    visual = build_model(state).float().visual.eval().requires_grad_(False)
    preprocess = clip_iqa_model(settings).get().preprocess
    photos = np.stack([np.asarray(preprocess(picture)) for picture in pictures])
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (MEAN, STD))

    def ours(precision: str) -> Encode:
        quality = clip_iqa_model(settings.replace(precision=precision)).get()
        return lambda photo: quality.score(photo * std + mean)[:, None]

    module = WithoutPosition(visual).eval().to(memory_format=torch.channels_last)
    return Tower(f"RN50 at {photos.shape[2]} px", module, (photos - mean) / std, ours, folder, has_int8=False)


def our_ways(tower: Tower) -> Iterator[tuple[Way, Encode]]:
    """Ours in each precision that this machine supports."""
    for precision in PRECISIONS if tower.has_int8 else PRECISIONS[:2]:
        try:
            yield Way("ours", precision), tower.ours(precision)
        except SettingsError as error:
            print(f"{tower.name}, ours, {precision}: not on this processor ({error})")


def torch_ways(tower: Tower) -> Iterator[tuple[Way, Encode]]:
    """The bare tower in torch."""
    yield Way("torch, F.linear", "fp32"), partial(_forward, tower.module, torch.float32)
    if tower.has_int8 and can_pack():
        yield Way("torch, oneDNN", "fp32"), partial(_forward, pack(deepcopy(tower.module)), torch.float32)
    if not tower.has_int8:
        folded = fold(deepcopy(tower.module)).to(memory_format=torch.channels_last)
        yield Way("torch, batch norm folded", "fp32"), partial(_forward, folded, torch.float32)
    if HAS_BF16:
        module = deepcopy(tower.module).bfloat16()
        yield Way("torch", "bf16"), partial(_forward, module, torch.bfloat16)


def _forward(module: torch.nn.Module, dtype: torch.dtype, photo: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(photo).to(dtype)).float().numpy()


def onnxruntime_ways(tower: Tower, threads: int) -> Iterator[tuple[Way, Encode]]:
    """ONNX Runtime in float32 and with dynamic int8."""
    import onnxruntime

    files = {"fp32": tower.onnx}
    if tower.has_int8:
        files["int8"] = quantised(tower.onnx)
    for precision, path in files.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        yield Way("ONNX Runtime", precision), lambda photo, session=session: session.run(None, {"photo": photo})[0]


def quantised(onnx: Path) -> Path:
    """Quantise the weights of a model; those of activations follow while it runs. Kept beside it."""
    from onnxruntime.quantization import quantize_dynamic

    path = onnx.with_suffix(".int8.onnx")
    if not path.exists():
        # Without VNNI, sums of 8-bit products overflow 16 bits (ONNX Runtime's guide advises 7-bit weights).
        has_vnni = "vnni" in this_processor().instructions
        quantize_dynamic(onnx, path, per_channel=True, reduce_range=not has_vnni)
    return path


def openvino_ways(tower: Tower, threads: int, *, with_nncf: bool) -> Iterator[tuple[Way, Encode]]:
    """OpenVINO in float32, in bf16 if the processor computes in it, and in int8 by NNCF."""
    import openvino

    core = openvino.Core()
    models = {"fp32": tower.onnx}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        models["bf16"] = tower.onnx
    if with_nncf and tower.has_int8:
        models["int8"] = calibrated(tower)
    for precision, path in models.items():
        hint = "bf16" if precision == "bf16" else "f32"
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(path, "CPU", options)
        yield Way("OpenVINO", precision), lambda photo, compiled=compiled: compiled(photo)[0].copy()


def calibrated(tower: Tower) -> Path:
    """Quantise a model by NNCF, calibrated with its photos, of which real use would take hundreds. Kept beside it."""
    import nncf
    import openvino

    path = tower.onnx.with_suffix(".nncf.xml")
    if not path.exists():
        photos = nncf.Dataset([photo[None] for photo in tower.photos])
        model = openvino.convert_model(tower.onnx)
        model = nncf.quantize(model, photos, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(tower.photos))
        openvino.save_model(model, path, compress_to_fp16=False)
    return path


def write_onnx(tower: Tower) -> None:
    """Export a tower, with a batch of one."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter does not know its operator
    photo = torch.from_numpy(tower.photos[:1])
    # The exporter by tracing needs neither onnxscript nor a minute; torch deprecates it.
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            tower.module, (photo,), tower.onnx, dynamo=False, input_names=["photo"], output_names=["vector"]
        )
    torch.backends.mha.set_fastpath_enabled(is_fast)


def compare(
    tower: Tower, threads: int, rounds: int, peers: Callable[[Tower, int], Iterator[tuple[Way, Encode]]]
) -> Any:
    """Measure all ways on `threads` threads; returns their seconds in each round, and their cosines."""
    torch.set_num_threads(threads)
    ways = dict([*torch_ways(tower), *our_ways(tower), *peers(tower, threads)])
    vectors = {way: np.concatenate([encode(photo[None]) for photo in tower.photos]) for way, encode in ways.items()}
    first = tower.photos[:1]
    seconds = in_rounds({str(way): partial(take, encode, first) for way, encode in ways.items()}, rounds)
    exact = next(iter(vectors.values()))
    return {way: (seconds[str(way)], least_cosine(vectors[way], exact)) for way in ways}


def take(encode: Encode, photo: np.ndarray) -> Seconds:
    """Time one photo."""
    cpu, wall = time.process_time(), time.perf_counter()
    encode(photo)
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def least_cosine(vectors: np.ndarray, exact: np.ndarray) -> float | None:
    """Return the least cosine of the vectors of a photo, None for scores."""
    if vectors.shape != exact.shape:
        return None
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1)
    return float(((vectors * exact).sum(axis=1) / norms).min())


def add_rows(report: Report, title: str, found: Mapping[Way, tuple[list[Seconds], float | None]]) -> None:
    """Add a row for each way; ours has its share of the fastest peer in the same precision."""
    cpu = {way: [seconds.cpu for seconds in taken] for way, (taken, _) in found.items()}
    baseline = next(iter(cpu.values()))
    for way, (taken, cosine) in found.items():
        numbers: dict[str, float] = {
            "CPU s": median(cpu[way]),
            "wall s": median(seconds.wall for seconds in taken),
            "times as fast": median_ratio(baseline, cpu[way]),
        }
        if cosine is not None:
            numbers["cosine"] = cosine
        others = [cpu[other] for other in cpu if other.precision == way.precision and other.who in PEERS]
        if way.who == "ours" and others:
            numbers["of the fastest peer"] = median_ratio(cpu[way], min(others, key=median))
        report.add(f"{title}: {way}", **numbers)
        print(f"{title}: {way}: {numbers['CPU s']:.3g} CPU s", flush=True)


def main() -> None:
    parser = arguments(__doc__, rounds=6)
    parser.add_argument("--architecture", default="ViT-L-14", help="of open_clip (default: %(default)s)")
    parser.add_argument("--nncf", action="store_true", help="quantise for OpenVINO as well (minutes)")
    options = parser.parse_args()
    installed = {name: find_spec(name) is not None for name in ("onnxruntime", "onnx", "openvino", "nncf")}
    missing = [name for name, found in installed.items() if not found]
    if missing:
        print(f"not installed (`make peers`): {', '.join(missing)}")

    def peers(tower: Tower, threads: int) -> Iterator[tuple[Way, Encode]]:
        if installed["onnxruntime"] and installed["onnx"]:
            yield from onnxruntime_ways(tower, threads)
        if installed["openvino"]:
            yield from openvino_ways(tower, threads, with_nncf=options.nncf and installed["nncf"])

    report = Report(f"One photo through the image tower, {options.rounds} rounds, same random weights")
    with tempfile.TemporaryDirectory() as temporary:
        for tower in towers(Path(temporary), options.architecture):
            if installed["onnx"] or installed["openvino"]:
                write_onnx(tower)
            for threads in dict.fromkeys((1, cores())):
                title = f"{tower.name}, {threads} thread{'s' * (threads > 1)}"
                print(time.strftime("%H:%M:%S"), title, flush=True)
                add_rows(report, title, compare(tower, threads, options.rounds, peers))
    report.show(options.json)


def towers(root: Path, architecture: str) -> Iterator[Tower]:
    """Write checkpoints and photos, and build both towers, one after the other."""
    folder = write_checkpoints(root, architecture)["safetensors"].rename(root / architecture)
    weights = write_rn50(root)
    settings = Settings(root=root, model=f"local-dir:{folder}", clip_iqa_weights=str(weights), device="cpu")
    pictures = [np.asarray(Image.open(path)) for path in write_photos(root / "photos", PHOTOS)]
    for name, build in (("vit", vit), ("rn50", rn50)):
        (root / name).mkdir()
        yield build(settings, pictures, root / name)


if __name__ == "__main__":
    main()
