"""CLIP-IQA: how much nearer a photo is to "Good photo." than to "Bad photo." in CLIP's space.

J. Wang, K. C. K. Chan and C. C. Loy, "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023. The
numbers are those of `piq.CLIPIQA` 0.8 (CLIP RN50 without positional embedding, in single precision).
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curation_features.devices.selection import alone_on, select_device
from curation_features.devices.transfer import HostToDevice
from curation_features.errors import InvalidWeightsError
from curation_features.weights import Copies, LazyModel, Progress, Weights, locate_clip_iqa, no_progress
from curation_features.weights.assembly import (
    MismatchError,
    check_fit,
    check_values,
    place,
    without_parameters,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.settings import Settings

logger = logging.getLogger(__name__)

GOOD_PHOTO = (49406, 886, 1125, 269, 49407)
BAD_PHOTO = (49406, 2103, 1125, 269, 49407)
"""The two prompts "Good photo." and "Bad photo." as CLIP's tokens, before they are padded with zeros."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training images per channel (RGB), as shares of full scale."""

COPY_FORMAT = 1
"""Of the copy that is kept of what is needed; raise it when `_extracted` gives something else."""

VISUAL = "visual."
"""How names of the image tower begin in a checkpoint, and in the copy."""

_READING = threading.Lock()


class QualityModel(Protocol):
    """A model that judges the quality of square photos. Arrays in, arrays out; safe to share between threads."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """(H, W, 3) pixels as one (3, S, S) input in [0, 1]: an array, or a tensor on a device."""
        ...

    def score(self, batch: Any) -> NDArray[np.float64]:
        """Quality in [0, 1] of each of (N, 3, S, S) of what `preprocess` made; 1 is best."""
        ...


class ClipIqa:
    """CLIP-IQA on one device. Only CLIP's image tower and the two anchors stay in memory.

    Args:
        visual: CLIP's image tower; called as `visual(x, pos_embedding=False)`.
        anchors: (2, D), text vectors of the good and the bad prompt, of unit norm.
        logit_scale: what cosines are multiplied with before the softmax.
        device: where the tower runs: `cpu`, `cuda`, `mps`.
        side: px of the square input.
    """

    def __init__(
        self, visual: torch.nn.Module, anchors: torch.Tensor, logit_scale: torch.Tensor, *, device: str, side: int
    ) -> None:
        import torch

        self.side = side
        self._device = torch.device(device)
        self._uploads = HostToDevice(device) if device == "cuda" else None
        self._visual = visual.eval().requires_grad_(False).to(self._device)
        if device == "cuda":  # what its tensor cores want; on a CPU it is slower
            self._visual = self._visual.to(memory_format=torch.channels_last)
        self._anchors = anchors.detach().to(self._device)
        self._logit_scale = logit_scale.detach().to(self._device)
        self._mean, self._std = (torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Resize to (3, side, side) in [0, 1]: bicubic with antialiasing, the aspect ratio not kept.

        Torch resizes in floating point, so nothing is rounded on the way (Pillow rounds to 8 bits after each axis);
        what overshoots is clamped.

        Args:
            rgb: (H, W, 3).
        """
        if self._uploads is not None:
            try:
                return self._uploads(rgb, self._reduced)
            except RuntimeError as error:  # too large, for its memory or for the operator
                logger.debug("A photo is reduced on the CPU, as the device cannot: %s", error)
        return np.asarray(HostToDevice("cpu")(rgb, self._reduced).numpy())

    def _reduced(self, rgb: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import interpolate

        pixels = rgb.permute(2, 0, 1)[None].float() / 255
        size = (self.side, self.side)
        resized = interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        return resized[0].clamp_(0, 1).contiguous()

    def score(self, batch: ModelInput) -> NDArray[np.float64]:
        """Softmax probability of the good prompt, in [0, 1]; NaN where the model gives NaN.

        Args:
            batch: (N, 3, side, side) in [0, 1].

        Returns:
            (N,); a photo's score does not depend on its batch.
        """
        import torch

        if not len(batch):
            return np.empty(0, np.float64)
        # On a CPU this tower takes longer per photo in a batch than alone.
        size = 1 if self._device.type == "cpu" else len(batch)
        with torch.inference_mode(), alone_on(self._device.type):
            inputs = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.array(batch, np.float32))
            parts = torch.split(inputs.to(self._device), size)
            return np.concatenate([self._score(part).cpu().double().numpy() for part in parts])

    def _score(self, batch: torch.Tensor) -> torch.Tensor:
        normalised = (batch - self._mean) / self._std
        if self._device.type == "cuda":
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        vectors = self._visual(normalised, pos_embedding=False).float()
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        logits: torch.Tensor = self._logit_scale * vectors @ self._anchors.t()
        return logits.softmax(dim=-1)[:, 0]


