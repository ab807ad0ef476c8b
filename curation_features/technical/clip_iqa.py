"""CLIP-IQA: probability of the prompt "Good photo." against "Bad photo." by CLIP.

J. Wang, K. C. K. Chan and C. C. Loy, "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023. The
numbers are those of `piq.CLIPIQA` 0.8 (CLIP RN50 without positional embedding, in single precision).
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curation_features.devices.fallback import first_sentence, first_that_runs, run_on_device
from curation_features.devices.selection import Device, exclusive_on, select_quality_device
from curation_features.devices.transfer import HostToDevice
from curation_features.errors import InvalidWeightsError
from curation_features.weights import Copies, LazyModel, Loading, Progress, Weights, locate, no_progress
from curation_features.weights.assembly import MismatchError, check_fit, check_values, place, without_parameters
from curation_features.weights.pages import MappedPages

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.settings import Settings

GOOD_PHOTO = (49406, 886, 1125, 269, 49407)
BAD_PHOTO = (49406, 2103, 1125, 269, 49407)
"""CLIP tokens of "Good photo." and "Bad photo.", without padding."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's training images per RGB channel, as fractions of full scale."""

COPY_FORMAT = 1
"""Version of the extracted copy; increment it when the result of `_extract` changes."""

VISUAL = "visual."
"""Prefix of the image tower's tensors in a checkpoint and in the copy."""

_READING = threading.Lock()


class QualityModel(Protocol):
    """A quality model for square photos. Thread-safe."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Convert an image (H, W, 3) to one input (3, S, S) in [0, 1]."""

    def score(self, batch: Any) -> NDArray[np.float64]:
        """Score a batch (N, 3, S, S) of inputs: (N,) in [0, 1]; 1 is best."""


