"""Write checkpoints of the real size with seeded random weights, and the real regressor of BRISQUE for piq.

    python benchmarks/checkpoints.py FOLDER ViT-L-14

Benchmarks call it in a separate process: a child process inherits the peak memory of its parent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

CHECKPOINTS = {"safetensors": "open_clip_model.safetensors", "torch.save": "open_clip_pytorch_model.bin"}
RN50 = "RN50.pt"
BRISQUE = "brisque_svm_weights.pt"


def write_checkpoints(folder: Path, architecture: str, kinds: Sequence[str] = tuple(CHECKPOINTS)) -> dict[str, Path]:
    """Write a model of open_clip in these formats; returns the folder of each."""
    subprocess.check_call([sys.executable, __file__, folder, architecture, *kinds])
    return {kind: folder / kind for kind in kinds}


def write_rn50(folder: Path) -> Path:
    """Write CLIP RN50 as a TorchScript archive, like OpenAI's."""
    import torch
    from piq.feature_extractors.clip import CLIP, convert_weights

    torch.manual_seed(7)
    model = CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12).eval()
    convert_weights(model)
    model.float()
    for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    example = (torch.rand(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long))
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), str(folder / RN50))
    return folder / RN50


def write_brisque(folder: Path) -> Path:
    """Write the regressor of this package as a pair of tensors, under piq's file name."""
    import numpy as np
    import torch

    from curation_features.weights import brisque_file

    with np.load(brisque_file().path) as arrays:
        pair = tuple(torch.from_numpy(arrays[name]) for name in ("sv_coef", "sv"))
    torch.save(pair, folder / BRISQUE)
    return folder / BRISQUE


def main() -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder, architecture = Path(sys.argv[1]), sys.argv[2]
    config = open_clip.get_model_config(architecture)
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    model.logit_scale.data.fill_(4.6052)
    for kind in sys.argv[3:] or CHECKPOINTS:
        name = CHECKPOINTS[kind]
        (folder / kind).mkdir()
        save = save_file if kind == "safetensors" else torch.save
        save(model.state_dict(), folder / kind / name)
        (folder / kind / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


if __name__ == "__main__":
    main()
