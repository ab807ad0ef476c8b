"""CLIP-IQA: how much nearer a photo is to "Good photo." than to "Bad photo." in CLIP's space.

J. Wang, K. C. K. Chan and C. C. Loy, "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023. The
numbers are those of `piq.CLIPIQA` 0.8 (CLIP RN50 without positional embedding, in single precision).
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curation_features.device import select_device
from curation_features.errors import InvalidWeightsError
from curation_features.models import LazyModel, Weights, locate_clip_iqa

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.settings import Settings

GOOD_PHOTO = (49406, 886, 1125, 269, 49407)
BAD_PHOTO = (49406, 2103, 1125, 269, 49407)
"""The two prompts "Good photo." and "Bad photo." as CLIP's tokens, before they are padded with zeros."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training images per channel (RGB), as shares of full scale."""

_READING = threading.Lock()


class QualityModel(Protocol):
    """A model that judges the quality of square photos. Arrays in, arrays out; safe to share between threads."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) pixels as one (3, S, S) input in [0, 1]."""
        ...

    def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Quality in [0, 1] of each of (N, 3, S, S) inputs; 1 is best."""
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
        self._visual = visual.eval().requires_grad_(False).to(self._device)
        self._anchors = anchors.detach().to(self._device)
        self._logit_scale = logit_scale.detach().to(self._device)
        self._mean, self._std = (torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def preprocess(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resize to (3, side, side) in [0, 1]: bicubic with antialiasing, the aspect ratio not kept.

        Torch resizes in floating point, so nothing is rounded on the way (Pillow rounds to 8 bits after each axis);
        what overshoots is clamped.

        Args:
            rgb: (H, W, 3).
        """
        import torch

        with torch.inference_mode():
            # A copy: torch warns about arrays that cannot be written to.
            pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 255
            resized = torch.nn.functional.interpolate(
                pixels, size=(self.side, self.side), mode="bicubic", antialias=True, align_corners=False
            )
            return np.asarray(resized.clamp_(0, 1)[0].contiguous().numpy())

    def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
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
        with torch.inference_mode():
            parts = (torch.from_numpy(np.array(batch[at : at + size], np.float32)) for at in range(0, len(batch), size))
            return np.concatenate([self._score(part.to(self._device)).cpu().double().numpy() for part in parts])

    def _score(self, batch: torch.Tensor) -> torch.Tensor:
        vectors = self._visual((batch - self._mean) / self._std, pos_embedding=False).float()
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        logits: torch.Tensor = self._logit_scale * vectors @ self._anchors.t()
        return logits.softmax(dim=-1)[:, 0]


def clip_iqa_model(settings: Settings) -> LazyModel[QualityModel]:
    """The model that `settings` name: located when its identity is asked for, loaded on first use."""

    def load(weights: Weights) -> QualityModel:
        return load_clip_iqa(weights, device=select_device(settings).name, side=settings.clip_iqa_side)

    return LazyModel(lambda: locate_clip_iqa(settings), load)


def load_clip_iqa(weights: Weights, *, device: str, side: int) -> ClipIqa:
    """Build CLIP-IQA from OpenAI's RN50 archive (TorchScript). Runs no code from the file.

    Args:
        weights: the archive.
        device: where it will run: `cpu`, `cuda`, `mps`.
        side: px of the square input.

    Raises:
        InvalidWeightsError: names the file, what is wrong with it, and what to do.
    """
    import torch
    from piq.feature_extractors import clip

    state = _read_state(weights)
    if "visual.layer1.0.conv1.weight" not in state:
        raise _invalid(weights, "does not hold CLIP with a ResNet image tower (RN50)")
    try:
        model = clip.build_model(state).float()
    except Exception as error:  # whatever piq and torch make of a state that does not fit
        raise _invalid(weights, f"does not fit CLIP RN50: {_first_line(error)}") from error
    broken = [name for name, value in model.state_dict().items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise _invalid(weights, f"holds values that are not finite, in {broken[0]}")
    with torch.inference_mode():
        anchors = model.encode_text(prompt_tokens(model.context_length)).float()
        anchors = anchors / anchors.norm(dim=-1, keepdim=True)
        logit_scale = model.logit_scale.exp()
    return ClipIqa(model.visual, anchors, logit_scale, device=device, side=side)


def prompt_tokens(context_length: int = 77) -> torch.Tensor:
    """(2, context_length) tokens of the good and the bad prompt, padded with zeros."""
    import torch

    tokens = torch.zeros(2, context_length, dtype=torch.long)
    for row, prompt in zip(tokens, (GOOD_PHOTO, BAD_PHOTO), strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return tokens


def _read_state(weights: Weights) -> dict[str, Any]:
    """The tensors of a TorchScript archive by name."""
    import torch

    # Reading TorchScript warns that it is deprecated. Filters are global, hence the lock; it happens once.
    with _READING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            archive: torch.nn.Module = torch.jit.load(str(weights.path), map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
        except Exception as error:  # whatever the reader makes of a damaged file
            raise _invalid(weights, f"cannot be read as a TorchScript archive: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _invalid(weights: Weights, cause: str) -> InvalidWeightsError:
    return InvalidWeightsError(
        f"{weights.path}: CLIP-IQA's archive {cause}. "
        "Delete the file and run again with a connection, or set CURATION_FEATURES_CLIP_IQA_WEIGHTS."
    )
