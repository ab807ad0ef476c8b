"""Fast loading of a CLIP checkpoint; the model equals open_clip's.

open_clip initialises a model with random numbers and copies a checkpoint over them. Here, open_clip's classes are built
without parameter storage, and get the memory-mapped tensors of the checkpoint. Unused tensors are never read from disk.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from curation_features.weights.assembly import check_fit, check_values, place, without_parameters
from curation_features.weights.pages import MappedPages

if TYPE_CHECKING:
    import torch

    from curation_features.devices.selection import Device, Precision
    from curation_features.weights import ClipWeights, Copies

logger = logging.getLogger(__name__)

Tower: TypeAlias = Literal["image", "text"]

_FORMAT = 1  # version of the copies; increment when open_clip's conversion of old checkpoints changes


class ClipModel:
    """open_clip's model with the tensors of a checkpoint; each tower loads on first use. Not thread-safe.

    Args:
        weights: a checkpoint and its configuration.
        device: device and precision; like in open_clip, some layers stay in fp32.
        copies: keeps a safetensors copy of a checkpoint that cannot be mapped; None: it is read every time.

    Attributes:
        model: open_clip's model. It can run only the towers that are loaded.
        transform: preprocessing of a PIL image.
        logit_scale: learned scale of cosines before a softmax.

    Raises:
        MismatchError: tensor names or shapes do not fit the model.
        Exception: any error of open_clip for an invalid configuration or file.
    """

    def __init__(self, weights: ClipWeights, device: Device, copies: Copies | None = None) -> None:
        with _quiet_root_logger():
            self.model: Any = _empty_model(weights.config["model_cfg"], device)
            self._state = _read_state(self.model, weights, copies)
        self.transform = _build_transform(self.model, weights.config.get("preprocess_cfg") or {})
        self.logit_scale = float(self._state["logit_scale"].float().exp())
        self._device = device

    def place(self, tower: Tower) -> Any:
        """Load a tower, if needed, and return the model.

        Raises:
            MismatchError: the tower has values that are not finite, or only zeros.
        """
        import torch

        state = {name: tensor for name, tensor in self._state.items() if _tower_of(name) == tower}
        if not state:
            return self.model
        check_values(state)
        for name, tensor in state.items():
            place(self.model, name, tensor, self._device.name)
            del self._state[name]
        if tower == "image" and self._device.name == "cuda":
            self.model.visual.to(memory_format=torch.channels_last)  # fast on tensor cores
        if self._device.name == "cpu":
            self._replace_linear(tower)
        return self.model

    def _replace_linear(self, tower: Tower) -> None:
        """Let the linear layers of a tower compute in the device's precision, and as fast as the processor can."""
        from curation_features.clip.linear import replace_linear, transformer_of

        layer = _linear_layer(self._device.precision if tower == "image" else "fp32")
        blocks = transformer_of(self.model.visual if tower == "image" else getattr(self.model, "text", self.model))
        if layer is None or self._device.precision == "fp16":
            return
        pages = MappedPages()

        def make(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
            module: torch.nn.Module = layer(weight, bias)
            pages.release(weight)
            return module

        replaced = replace_linear(blocks, make) if blocks is not None else 0
        if not replaced and tower == "image" and self._device.precision != "fp32":
            logger.warning(
                "The image tower has no linear layers to replace, so %s has no effect", self._device.precision
            )


def load_tokenizer(weights: ClipWeights) -> Any:
    """Load the tokenizer of open_clip, or of `transformers` from the folder `weights.tokenizer`.

    Raises:
        ImportError: the extra `transformers` is not installed.
    """
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    text = weights.config["model_cfg"]["text_cfg"]
    length, options = text.get("context_length", DEFAULT_CONTEXT_LENGTH), text.get("tokenizer_kwargs") or {}
    if weights.tokenizer is None:
        return SimpleTokenizer(context_length=length, **options)
    mode = text.get("tokenizer_mode")
    return HFTokenizer(str(weights.tokenizer), context_length=length, tokenizer_mode=mode, **options)


def _linear_layer(precision: Precision) -> type[torch.nn.Module] | None:
    """Return the linear layer of a CPU in this precision; None: torch's own."""
    from curation_features.clip.int8 import Int8Linear
    from curation_features.clip.onednn import Bf16Linear, packed_linear

    return {"int8": Int8Linear, "bf16": Bf16Linear}.get(precision) or packed_linear()


def _tower_of(name: str) -> Tower | None:
    """Return the tower of a tensor; None for a caption decoder, which embeddings do not need."""
    if name.startswith("visual."):
        return "image"
    return None if name.startswith("text_decoder.") else "text"


def _empty_model(model_cfg: Mapping[str, Any], device: Device) -> Any:
    """Build open_clip's model without parameter storage."""
    import open_clip
    import torch

    config = deepcopy(dict(model_cfg))
    # Like open_clip.create_model, but never downloads a tower.
    is_timm = "timm_model_name" in config["vision_cfg"]
    is_transformers = "hf_model_name" in config["text_cfg"]
    if is_timm:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if is_transformers:
        config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or is_transformers
    kind = open_clip.CLIP if not custom else open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    with without_parameters():
        model = kind(**config, cast_dtype=torch.float16 if device.precision == "fp16" else None)
    _set_precision(model, device, is_timm)
    return model.eval().requires_grad_(False)


def _set_precision(model: Any, device: Device, is_timm: bool) -> None:
    """Set the dtypes of parameters and buffers like open_clip, and move buffers to the device."""
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


def _read_state(model: Any, weights: ClipWeights, copies: Copies | None) -> dict[str, torch.Tensor]:
    """Map the tensors of a checkpoint, or of its copy if the checkpoint cannot be mapped."""

    def check(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        check_fit(model, state)
        return state

    if copies is None or weights.path.suffix == ".safetensors" or zipfile.is_zipfile(weights.path):
        return check(_convert(model, weights.path))
    return copies.load(f"clip-{_FORMAT}-{weights.sha256}", lambda: _convert(model, weights.path), check)


def _convert(model: Any, path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint with open_clip's current tensor names and shapes; mapped if the format permits it."""
    from open_clip.factory import load_checkpoint
    from torch.utils import serialization

    state: dict[str, torch.Tensor] = {}

    def collect(converted: Mapping[str, torch.Tensor], strict: bool = True) -> None:
        state.update(converted)

    model.load_state_dict = collect  # open_clip has no public converter; it calls this method after the conversion
    try:
        # The patch is local to this thread.
        with serialization.config.patch("load.mmap", zipfile.is_zipfile(path)):  # type: ignore[attr-defined]
            load_checkpoint(model, str(path))
    finally:
        del model.load_state_dict
    return state


def _build_transform(model: Any, config: Mapping[str, Any]) -> Any:
    """Build the preprocessing, like open_clip's `create_model_from_pretrained`."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    merged = merge_preprocess_dict(asdict(PreprocessCfg()), dict(config))
    if hasattr(model.visual, "image_size"):
        merged["size"] = model.visual.image_size
    return image_transform_v2(PreprocessCfg(**merged), is_train=False)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Suppress open_clip's messages to the root logger, and keep it from configuring that logger."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or "open_clip" not in Path(record.pathname).parts

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(is_wanted)
    try:
        yield
    finally:
        root.removeFilter(is_wanted)
        root.removeHandler(handler)
