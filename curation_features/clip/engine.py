"""The CLIP model behind a small protocol, and its implementation with open_clip."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
from PIL import Image

from curation_features.clip.loading import ClipModel, Tower, load_tokenizer
from curation_features.clip.tensor_transform import on_tensor
from curation_features.devices.selection import BATCH_SIZES, Device, alone_on, announce, select_device
from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import InvalidWeightsError, WeightsError
from curation_features.schema import UNIT_NORM_TOLERANCE
from curation_features.settings import Settings
from curation_features.weights import ClipWeights, Copies, LazyModel, Progress, Weights, locate_clip, no_progress
from curation_features.weights.assembly import MismatchError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput

logger = logging.getLogger(__name__)

MAX_ASPECT = 32
"""A longer photo is cut to its middle before it is resized, which would else make gigabytes of a 1 x 20,000 photo."""

UNTRAINED_SCALES = (1 / 0.07, 10.0)
"""What the logit scale of a CLIP and of a SigLIP model is before any training (open_clip's initial values)."""

COSINE_TOLERANCE = 0.01
"""How far a cosine may be from a recorded one: recorded ones and fp16 are exact to a thousandth or two."""

_TOWERS: tuple[Tower, ...] = get_args(Tower)
_PAIR = BATCH_SIZES["cpu"]


class ClipEngine(Protocol):
    """A model that puts images and texts into one space. All methods may be called from several threads."""

    @property
    def dimension(self) -> int:
        """Length D of a vector."""

    @property
    def logit_scale(self) -> float:
        """The learned scale of cosines before a softmax (about 100); greater than 0."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """The model's input, (3, S, S), for an upright RGB image (H, W, 3): an array, or a tensor on a device."""

    def encode_images(self, batch: Any) -> NDArray[np.float32]:
        """Vectors (N, D) of unit norm for a batch (N, 3, S, S) of what `preprocess` made."""

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (N, D) of unit norm for N prompts."""

    def tokenize(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The tokens (N, L) that the model reads of N prompts, and whether more than L are cut off, (N,)."""


def clip_model(settings: Settings, progress: Progress = no_progress, *, fetch: bool = True) -> LazyModel[ClipEngine]:
    """The engine that `settings` name: located when its identity is asked for, loaded on first use."""

    def load(weights: ClipWeights) -> ClipEngine:
        device = select_device(settings)
        announce(device)
        return load_open_clip(weights, device, Copies(settings), at_once=settings.batch_size)

    return LazyModel(lambda: locate_clip(settings, fetch=fetch, progress=progress), load)


def load_open_clip(
    weights: ClipWeights, device: Device, copies: Copies | None = None, *, at_once: int = 0
) -> OpenClipEngine:
    """An open_clip checkpoint as an engine (see `OpenClipEngine`), and a line in the log."""
    logger.info("Loading OpenCLIP model: %s", weights.source)
    return OpenClipEngine(weights, device, copies, at_once=at_once)


class OpenClipEngine:
    """A `ClipEngine` of open_clip. Inputs are open_clip's own; vectors are normalised in fp32.

    Each tower is read when it is first needed, and tried once: where the device lacks an operator, or fp16 cannot hold
    the numbers, that tower runs in fp32 or on the CPU, and a warning says so. A single photo that overflows fp16 is
    computed again in fp32. On CUDA a photo is reduced on the device. On the CPU photos go through
    the model two at a time where that gives the bits of one at a time, which the first pair shows: so no photo's vector
    depends on its neighbours, unless another number is asked for.

    Args:
        weights: a checkpoint and its configuration.
        device: where the towers run if they can.
        copies: keeps a mapped copy of a checkpoint that cannot be mapped itself.
        at_once: photos that go through the model together on a CPU; 0: two or one, as above.

    Raises:
        InvalidWeightsError: the checkpoint does not fit its configuration, or is damaged. The methods raise it too,
            where a tower holds no usable numbers.
    """

    def __init__(self, weights: ClipWeights, device: Device, copies: Copies | None = None, *, at_once: int = 0) -> None:
        self._weights = weights
        self._at_once = at_once
        self._copies = copies
        self._lock = threading.Lock()
        self._models: dict[Device, ClipModel] = {}
        self._towers = {
            tower: LazyModel(lambda: weights, partial(self._first_that_runs, tower, device)) for tower in _TOWERS
        }
        self._tokenizer = LazyModel(lambda: weights, _tokenizer)
        model = self._model(device)
        self._transform = model.transform
        self._transform_there = on_tensor(model.transform)
        self._uploads = HostToDevice(device.name) if device.name == "cuda" else None
        self.logit_scale: float = _checked_scale(weights, model.logit_scale)
        self.dimension: int = weights.config["model_cfg"]["embed_dim"]

    @property
    def device(self) -> Device:
        """Where photos are computed."""
        return self._towers["image"].get()

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """The model's own transform; see `ClipEngine.preprocess`, and `MAX_ASPECT` for very long photos.

        On CUDA the same steps are done on the device, which rounds a few pixels to the next level.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ValueError(f"expected an RGB image (H, W, 3) of uint8, not {rgb.shape} of {rgb.dtype}")
        middle = np.ascontiguousarray(_middle(rgb))
        transform = self._transform_there
        if self._uploads is not None and transform is not None:
            try:
                return self._uploads(middle, lambda pixels: transform(pixels.permute(2, 0, 1)))
            except RuntimeError as error:  # too large, for its memory or for the operator
                logger.debug("A photo is reduced on the CPU, as the device cannot: %s", error)
        tensor = self._transform(Image.fromarray(middle))
        return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)

    def encode_images(self, batch: ModelInput) -> NDArray[np.float32]:
        """See `ClipEngine.encode_images`."""
        return self._encoded("image", batch)

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `ClipEngine.encode_texts`. All prompts go through the model at once."""
        return self._encoded("text", self._tokens(prompts) if len(prompts) else np.empty(0))

    def tokenize(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """See `ClipEngine.tokenize`: a prompt is cut where a place more than L is filled, too."""
        tokens = self._tokens(prompts)
        longer = self._tokens([*prompts, ""], tokens.shape[1] + 1)
        return tokens, longer[:-1, -1] != longer[-1, -1]

    def _tokens(self, prompts: Sequence[str], length: int | None = None) -> NDArray[np.int64]:
        tokens: NDArray[np.int64] = self._tokenizer.get()(list(prompts), length).numpy()
        return tokens

    def _encoded(self, tower: Tower, inputs: NDArray[Any] | torch.Tensor) -> NDArray[np.float32]:
        """Normalised vectors of inputs; those that overflow fp16 are computed again in fp32."""
        if not len(inputs):
            return np.empty((0, self.dimension), np.float32)
        device = self._towers[tower].get()
        vectors = self._vectors(tower, device, inputs)
        overflown = np.logical_not(np.isfinite(vectors).all(axis=1))
        if overflown.any() and device.precision == "fp16":
            logger.warning(
                "%d of %d inputs overflow CLIP in fp16 and are computed in fp32", overflown.sum(), len(inputs)
            )
            places = overflown.nonzero()[0].tolist()
            vectors[overflown] = self._vectors(tower, Device(device.name, "fp32"), inputs[places])
        return vectors

    def _vectors(self, tower: Tower, device: Device, inputs: NDArray[Any] | torch.Tensor) -> NDArray[np.float32]:
        """Normalised vectors of one or more inputs, NaN where they overflow."""
        import torch

        model = self._placed(tower, device)
        with torch.inference_mode(), alone_on(device.name):
            tensor = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
            tensor = tensor.to(device.name)
            if tower == "text":
                vectors = model.encode_text(tensor).float()
            else:
                tensor = tensor.half() if device.precision == "fp16" else tensor
                if device.name == "cuda":
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                on_cpu = device.name == "cpu"
                vectors = self._on_cpu(model, tensor) if on_cpu else _forward(model, tensor, len(tensor))
            unit: NDArray[np.float32] = (vectors / vectors.norm(dim=1, keepdim=True)).cpu().numpy()
        return unit

    def _on_cpu(self, model: Any, photos: torch.Tensor) -> torch.Tensor:
        """Vectors of photos on a CPU, not normalised; how many go together, see the class."""
        import torch

        if self._at_once or len(photos) < _PAIR:
            return _forward(model, photos, self._at_once or 1)
        pair, others = photos[:_PAIR], photos[_PAIR:]
        alone = _forward(model, pair, 1)
        if alone.isfinite().all():
            self._at_once = _PAIR if _forward(model, pair, _PAIR).equal(alone) else 1
        return torch.cat([alone, self._on_cpu(model, others)]) if len(others) else alone

    def _first_that_runs(self, tower: Tower, device: Device, _: Weights) -> Device:
        """The first of the possible devices and precisions that can run a tower."""
        import torch

        failure: Exception | None = None
        for candidate in dict.fromkeys((device, Device(device.name, "fp32"), Device("cpu", "fp32"))):
            if failure is not None:
                message = "CLIP's %s tower falls back to %s in %s: %s"
                logger.warning(message, tower, candidate.name, candidate.precision, failure)
            try:
                self._try_out(tower, candidate)
                return candidate
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except (RuntimeError, ArithmeticError) as error:
                failure = error
        raise _invalid(self._weights, failure) from failure

    def _try_out(self, tower: Tower, device: Device) -> None:
        """Raise where a tower gives no usable vectors."""
        self._placed(tower, device)
        if tower == "text":
            vectors = self._vectors(tower, device, self._tokens(["a photo"]))
            self._compare_with_published(device)
        elif device == Device("cpu", "fp32"):
            return  # there is nothing to fall back to, and one photo takes seconds: the first one tells as well
        else:
            gray = self.preprocess(np.full((64, 64, 3), 127, np.uint8))
            vectors = self._vectors(tower, device, stacked([gray]))
        if not np.isclose(np.linalg.norm(vectors), 1.0, atol=UNIT_NORM_TOLERANCE):
            raise ArithmeticError("a plain gray photo or a short text gives no finite vector")

    def _compare_with_published(self, device: Device) -> None:
        """Raise InvalidWeightsError where the cosine of two prompts is not what the published model gives."""
        for one, other, published in self._weights.text_cosines:
            vectors = self._vectors("text", device, self._tokens([one, other]))
            cosine = float(vectors[0] @ vectors[1])
            if abs(cosine - published) > COSINE_TOLERANCE:
                cause = f"it gives {one!r} and {other!r} the cosine {cosine:.3f}, and the published model {published}"
                raise _invalid(self._weights, ArithmeticError(cause))

    def _placed(self, tower: Tower, device: Device) -> Any:
        """open_clip's model on a device with a tower in place."""
        try:
            with alone_on(device.name):
                return self._model(device).place(tower)
        except MismatchError as error:
            raise _invalid(self._weights, error) from error

    def _model(self, device: Device) -> ClipModel:
        import torch

        with self._lock:
            if device not in self._models:
                try:
                    self._models[device] = ClipModel(self._weights, device, self._copies)
                except (MemoryError, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # a damaged checkpoint or configuration can raise anything
                    raise _invalid(self._weights, error) from error
            return self._models[device]


def _forward(model: Any, photos: torch.Tensor, at_once: int) -> torch.Tensor:
    """Vectors of photos in fp32, as a model gives them, `at_once` at a time."""
    import torch

    return torch.cat([model.encode_image(part).float() for part in torch.split(photos, at_once)])


def _tokenizer(weights: ClipWeights) -> Any:
    """The model's tokenizer. Raises WeightsError where its package is not installed or its files are damaged."""
    try:
        return load_tokenizer(weights)
    except ImportError as error:
        summary = f"the tokenizer of CLIP {weights.source} needs a package that is not installed ({error})"
        raise WeightsError("load_failed", summary, "pip install 'curation-features[transformers]'") from error
    except Exception as error:  # damaged files can raise anything
        raise _invalid(weights, error, str(weights.tokenizer)) from error


def _checked_scale(weights: ClipWeights, scale: float) -> float:
    """A model's logit scale. Raises InvalidWeightsError unless it is a positive number; warns of an untrained one."""
    if not (np.isfinite(scale) and scale > 0):
        raise _invalid(weights, ArithmeticError(f"its logit scale is {scale}"))
    if any(np.isclose(scale, untrained, rtol=1e-6) for untrained in UNTRAINED_SCALES):
        logger.warning(
            "%s (%s) has the logit scale of a model before its training, %.4g: its labels may mean nothing",
            weights.path,
            weights.source,
            scale,
        )
    return scale


def _invalid(weights: Weights, error: Exception | None, where: str = "") -> InvalidWeightsError:
    # The first sentence: torch's next one advises to read a pickle without protection.
    cause = " ".join(str(error).split()).split(". ")[0][:500] or type(error).__name__
    return InvalidWeightsError(
        f"CLIP checkpoint {where or weights.path} ({weights.source}) cannot be used: {cause}",
        "run `curation-features models pull` or copy it again with its open_clip_config.json, or set "
        "CURATION_FEATURES_MODEL to another model",
    )


def _middle(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, or the middle of one that is longer than `MAX_ASPECT` times its short side."""
    limit = MAX_ASPECT * min(rgb.shape[:2])
    height, width = (max(side - limit, 0) // 2 for side in rgb.shape[:2])
    return rgb[height : rgb.shape[0] - height, width : rgb.shape[1] - width]
