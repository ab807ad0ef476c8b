"""`ClipEngine`, the protocol of a CLIP model, and its open_clip implementation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from curation_features.clip.embeddings import Embeddings
from curation_features.clip.loading import ClipModel, Tower, load_tokenizer
from curation_features.clip.tensor_transform import on_tensor
from curation_features.devices.fallback import first_sentence, first_that_runs, run_on_device
from curation_features.devices.selection import BATCH_SIZES, Device, announce, exclusive_on, select_device
from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import InvalidWeightsError, WeightsError
from curation_features.schema import UNIT_NORM_TOLERANCE
from curation_features.settings import Settings
from curation_features.weights import (
    ClipWeights,
    Copies,
    LazyModel,
    Loading,
    Progress,
    Weights,
    locate,
    no_progress,
)
from curation_features.weights.assembly import MismatchError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput

logger = logging.getLogger(__name__)

MAX_ASPECT = 32
"""Largest aspect ratio; a longer photo is cropped to its middle before resizing, to limit memory."""

UNTRAINED_SCALES = (1 / 0.07, 10.0)
"""Initial logit scales of CLIP and SigLIP models in open_clip, before training."""

COSINE_TOLERANCE = 0.01
"""Tolerance of a cosine against the published one, which, like fp16, is exact to 0.001 or 0.002."""

_TOWERS: tuple[Tower, ...] = get_args(Tower)
_PAIR = BATCH_SIZES["cpu"]


class ClipEngine(Protocol):
    """A model that embeds images and texts in one space. Thread-safe.

    With `embed_images` (`embeddings.NormedImageEncoder`), it also reports the norms of its image vectors.
    """

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""

    @property
    def logit_scale(self) -> float:
        """Learned scale of cosines before a softmax (about 100); greater than 0."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Convert an upright RGB image (H, W, 3) to the model's input (3, S, S)."""

    def encode_images(self, batch: Any) -> NDArray[np.float32]:
        """Embed a batch (N, 3, S, S) of inputs: (N, D), unit norm."""

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N prompts: (N, D), unit norm."""

    def tokenize(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the tokens of N prompts, (N, L), and whether each prompt is truncated to L, (N,)."""


def clip_model(
    settings: Settings, progress: Progress = no_progress, *, fetch: bool = True, loading: Loading = nullcontext
) -> LazyModel[ClipEngine]:
    """Create the engine that `settings` name; weights are located and loaded on first use."""

    def load(weights: ClipWeights) -> ClipEngine:
        device = select_device(settings)
        announce(device)
        return OpenClipEngine(weights, device, Copies(settings), at_once=settings.batch_size)

    return LazyModel(lambda: locate("clip", settings, fetch=fetch, progress=progress), load, loading)