def clip_iqa_model(
    settings: Settings, progress: Progress = no_progress, *, fetch: bool = True
) -> LazyModel[QualityModel]:
    """The model that `settings` name: located when its identity is asked for, loaded on first use."""

    def load(weights: Weights) -> QualityModel:
        device = select_device(settings).name
        return load_clip_iqa(weights, device=device, side=settings.clip_iqa_side, copies=Copies(settings))

    return LazyModel(lambda: locate_clip_iqa(settings, fetch=fetch, progress=progress), load)


def load_clip_iqa(weights: Weights, *, device: str, side: int, copies: Copies | None = None) -> ClipIqa:
    """Load CLIP-IQA and try it once; on the CPU where the device cannot run it. Runs no code from a file.

    The image tower and the anchors are taken out of the weights once and kept as a copy, which from then on is mapped
    in place of them: the text tower is never built again. The scores are the same, bit for bit.

    Args:
        weights: OpenAI's RN50 archive (TorchScript), or an open_clip checkpoint of RN50 (safetensors).
        device: where it will run: `cpu`, `cuda`, `mps`.
        side: px of the square input.
        copies: where the copy is kept; None: it is not.

    Raises:
        InvalidWeightsError: names the file, what is wrong with it, and what to do.
    """

    def build(tensors: dict[str, torch.Tensor]) -> ClipIqa:
        with alone_on(device):
            return _that_runs(tensors, device=device, side=side)

    try:
        if copies is None:
            return build(_extracted(weights))
        return copies.load(f"clip-iqa-{COPY_FORMAT}-{weights.sha256}", lambda: _extracted(weights), build)
    except MismatchError as error:
        raise InvalidWeightsError(
            f"CLIP-IQA's weights {weights.path} cannot be used: {error}",
            "run `curation-features models pull` to fetch them again, or name others in "
            "CURATION_FEATURES_CLIP_IQA_WEIGHTS",
        ) from error


