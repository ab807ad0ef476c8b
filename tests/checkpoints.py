"""Fixtures: small checkpoints with seeded random weights, built with the libraries' own classes."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation_features.weights import ClipWeights, brisque_file

CHECKPOINT = "open_clip_model.safetensors"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
RESNET = {"image_size": 64, "patch_size": None, "width": 4, "layers": [1, 1, 1, 1]}
PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def write_checkpoint(
    folder: Path, vision: dict[str, Any], change: Callable[[Any], None] | None = None, **config: Any
) -> Path:
    """Write a `local-dir:` of open_clip: a small model with seeded random weights, which `change` may alter.

    Its logit scale is 100, as of a model that was trained. `config` goes into `model_cfg`.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT, **config}
    arguments = {name: value for name, value in config.items() if name != "custom_text"}
    custom = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = (custom if config.get("custom_text") else open_clip.CLIP)(**deepcopy(arguments))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
        if change:
            change(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / CHECKPOINT)
    content = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def weights_in(folder: Path, name: str = CHECKPOINT) -> ClipWeights:
    """The checkpoint in a folder."""
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    return ClipWeights(f"local-dir:{folder}", folder / name, "0" * 64, config)


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("vit"), VIT)


@pytest.fixture(scope="session")
def resnet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("resnet"), RESNET)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes the ViT checkpoint with another configuration, or with weights changed by a function."""

    def make(change: Callable[[Any], None] | None = None, **vision: Any) -> Path:
        return write_checkpoint(tmp_path / "checkpoint", {**VIT, **vision}, change)

    return make


@pytest.fixture(scope="session")
def brisque_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The regressor of this package as piq reads it: a pair of tensors under piq's name."""
    import torch

    with np.load(brisque_file().path) as arrays:
        pair = tuple(torch.from_numpy(arrays[name]) for name in ("sv_coef", "sv"))
    path = tmp_path_factory.mktemp("pair") / "brisque_svm_weights.pt"
    torch.save(pair, path)
    return path


@pytest.fixture(scope="session")
def rn50_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of RN50's kind, one block per stage and narrow, with values of half precision, as TorchScript."""
    import torch
    from piq.feature_extractors.clip import CLIP, convert_weights

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = CLIP(32, 64, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1, 1).eval()
    model.logit_scale.data.fill_(5.0)
    convert_weights(model)
    model.float()
    for name, value in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    path = tmp_path_factory.mktemp("clip") / "RN50.pt"
    example = (torch.rand(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.long))
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), str(path))
    return path


@pytest.fixture(scope="session")
def rn50_checkpoint(tmp_path_factory: pytest.TempPathFactory, rn50_archive: Path) -> Path:
    """The numbers of `rn50_archive` as open_clip publishes them: safetensors with the names of its model."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        state = torch.jit.load(str(rn50_archive)).state_dict()
    model = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    path = tmp_path_factory.mktemp("rn50") / "open_clip_model.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def brisque_regressor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file shaped like the LIVE regressor's, with seeded random numbers."""
    import torch

    generator = torch.Generator().manual_seed(3)
    path = tmp_path_factory.mktemp("brisque") / "brisque_svm_weights.pt"
    torch.save((torch.randn(774, 1, generator=generator), torch.rand(774, 36, generator=generator) * 2 - 1), path)
    return path


@pytest.fixture(scope="session")
def small_models(clip_checkpoint: Path, rn50_archive: Path) -> dict[str, str]:
    """Environment variables that replace the two large models by small real ones."""
    return {
        "CURATION_FEATURES_MODEL": f"local-dir:{clip_checkpoint}",
        "CURATION_FEATURES_CLIP_IQA_WEIGHTS": str(rn50_archive),
        "CURATION_FEATURES_DEVICE": "cpu",
    }
