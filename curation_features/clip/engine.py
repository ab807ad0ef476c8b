"""The CLIP model behind a small protocol, and its implementation with open_clip."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from curation_features.device import Device, announce, select_device
from curation_features.errors import InvalidWeightsError
from curation_features.models import LazyModel, Weights, locate_clip
from curation_features.settings import Settings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAX_ASPECT = 32
"""A longer photo is cut to its middle before it is resized, which would else make gigabytes of a 1 x 20,000 photo."""


class ClipEngine(Protocol):
    """A model that puts images and texts into one space. All methods may be called from several threads."""

    @property
    def dimension(self) -> int:
        """Length D of a vector."""

    @property
    def logit_scale(self) -> float:
        """The learned scale of cosines before a softmax (about 100); greater than 0."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's input, (3, S, S), for an upright RGB image (H, W, 3)."""

    def encode_images(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (N, D) of unit norm for a batch of inputs (N, 3, S, S)."""

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (N, D) of unit norm for N prompts."""


def clip_model(settings: Settings) -> LazyModel[ClipEngine]:
    """The engine that `settings` name: located when its identity is asked for, loaded on first use."""

    def load(weights: Weights) -> ClipEngine:
        device = select_device(settings)
        announce(device)
        return load_open_clip(weights, device)

    return LazyModel(lambda: locate_clip(settings), load)


def load_open_clip(weights: Weights, device: Device) -> OpenClipEngine:
    """Load an open_clip checkpoint and try it once.

    Where the device lacks an operator, or fp16 cannot hold the numbers, the model runs in fp32 or on the CPU; a
    warning says so.

    Raises:
        InvalidWeightsError: the checkpoint does not fit its configuration, is damaged, or gives no finite vectors.
    """
    import torch

    logger.info("Loading OpenCLIP model: %s", weights.source)
    failure: Exception | None = None
    for candidate in dict.fromkeys((device, Device(device.name, "fp32"), Device("cpu", "fp32"))):
        if failure is not None:
            logger.warning("CLIP falls back to %s in %s: %s", candidate.name, candidate.precision, failure)
        try:
            engine = OpenClipEngine(weights, candidate)
            _try_out(engine)
            return engine
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ArithmeticError) as error:
            failure = error
    raise _invalid(weights, failure) from failure