def prompt_tokens(context_length: int = 77) -> torch.Tensor:
    """(2, context_length) tokens of the good and the bad prompt, padded with zeros."""
    import torch

    tokens = torch.zeros(2, context_length, dtype=torch.long)
    for row, prompt in zip(tokens, (GOOD_PHOTO, BAD_PHOTO), strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return tokens


def _extracted(weights: Weights) -> dict[str, torch.Tensor]:
    """All that CLIP-IQA needs of the weights: `visual.*`, `anchors` and `logit_scale`, in single precision.

    piq builds CLIP: it rounds what OpenAI keeps in half precision to it, which changes none of OpenAI's numbers.
    """
    import torch
    from piq.feature_extractors import clip

    state = _read_state(weights)
    if "visual.layer1.0.conv1.weight" not in state:
        raise MismatchError("it does not hold CLIP with a ResNet image tower (RN50)")
    try:
        model = clip.build_model(state).float()
    except Exception as error:  # whatever piq and torch make of a state that does not fit
        raise MismatchError(f"it does not fit CLIP RN50: {_one_line(error)}") from error
    check_values(model.state_dict())
    with torch.inference_mode():
        anchors = model.encode_text(prompt_tokens(model.context_length)).float()
        anchors = anchors / anchors.norm(dim=-1, keepdim=True)
        logit_scale = model.logit_scale.exp()
    tower = {f"{VISUAL}{name}": tensor for name, tensor in model.visual.state_dict().items()}
    return {**tower, "anchors": anchors, "logit_scale": logit_scale}


def _assembled(tensors: Mapping[str, torch.Tensor], *, device: str, side: int) -> ClipIqa:
    """CLIP-IQA out of what `_extracted` gives, with these very tensors in it. Raises MismatchError if they do not fit.

    Args:
        tensors: of the CPU; they are copied only to another device.
    """
    check_values(tensors)
    tower = {name.removeprefix(VISUAL): tensor for name, tensor in tensors.items() if name.startswith(VISUAL)}
    visual = _empty_tower(tower)
    check_fit(visual, tower)
    for name, tensor in tower.items():
        place(visual, name, tensor, device)
    try:
        anchors, logit_scale = tensors["anchors"], tensors["logit_scale"]
    except KeyError as error:
        raise MismatchError(f"it lacks {error}") from error
    if anchors.shape != (2, visual.attnpool.c_proj.out_features) or logit_scale.numel() != 1:
        raise MismatchError(f"its anchors are {tuple(anchors.shape)} and do not fit the image tower")
    if not np.allclose(anchors.norm(dim=-1).numpy(), 1, atol=1e-4):
        raise MismatchError("its anchors are not of unit norm")
    return ClipIqa(visual, anchors, logit_scale, device=device, side=side)


def _empty_tower(tensors: Mapping[str, torch.Tensor]) -> Any:
    """The image tower of piq, without storage for its parameters, of the size that the tensors tell (as in piq)."""
    from piq.feature_extractors.clip import ModifiedResNet

    blocks = [{name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")} for stage in (1, 2, 3, 4)]
    try:
        width = tensors["layer1.0.conv1.weight"].shape[0]
        dimension = tensors["attnpool.c_proj.weight"].shape[0]
        cells = tensors["attnpool.positional_embedding"].shape[0] - 1
        with without_parameters():
            return ModifiedResNet(
                layers=tuple(map(len, blocks)),
                output_dim=dimension,
                heads=width * 32 // 64,
                input_resolution=32 * math.isqrt(cells),
                width=width,
            )
    except (LookupError, ValueError) as error:
        raise MismatchError(f"it does not hold CLIP's ResNet ({error!r})") from error


def _that_runs(tensors: Mapping[str, torch.Tensor], *, device: str, side: int) -> ClipIqa:
    """CLIP-IQA on a device, or on the CPU where the device lacks an operator; a warning says so."""
    import torch

    try:
        return _tried(_assembled(tensors, device=device, side=side))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # NotImplementedError among them
        if device == "cpu":
            raise
        logger.warning("CLIP-IQA falls back to the CPU: %s", _one_line(error))
    return _tried(_assembled(tensors, device="cpu", side=side))


def _tried(model: ClipIqa) -> ClipIqa:
    """The model itself. Raises MismatchError where it has no score for a plain gradient of 32 x 32 px."""
    gradient = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (1, 3, 32, 32))
    (score,) = model.score(gradient)
    if not 0 <= score <= 1:
        raise MismatchError(f"it gives {score} for a plain gradient")
    return model


def _read_state(weights: Weights) -> dict[str, Any]:
    """The tensors of a checkpoint by name: of a safetensors file, or of a TorchScript archive."""
    import torch
    from safetensors.torch import load_file

    is_safe = weights.path.suffix == ".safetensors"
    # Reading TorchScript warns that it is deprecated. Filters are global, hence the lock; it happens once.
    with _READING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if is_safe:
                return dict(load_file(weights.path))
            archive: torch.nn.Module = torch.jit.load(str(weights.path), map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
        except Exception as error:  # whatever the reader makes of a damaged file
            kind = "safetensors" if is_safe else "a TorchScript archive"
            raise MismatchError(f"it cannot be read as {kind}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
