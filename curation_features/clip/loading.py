"""A CLIP model out of a checkpoint, in a fraction of the time that open_clip takes, and equal to open_clip's.

open_clip fills a model with random numbers and copies a checkpoint over them. Here its own classes are built without
storage for parameters, and the tensors of the checkpoint, mapped from its file, are put in their place. What no forward
pass reads is never read from disk.
"""

from __future__ import annotations

import logging
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from curation_features.weights.assembly import check_fit, check_values, place, without_parameters

if TYPE_CHECKING:
    import torch

    from curation_features.devices.selection import Device
    from curation_features.weights import ClipWeights, Copies

logger = logging.getLogger(__name__)

Tower: TypeAlias = Literal["image", "text"]

_FORMAT = 1  # of the copies; raised when open_clip's conversion of old checkpoints changes


class ClipModel:
    """open_clip's model with the tensors of a checkpoint, each tower in place from the time when it is needed.

    Args:
        weights: a checkpoint and its configuration.
        device: where the model will run, and in which precision; what is kept in which follows open_clip's own rules.
        copies: keeps a safetensors copy of a checkpoint that cannot be mapped; None: it is read every time.

    Attributes:
        model: open_clip's model. A tower that is not in place cannot be run.
        transform: the model's own preprocessing of a PIL image.
        logit_scale: the learned scale of cosines before a softmax.

    Raises:
        MismatchError: names or shapes of the checkpoint are not those of the model.
        Exception: whatever open_clip makes of a configuration or a file that is not what it should be.
    """

    def __init__(self, weights: ClipWeights, device: Device, copies: Copies | None = None) -> None:
        with _quiet_root_logger():
            self.model: Any = _empty_model(weights.config["model_cfg"], device)
            self._state = _state(self.model, weights, copies)
        self.transform = _transform(self.model, weights.config.get("preprocess_cfg") or {})
        self.logit_scale = float(self._state["logit_scale"].float().exp())
        self._device = device
        self._lock = threading.Lock()

    def place(self, tower: Tower) -> Any:
        """The model with this tower in place.

        Raises:
            MismatchError: the tower holds numbers that are not finite, or nothing but zeros.
        """
        with self._lock:
            names = [name for name in self._state if _tower_of(name) == tower]
            if names:
                check_values({name: self._state[name] for name in names})
            for name in names:
                place(self.model, name, self._state[name], self._device.name)
                del self._state[name]
            if names and tower == "image" and self._device.name == "cuda":
                import torch

                self.model.visual.to(memory_format=torch.channels_last)  # what its tensor cores want
            if names and tower == "image" and self._device.precision == "int8":
                from curation_features.clip.int8 import tower_to_int8

                if not tower_to_int8(self.model.visual):
                    logger.warning("The image tower is no transformer, so that int8 changes nothing in it")
        return self.model


def load_tokenizer(weights: ClipWeights) -> Any:
    """The model's tokenizer: open_clip's own, or one of `transformers` out of the folder that `weights` name.

    Raises:
        ImportError: it needs `transformers`, which is an extra.
    """
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    text = weights.config["model_cfg"]["text_cfg"]
    length, options = text.get("context_length", DEFAULT_CONTEXT_LENGTH), text.get("tokenizer_kwargs") or {}
    if weights.tokenizer is None:
        return SimpleTokenizer(context_length=length, **options)
    mode = text.get("tokenizer_mode")
    return HFTokenizer(str(weights.tokenizer), context_length=length, tokenizer_mode=mode, **options)


def _tower_of(name: str) -> Tower | None:
    """The tower that needs a tensor; None for a generator of captions, which no vector needs."""
    if name.startswith("visual."):
        return "image"
    return None if name.startswith("text_decoder.") else "text"


def _empty_model(model_cfg: Mapping[str, Any], device: Device) -> Any:
    """open_clip's model without storage for its parameters; everything else in it is real."""
    import open_clip

    config = deepcopy(dict(model_cfg))
    # As in open_clip.create_model, but nothing is ever fetched for a tower.
    is_timm = "timm_model_name" in config["vision_cfg"]
    is_transformers = "hf_model_name" in config["text_cfg"]
    if is_timm:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if is_transformers:
        config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or is_transformers
    kind = open_clip.CLIP if not custom else open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    with without_parameters():
        model = kind(**config, cast_dtype=open_clip.get_cast_dtype(device.precision))
    _set_precision(model, device, is_timm)
    return model.eval().requires_grad_(False)


def _set_precision(model: Any, device: Device, is_timm: bool) -> None:
    """Give parameters and buffers the types, and buffers the place, that open_clip gives them."""
    import torch
    from open_clip.model import convert_weights_to_fp16
    from open_clip.transformer import LayerNormFp32

    if device.precision == "fp16" and is_timm:
        model.to(dtype=torch.float16)
        for module in model.modules():
            if isinstance(module, LayerNormFp32):
                module.to(dtype=torch.float32)
    elif device.precision == "fp16":
        convert_weights_to_fp16(model)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device.name))


def _state(model: Any, weights: ClipWeights, copies: Copies | None) -> dict[str, torch.Tensor]:
    """The tensors that a model is made of, mapped from the checkpoint, or from a copy where it cannot be mapped."""

    def fitting(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        check_fit(model, state)
        return state

    if copies is None or weights.path.suffix == ".safetensors" or zipfile.is_zipfile(weights.path):
        return fitting(_converted(model, weights.path))
    return copies.load(f"clip-{_FORMAT}-{weights.sha256}", lambda: _converted(model, weights.path), fitting)


def _converted(model: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint as today's open_clip names and shapes them; mapped where the format permits it."""
    from open_clip.factory import load_checkpoint
    from torch.utils import serialization

    state: dict[str, torch.Tensor] = {}

    def take(found: Mapping[str, torch.Tensor], strict: bool = True) -> None:
        state.update(found)

    model.load_state_dict = take  # what open_clip calls when it has converted everything
    try:
        # For this thread alone.
        with serialization.config.patch("load.mmap", zipfile.is_zipfile(path)):  # type: ignore[attr-defined]
            load_checkpoint(model, str(path))
    finally:
        del model.load_state_dict
    return state


def _transform(model: Any, config: Mapping[str, Any]) -> Any:
    """The preprocessing that open_clip gives with a model (`create_model_from_pretrained`)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    merged = merge_preprocess_dict(asdict(PreprocessCfg()), dict(config))
    if hasattr(model.visual, "image_size"):
        merged["size"] = model.visual.image_size
    return image_transform_v2(PreprocessCfg(**merged), is_train=False)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep open_clip, which logs to the root logger, from configuring it and from reporting its every step."""

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or "open_clip" not in Path(record.pathname).parts

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)
        root.removeHandler(handler)