class ClipIqa:
    """CLIP-IQA on one device; holds only CLIP's image tower and two anchors.

    Args:
        visual: CLIP's image tower; called as `visual(x, pos_embedding=False)`.
        anchors: (2, D), text embeddings of the good and the bad prompt, unit norm.
        logit_scale: factor of the cosines before the softmax.
        device: device and precision (fp32, or bf16 on a CPU) of the tower; other steps are in fp32.
        side: side of the square input, px.
    """

    def __init__(
        self, visual: torch.nn.Module, anchors: torch.Tensor, logit_scale: torch.Tensor, *, device: Device, side: int
    ) -> None:
        import torch

        self.side = side
        self._device = torch.device(device.name)
        self._dtype = torch.bfloat16 if device.precision == "bf16" else torch.float32
        self._transfer = HostToDevice(device.name) if device.name == "cuda" else None
        visual = visual.eval().requires_grad_(False)
        if device.name == "cpu":
            from curation_features.technical.resnet import fold_batch_norms

            fold_batch_norms(visual)
        self._layout = torch.contiguous_format if device.name == "mps" else torch.channels_last  # faster elsewhere
        self._visual = visual.to(self._device, self._dtype).to(memory_format=self._layout)
        self._anchors = anchors.detach().to(self._device)
        self._logit_scale = logit_scale.detach().to(self._device)
        self._mean, self._std = (torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Resize to (3, side, side) in [0, 1]: bicubic with antialiasing, without keeping the aspect ratio.

        torch resizes in floating point, so intermediate values are not rounded (Pillow rounds to 8 bits after each
        axis); overshoot is clamped.

        Args:
            rgb: (H, W, 3).
        """
        on_device = run_on_device(self._transfer, rgb, self._resize)
        return HostToDevice("cpu")(rgb, self._resize).numpy() if on_device is None else on_device

    def _resize(self, rgb: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import interpolate

        pixels = rgb.permute(2, 0, 1)[None].float() / 255
        size = (self.side, self.side)
        resized = interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        return resized[0].clamp_(0, 1).contiguous()

    def score(self, batch: ModelInput) -> NDArray[np.float64]:
        """Return the probability of the good prompt, (N,) in [0, 1]; NaN if the model gives NaN.

        A photo's score does not depend on its batch.

        Args:
            batch: (N, 3, side, side) in [0, 1].
        """
        import torch

        if not len(batch):
            return np.empty(0, np.float64)
        # On a CPU this tower is slower per photo in a batch.
        size = 1 if self._device.type == "cpu" else len(batch)
        with torch.inference_mode(), exclusive_on(self._device.type):
            inputs = torch.from_numpy(np.array(batch, np.float32)) if isinstance(batch, np.ndarray) else batch
            parts = torch.split(inputs.to(self._device), size)
            return np.concatenate([self._score(part).cpu().double().numpy() for part in parts])

    def _score(self, batch: torch.Tensor) -> torch.Tensor:
        normalised = ((batch - self._mean) / self._std).to(self._dtype, memory_format=self._layout)
        vectors = self._visual(normalised, pos_embedding=False).float()
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        logits: torch.Tensor = self._logit_scale * vectors @ self._anchors.t()
        return logits.softmax(dim=-1)[:, 0]


def clip_iqa_model(
    settings: Settings, progress: Progress = no_progress, *, fetch: bool = True, loading: Loading = nullcontext
) -> LazyModel[QualityModel]:
    """Create the model that `settings` name; weights are located and loaded on first use."""

    def load(weights: Weights) -> QualityModel:
        device = select_quality_device(settings)
        return load_clip_iqa(weights, device=device, side=settings.clip_iqa_side, copies=Copies(settings))

    return LazyModel(lambda: locate("clip_iqa", settings, fetch=fetch, progress=progress), load, loading)


def load_clip_iqa(weights: Weights, *, device: Device, side: int, copies: Copies | None = None) -> ClipIqa:
    """Load CLIP-IQA and try it on the device, or else on the CPU. Executes no code from a file.

    The first load extracts the image tower and the anchors into a copy. Later loads map the copy and never build the
    text tower; the scores are the same, bit for bit.

    Args:
        weights: OpenAI's RN50 archive (TorchScript), or an open_clip checkpoint of RN50 (safetensors).
        device: preferred device and precision.
        side: side of the square input, px.
        copies: store of the copy; None: no copy.

    Raises:
        InvalidWeightsError: names the file, the problem and the remedy.
    """

    def build(tensors: dict[str, torch.Tensor]) -> ClipIqa:
        with exclusive_on(device.name):
            candidates = [*dict.fromkeys((device, Device("cpu", "fp32")))]
            return first_that_runs("CLIP-IQA", candidates, lambda one: _assemble(tensors, device=one, side=side))

    try:
        if copies is None:
            return build(_extract(weights))
        return copies.load(f"clip-iqa-{COPY_FORMAT}-{weights.sha256}", lambda: _extract(weights), build)
    except MismatchError as error:
        raise InvalidWeightsError(
            f"CLIP-IQA's weights {weights.path} cannot be used: {error}",
            "run `curation-features models pull` to fetch them again, or name others in "
            "CURATION_FEATURES_CLIP_IQA_WEIGHTS",
        ) from error


def prompt_tokens(context_length: int = 77) -> torch.Tensor:
    """Return the tokens of both prompts, (2, context_length), padded with zeros."""
    import torch

    tokens = torch.zeros(2, context_length, dtype=torch.long)
    tokens[:, : len(GOOD_PHOTO)] = torch.tensor([GOOD_PHOTO, BAD_PHOTO])
    return tokens


def _extract(weights: Weights) -> dict[str, torch.Tensor]:
    """Extract the tensors of CLIP-IQA in float32: `visual.*`, `anchors` and `logit_scale`.

    piq builds CLIP and rounds some tensors to half precision, in which OpenAI stores them: no number changes.
    """
    import torch
    from piq.feature_extractors import clip

    state = _read_state(weights)
    if "visual.layer1.0.conv1.weight" not in state:
        raise MismatchError("it does not hold CLIP with a ResNet image tower (RN50)")
    try:
        model = clip.build_model(state).float()
    except Exception as error:  # piq and torch raise anything for a wrong state
        raise MismatchError(f"it does not fit CLIP RN50: {first_sentence(error)}") from error
    check_values(model.state_dict())
    with torch.inference_mode():
        anchors = model.encode_text(prompt_tokens(model.context_length)).float()
        anchors = anchors / anchors.norm(dim=-1, keepdim=True)
        logit_scale = model.logit_scale.exp()
    tower = {f"{VISUAL}{name}": tensor for name, tensor in model.visual.state_dict().items()}
    return {**tower, "anchors": anchors, "logit_scale": logit_scale}


def _assemble(tensors: Mapping[str, torch.Tensor], *, device: Device, side: int) -> ClipIqa:
    """Build CLIP-IQA from the tensors of `_extract`, and try it.

    Args:
        tensors: on the CPU; they are copied only to another device.

    Raises:
        MismatchError: the tensors do not fit, or the model has no score for a plain gradient of 32 x 32 px.
    """
    check_values(tensors)
    tower = {name.removeprefix(VISUAL): tensor for name, tensor in tensors.items() if name.startswith(VISUAL)}
    visual = _empty_tower(tower)
    check_fit(visual, tower)
    for name, tensor in tower.items():
        place(visual, name, tensor, device.name)
    model = ClipIqa(visual, tensors["anchors"], tensors["logit_scale"], device=device, side=side)
    pages = MappedPages()
    for tensor in tower.values():  # the CPU has folded most of them into others
        pages.release(tensor)
    gradient = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (1, 3, 32, 32))
    (score,) = model.score(gradient)
    if not 0 <= score <= 1:
        raise MismatchError(f"it gives {score} for a plain gradient")
    return model


def _empty_tower(tensors: Mapping[str, torch.Tensor]) -> Any:
    """Build piq's image tower without parameter storage; like in piq, tensor shapes give its size."""
    from piq.feature_extractors.clip import ModifiedResNet

    blocks = [{name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")} for stage in (1, 2, 3, 4)]
    width = tensors["layer1.0.conv1.weight"].shape[0]
    cells = tensors["attnpool.positional_embedding"].shape[0] - 1
    with without_parameters():
        return ModifiedResNet(
            layers=tuple(map(len, blocks)),
            output_dim=tensors["attnpool.c_proj.weight"].shape[0],
            heads=width * 32 // 64,
            input_resolution=32 * math.isqrt(cells),
            width=width,
        )


def _read_state(weights: Weights) -> dict[str, Any]:
    """Read the tensors of a checkpoint (safetensors or TorchScript) by name."""
    import torch
    from safetensors.torch import load_file

    is_safe = weights.path.suffix == ".safetensors"
    # torch warns that TorchScript is deprecated. Warning filters are global, hence the lock.
    with _READING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if is_safe:
                return dict(load_file(weights.path))
            archive: torch.nn.Module = torch.jit.load(str(weights.path), map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
        except Exception as error:  # a damaged file can raise anything
            kind = "safetensors" if is_safe else "a TorchScript archive"
            raise MismatchError(f"it cannot be read as {kind}: {first_sentence(error)}") from error