class OpenClipEngine:
    """A `ClipEngine` of open_clip, with open_clip's preprocessing; embeddings are normalised in fp32.

    Each tower is loaded and tried on first use. If the device lacks an operator, or fp16 overflows, the tower falls
    back to fp32 or to the CPU, with a warning. A single photo that overflows fp16 is recomputed in fp32. On CUDA, the
    device resizes the photos.

    On the CPU, batches have two photos if that gives the same bits as one photo alone, which the first pair of
    different photos tests, and one photo otherwise. So no embedding depends on the batch, unless `at_once` sets another
    size.

    Args:
        weights: a checkpoint and its configuration.
        device: preferred device of the towers.
        copies: keeps a memory-mapped copy of a checkpoint that cannot be mapped.
        at_once: batch size on a CPU; 0: two or one, see above.

    Raises:
        InvalidWeightsError: the checkpoint does not fit its configuration, or is damaged. The methods raise it, too, if
            a tower has no usable numbers.
    """

    def __init__(self, weights: ClipWeights, device: Device, copies: Copies | None = None, *, at_once: int = 0) -> None:
        import torch

        logger.info("Loading OpenCLIP model: %s", weights.source)
        self._weights = weights
        self._at_once = at_once
        self._copies = copies
        self._lock = threading.Lock()
        self._towers = {
            tower: LazyModel(lambda: weights, partial(self._select_device, tower, device)) for tower in _TOWERS
        }
        self._tokenizer = LazyModel(lambda: weights, _load_tokenizer)
        try:
            model = ClipModel(weights, device, copies)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a damaged checkpoint or configuration can raise anything
            raise _invalid(weights, error) from error
        self._models = {device: model}
        self._transform = model.transform
        self._tensor_transform = on_tensor(model.transform)
        self._transfer = HostToDevice(device.name) if device.name == "cuda" else None
        self.logit_scale: float = _check_scale(weights, model.logit_scale)
        self.dimension: int = weights.config["model_cfg"]["embed_dim"]

    @property
    def device(self) -> Device:
        """Device and precision of the image tower."""
        return self._towers["image"].get()

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Apply the model's transform; see `ClipEngine.preprocess`, and `MAX_ASPECT` for very long photos.

        On CUDA the steps run on the device, which rounds a few pixels to the next level.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ValueError(f"expected an RGB image (H, W, 3) of uint8, not {rgb.shape} of {rgb.dtype}")
        middle = np.ascontiguousarray(_crop_to_middle(rgb))
        transform = self._tensor_transform
        if transform is not None:
            on_device = run_on_device(self._transfer, middle, lambda pixels: transform(pixels.permute(2, 0, 1)))
            if on_device is not None:
                return on_device
        from PIL import Image

        return np.ascontiguousarray(self._transform(Image.fromarray(middle)).numpy(), dtype=np.float32)

    def encode_images(self, batch: ModelInput) -> NDArray[np.float32]:
        """See `ClipEngine.encode_images`."""
        return self.embed_images(batch).vectors

    def embed_images(self, batch: ModelInput) -> Embeddings:
        """See `NormedImageEncoder.embed_images`; norms are computed in fp32."""
        return self._encode("image", batch)

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `ClipEngine.encode_texts`. All prompts form one batch."""
        return self._encode("text", self._tokens(prompts) if len(prompts) else np.empty(0)).vectors

    def tokenize(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """See `ClipEngine.tokenize`: a prompt is truncated if it fills a context of L + 1, too."""
        tokens = self._tokens(prompts)
        longer = self._tokens([*prompts, ""], tokens.shape[1] + 1)
        return tokens, longer[:-1, -1] != longer[-1, -1]

    def _tokens(self, prompts: Sequence[str], length: int | None = None) -> NDArray[np.int64]:
        tokens: NDArray[np.int64] = self._tokenizer.get()(list(prompts), length).numpy()
        return tokens

    def _encode(self, tower: Tower, inputs: NDArray[Any] | torch.Tensor) -> Embeddings:
        """Compute unit embeddings and norms; recompute those that overflow fp16 in fp32."""
        if not len(inputs):
            return Embeddings(np.empty((0, self.dimension), np.float32), np.empty(0, np.float32))
        device = self._towers[tower].get()
        found = self._embed(tower, device, inputs)
        overflown = np.logical_not(np.isfinite(found.vectors).all(axis=1))
        if overflown.any() and device.precision == "fp16":
            logger.warning(
                "%d of %d inputs overflow CLIP in fp16 and are computed in fp32", overflown.sum(), len(inputs)
            )
            indices = overflown.nonzero()[0].tolist()
            again = self._embed(tower, Device(device.name, "fp32"), inputs[indices])
            found.vectors[overflown], found.norms[overflown] = again
        return found

    def _embed(self, tower: Tower, device: Device, inputs: NDArray[Any] | torch.Tensor) -> Embeddings:
        """Compute unit embeddings of one or more inputs, NaN on overflow, and their norms."""
        import torch

        model = self._load_tower(tower, device)
        with torch.inference_mode(), exclusive_on(device.name):
            tensor = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
            tensor = tensor.to(device.name)
            if tower == "text":
                vectors = model.encode_text(tensor).float()
            else:
                tensor = tensor.half() if device.precision == "fp16" else tensor
                if device.name == "cuda":
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                is_cpu = device.name == "cpu"
                vectors = self._forward_on_cpu(model, tensor) if is_cpu else _forward(model, tensor, len(tensor))
            norms = vectors.norm(dim=1, keepdim=True)
            return Embeddings((vectors / norms).cpu().numpy(), norms.squeeze(1).cpu().numpy())

    def _forward_on_cpu(self, model: Any, photos: torch.Tensor) -> torch.Tensor:
        """Embed photos on a CPU, not normalised; for the batch size see the class."""
        import torch

        if self._at_once or len(photos) < _PAIR:
            return _forward(model, photos, self._at_once or 1)
        pair, others = photos[:_PAIR], photos[_PAIR:]
        alone = _forward(model, pair, 1)
        if alone.isfinite().all() and not pair[0].equal(pair[1]):
            self._at_once = _PAIR if _forward(model, pair, _PAIR).equal(alone) else 1
        return torch.cat([alone, self._forward_on_cpu(model, others)]) if len(others) else alone

    def _select_device(self, tower: Tower, device: Device, _: Weights) -> Device:
        """Return the first device and precision that can run a tower."""
        import torch

        def attempt(candidate: Device) -> Device:
            self._try_out(tower, candidate)
            return candidate

        candidates = [*dict.fromkeys((device, Device(device.name, "fp32"), Device("cpu", "fp32")))]
        try:
            return first_that_runs(f"CLIP's {tower} tower", candidates, attempt)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ArithmeticError) as error:
            raise _invalid(self._weights, error) from error

    def _try_out(self, tower: Tower, device: Device) -> None:
        """Raise if a tower gives no usable embeddings."""
        self._load_tower(tower, device)
        if tower == "text":
            vectors = self._embed(tower, device, self._tokens(["a photo"])).vectors
            self._compare_with_published(device)
        elif device == Device("cpu", "fp32"):
            return  # no fallback is left, and a photo takes seconds: the first one is the test
        else:
            gray = self.preprocess(np.full((64, 64, 3), 127, np.uint8))
            vectors = self._embed(tower, device, stacked([gray])).vectors
        if not np.isclose(np.linalg.norm(vectors), 1.0, atol=UNIT_NORM_TOLERANCE):
            raise ArithmeticError("a plain gray photo or a short text has no finite embedding")

    def _compare_with_published(self, device: Device) -> None:
        """Raise InvalidWeightsError if the cosine of two prompts differs from the published model's."""
        for one, other, published in self._weights.text_cosines:
            vectors = self._embed("text", device, self._tokens([one, other])).vectors
            cosine = float(vectors[0] @ vectors[1])
            if abs(cosine - published) > COSINE_TOLERANCE:
                cause = f"it gives {one!r} and {other!r} the cosine {cosine:.3f}, and the published model {published}"
                raise _invalid(self._weights, ArithmeticError(cause))

    def _load_tower(self, tower: Tower, device: Device) -> Any:
        """Load a tower on a device, if needed; return open_clip's model."""
        try:
            with self._lock, exclusive_on(device.name):
                if device not in self._models:
                    self._models[device] = ClipModel(self._weights, device, self._copies)
                return self._models[device].place(tower)
        except MismatchError as error:
            raise _invalid(self._weights, error) from error