class OpenClipEngine:
    """A `ClipEngine` of open_clip. Inputs are open_clip's own; vectors are normalised in fp32.

    On the CPU photos go through the model one at a time: that is as fast, and a photo's vector is the same whatever its
    neighbours are. A photo that overflows fp16 is computed again in fp32.

    Args:
        weights: a checkpoint beside its `open_clip_config.json`.

    Raises:
        InvalidWeightsError: the checkpoint does not fit its configuration, or is damaged.
    """

    def __init__(self, weights: Weights, device: Device) -> None:
        self._weights = weights
        self._device = device
        self._model, self._transform, self._tokenizer = _create(weights, device)
        self._full_precision: Any = self._model if device.precision == "fp32" else None
        self._lock = threading.Lock()
        self.logit_scale: float = float(self._model.logit_scale.detach().float().exp())
        self.dimension: int = self.encode_texts(["a photo"]).shape[1]

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self._device

    @property
    def overflows(self) -> bool:
        """Whether some input so far could not be computed in fp16."""
        return self._device.precision == "fp16" and self._full_precision is not None

    def preprocess(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's own transform; see `ClipEngine.preprocess`, and `MAX_ASPECT` for very long photos."""
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ValueError(f"expected an RGB image (H, W, 3) of uint8, not {rgb.shape} of {rgb.dtype}")
        tensor = self._transform(Image.fromarray(np.ascontiguousarray(_middle(rgb))))
        return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)

    def encode_images(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `ClipEngine.encode_images`."""
        import torch

        def encode(model: Any, rows: NDArray[np.bool_]) -> torch.Tensor:
            inputs = torch.tensor(batch[rows], device=self._device.name)
            if model is not self._full_precision:
                inputs = inputs.half()
            parts = torch.split(inputs, 1) if self._device.name == "cpu" else [inputs]
            return torch.cat([model.encode_image(part).float() for part in parts])

        return self._encode(encode, len(batch))

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `ClipEngine.encode_texts`. All prompts go through the model at once."""
        tokens: Any = self._tokenizer(list(prompts)) if len(prompts) else None

        def encode(model: Any, rows: NDArray[np.bool_]) -> torch.Tensor:
            vectors: torch.Tensor = model.encode_text(tokens[rows].to(self._device.name)).float()
            return vectors

        return self._encode(encode, len(prompts))

    def _encode(self, encode: Callable[[Any, NDArray[np.bool_]], torch.Tensor], count: int) -> NDArray[np.float32]:
        """Normalised vectors of `count` inputs; those that overflow fp16 are computed again in fp32."""
        if not count:
            return np.empty((0, self.dimension), np.float32)
        vectors = _normalised(encode, self._model, np.full(count, True))
        overflown: NDArray[np.bool_] = np.logical_not(np.isfinite(vectors).all(axis=1))
        if overflown.any() and self._device.precision == "fp16":
            logger.warning("%d of %d inputs overflow CLIP in fp16 and are computed in fp32", overflown.sum(), count)
            vectors[overflown] = _normalised(encode, self._in_full_precision(), overflown)
        return vectors

    def _in_full_precision(self) -> Any:
        with self._lock:
            if self._full_precision is None:
                self._full_precision, _, _ = _create(self._weights, Device(self._device.name, "fp32"))
            return self._full_precision


def _normalised(
    encode: Callable[[Any, NDArray[np.bool_]], torch.Tensor], model: Any, rows: NDArray[np.bool_]
) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        vectors = encode(model, rows)
        unit: NDArray[np.float32] = (vectors / vectors.norm(dim=1, keepdim=True)).cpu().numpy()
    return unit


def _create(weights: Weights, device: Device) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer out of the folder of a checkpoint."""
    import open_clip
    import torch

    folder = f"local-dir:{weights.path.parent}"
    try:
        with _quiet_root_logger():
            # create_model would give a random model where it finds no weights; this one raises.
            model, transform = open_clip.create_model_from_pretrained(
                folder, precision=device.precision, device=device.name
            )
            tokenizer = open_clip.get_tokenizer(folder)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged checkpoint or configuration can raise anything
        raise _invalid(weights, error) from error
    return model.eval(), transform, tokenizer


def _invalid(weights: Weights, error: Exception | None) -> InvalidWeightsError:
    cause = " ".join(str(error).split())[:500] or type(error).__name__
    return InvalidWeightsError(
        f"CLIP checkpoint {weights.path} ({weights.source}) cannot be used: {cause}; fetch or copy it again together "
        "with its open_clip_config.json, or set CURATION_FEATURES_MODEL to another model"
    )


def _try_out(engine: OpenClipEngine) -> None:
    """Raise ArithmeticError where a model that has just been loaded gives no usable vectors."""
    image = engine.preprocess(np.full((64, 64, 3), 127, np.uint8))
    for vectors in (engine.encode_images(image[np.newaxis]), engine.encode_texts(["a photo"])):
        if not np.isclose(np.linalg.norm(vectors), 1.0, atol=1e-3):
            raise ArithmeticError("its vectors are not finite")
    if engine.overflows:
        raise ArithmeticError("a plain gray photo or a short text overflows fp16")
    if not (np.isfinite(engine.logit_scale) and engine.logit_scale > 0):
        raise ArithmeticError(f"its logit scale is {engine.logit_scale}")


def _middle(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, or the middle of one that is longer than `MAX_ASPECT` times its short side."""
    limit = MAX_ASPECT * min(rgb.shape[:2])
    height, width = (max(side - limit, 0) // 2 for side in rgb.shape[:2])
    return rgb[height : rgb.shape[0] - height, width : rgb.shape[1] - width]


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
