"""Measure seconds and memory to load a model from a checkpoint: our way and open_clip's.

ViT-L/14 with seeded random weights has the size of the real one. Each way runs in a separate process, after its
imports; the first round warms the disk's cache and is dropped. The embedding of a photo is compared between both ways.
"With a photo" includes the first photo, so also weights that are packed or converted for it, in each precision that the
processor supports; its memory is compared with the image tower's weights in float32. `--memory` measures only these.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from checkpoints import write_checkpoints
from measure import Report, arguments

SETUP = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import numpy as np, open_clip, torch
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.loading import ClipModel
from curation_features import Settings
from curation_features.devices.selection import Device, select_device
from curation_features.errors import SettingsError
from curation_features.weights import ClipWeights
folder = Path(sys.argv[1])
path = next(path for path in folder.iterdir() if path.suffix != ".json")
config = json.loads((folder / "open_clip_config.json").read_text())
open_clip.SimpleTokenizer()
photo = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
torch.nn.Conv2d(3, 64, 8)(torch.ones(1, 3, 64, 64)), torch.nn.Linear(64, 64)(torch.ones(2, 64))  # their libraries
mib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
before, start = mib(), time.perf_counter()
{load}
seconds, peak = time.perf_counter() - start, mib() - before
with torch.inference_mode():
    vector = {encode}
print(json.dumps([seconds, peak, vector]))
"""

OPEN_CLIP = SETUP.format(
    load="model, _ = open_clip.create_model_from_pretrained('local-dir:' + str(folder))",
    encode="model.encode_image(torch.tensor(photo), normalize=True)[0].tolist()",
)
IMAGES = SETUP.format(
    load="engine = OpenClipEngine(ClipWeights('', path, '', config), Device('cpu', 'fp32')); engine.device",
    encode="engine.encode_images(photo)[0].tolist()",
)
BOTH = SETUP.format(
    load="model = ClipModel(ClipWeights('', path, '', config), Device('cpu', 'fp32')); model.place('image'); "
    "model = model.place('text')",
    encode="model.encode_image(torch.tensor(photo), normalize=True)[0].tolist()",
)
LABELS = SETUP.format(
    load="engine = OpenClipEngine(ClipWeights('', path, '', config), Device('cpu', 'fp32')); engine.device; "
    "engine.encode_texts(['a photo'])",
    encode="engine.encode_images(photo)[0].tolist()",
)
FIRST_PHOTO = """
try:
    device = select_device(Settings(device="cpu", precision="{precision}"))
except SettingsError:
    sys.exit(print("null"))
engine = OpenClipEngine(ClipWeights("", path, "", config), device)
engine.encode_images(photo)
"""
WITH_PHOTO = {
    precision: SETUP.format(
        load=FIRST_PHOTO.format(precision=precision), encode="engine.encode_images(photo)[0].tolist()"
    )
    for precision in ("fp32", "bf16", "int8")
}
OURS = (
    ("for photos", IMAGES, "image"),
    ("both towers", BOTH, "all"),
    ("both towers, tokenizer, one label tried", LABELS, "all"),
)


def tower_mib(folder: Path) -> dict[str, float]:
    """Return the MiB of the image tower's weights, and of all weights."""
    from safetensors import safe_open

    sizes: dict[str, float] = {"image": 0.0, "all": 0.0}
    with safe_open(folder / "open_clip_model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            entry = file.get_slice(name)
            size = 4 * float(math.prod(entry.get_shape())) / 2**20
            sizes["all"] += size
            sizes["image"] += size * name.startswith("visual.")
    return sizes


def run(code: str, folder: Path) -> tuple[float, float, list[float]] | None:
    """Load once in a new process; returns seconds, MiB and the photo's embedding, or None if it is not supported."""
    found = json.loads(subprocess.check_output([sys.executable, "-c", code, folder], text=True))
    return None if found is None else tuple(found)


def ways_of(folders: Mapping[str, Path], *, memory_only: bool) -> dict[tuple[str, str, str], tuple[str, Path]]:
    """Return code and folder of each way to load: open_clip's and ours, and ours with a photo in each precision.

    Keys are who loads, the format, and which weights are used.
    """
    formats = {} if memory_only else folders
    theirs = {("open_clip", kind, "all"): (OPEN_CLIP, folder) for kind, folder in formats.items()}
    ours = {
        (f"ours, {label}", kind, used): (code, folder) for kind, folder in formats.items() for label, code, used in OURS
    }
    with_photo = {
        (f"ours, with a photo in {precision}", "safetensors", "image"): (code, folders["safetensors"])
        for precision, code in WITH_PHOTO.items()
    }
    return theirs | ours | with_photo


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, rounds=5)
    parser.add_argument("--architecture", default="ViT-L-14", help="of open_clip (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="measure only the memory of an engine with a photo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = write_checkpoints(Path(temporary), options.architecture)
        weights = tower_mib(folders["safetensors"])
        ways = ways_of(folders, memory_only=options.memory)
        found: dict[Any, list[tuple[float, float, list[float]]]] = {way: [] for way in ways}
        for number in range(options.rounds + 1):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                result = run(*ways[way])
                if number and result is not None:
                    found[way].append(result)
    report = Report(f"{options.architecture} from disk to ready ({options.rounds} rounds)")
    for (who, kind, used), results in found.items():
        if not results:
            continue
        seconds, peak = (median(result[part] for result in results) for part in (0, 1))
        numbers = {"seconds": seconds, "peak MiB": peak, "of the weights used": peak / weights[used]}
        theirs = found.get(("open_clip", kind, "all"))
        if theirs:
            numbers["times as fast"] = median(result[0] for result in theirs) / seconds
            numbers["differs by"] = max(abs(a - b) for a, b in zip(results[0][2], theirs[0][2], strict=True))
        report.add(f"{who}, {kind}", **numbers)
    report.show(options.json)


if __name__ == "__main__":
    main()