def _forward(model: Any, photos: torch.Tensor, at_once: int) -> torch.Tensor:
    """Embed photos in batches of `at_once`, in fp32, not normalised."""
    import torch

    return torch.cat([model.encode_image(part).float() for part in torch.split(photos, at_once)])


def _load_tokenizer(weights: ClipWeights) -> Any:
    """Load the tokenizer. Raises WeightsError if its package is not installed or its files are damaged."""
    try:
        return load_tokenizer(weights)
    except ImportError as error:
        summary = f"the tokenizer of CLIP {weights.source} needs a package that is not installed ({error})"
        raise WeightsError("load_failed", summary, "pip install 'curation-features[transformers]'") from error
    except Exception as error:  # damaged files can raise anything
        raise _invalid(weights, error, str(weights.tokenizer)) from error


def _check_scale(weights: ClipWeights, scale: float) -> float:
    """Return the logit scale; raise InvalidWeightsError unless it is positive, and warn if it is untrained."""
    if not (np.isfinite(scale) and scale > 0):
        raise _invalid(weights, ArithmeticError(f"its logit scale is {scale}"))
    if any(np.isclose(scale, untrained, rtol=1e-6) for untrained in UNTRAINED_SCALES):
        logger.warning(
            "%s (%s) has the logit scale of an untrained model, %.4g: its labels may be meaningless",
            weights.path,
            weights.source,
            scale,
        )
    return scale


def _invalid(weights: Weights, error: Exception, where: str = "") -> InvalidWeightsError:
    return InvalidWeightsError(
        f"CLIP checkpoint {where or weights.path} ({weights.source}) cannot be used: {first_sentence(error)}",
        "run `curation-features models pull` or copy it again with its open_clip_config.json, or set "
        "CURATION_FEATURES_MODEL to another model",
    )


def _crop_to_middle(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop an image longer than `MAX_ASPECT` times its short side to its middle."""
    limit = MAX_ASPECT * min(rgb.shape[:2])
    height, width = (max(side - limit, 0) // 2 for side in rgb.shape[:2])
    return rgb[height : rgb.shape[0] - height, width : rgb.shape[1] - width]
