"""CLIP's text tower in NumPy, for a few texts from a cold start.

To import torch and open_clip takes seconds; to embed a query takes a tenth of one. The tower's tensors are mapped from
the checkpoint, so that only those that are used are read. Attention is causal: tokens after the end of a text do not
affect its embedding, and are not computed. (A short query has 5 to 10 tokens, of 77.)

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021; open_clip's
`TextTransformer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.clip import byte_pairs
from curation_features.errors import InvalidWeightsError
from curation_features.weights import ClipWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_PLAIN = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}  # all others change the architecture
_EPSILON = 1e-5
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the format


class TextTower:
    """Embeds texts like `OpenClipEngine.encode_texts`, up to rounding (1e-6).

    Args:
        weights: a checkpoint for which `can_read` is true.

    Raises:
        InvalidWeightsError: the checkpoint lacks a tensor, or one has another shape.
    """

    def __init__(self, weights: ClipWeights) -> None:
        model = weights.config["model_cfg"]
        text = model["text_cfg"]
        self._weights = weights
        self._length = text.get("context_length", 77)
        self._heads = text.get("heads", 8)
        self._layers = text.get("layers", 12)
        self._activation = _quick_gelu if model.get("quick_gelu") else _gelu
        tensors = map_tensors(weights.path)
        prefix = "text." if "text.token_embedding.weight" in tensors else ""
        self._tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}

    def encode_texts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N prompts: (N, D), unit norm. Raises `InvalidWeightsError`."""
        from threadpoolctl import threadpool_limits

        try:
            with threadpool_limits(1, "blas"):  # products of a few rows wait for memory; two threads would spin
                vectors = np.stack([self._encode(byte_pairs.encode(text, self._length)[0]) for text in prompts])
        except (KeyError, ValueError, IndexError) as error:
            raise InvalidWeightsError(
                f"{self._weights.path}: its text tower does not fit its configuration ({error})", "fetch it again"
            ) from error
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise InvalidWeightsError(f"{self._weights.path}: its text tower gives no finite vector", "fetch it again")
        unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
        return unit

    def _encode(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Return the vector at the end of a text, which is its highest id."""
        ids = ids[: ids.index(max(ids)) + 1]
        embedded = self._tensors["token_embedding.weight"][list(ids)].astype(np.float32)
        states = embedded + self._tensor("positional_embedding")[: len(ids)]
        for layer in range(self._layers):
            name = f"transformer.resblocks.{layer}."
            states = states + self._attend(self._normalise(states, f"{name}ln_1"), f"{name}attn.")
            hidden = self._activation(self._apply(self._normalise(states, f"{name}ln_2"), f"{name}mlp.c_fc"))
            states = states + self._apply(hidden, f"{name}mlp.c_proj")
        end: NDArray[np.float64] = self._normalise(states[-1:], "ln_final")[0] @ self._tensor("text_projection")
        return end

    def _attend(self, states: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Causal self-attention of (T, W) states."""
        tokens, width = states.shape
        inputs = states @ self._tensor(f"{name}in_proj_weight").T + self._tensor(f"{name}in_proj_bias")
        queries, keys, values = inputs.reshape(tokens, 3, self._heads, -1).transpose(1, 2, 0, 3)
        scores = queries @ keys.transpose(0, 2, 1) * (width / self._heads) ** -0.5
        scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self._apply((weights @ values).transpose(1, 0, 2).reshape(tokens, width), f"{name}out_proj")

    def _apply(self, states: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        product: NDArray[np.float32] = states @ self._tensor(f"{name}.weight").T
        return product + self._tensor(f"{name}.bias")

    def _normalise(self, states: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        scaled: NDArray[np.float32] = centred / deviation * self._tensor(f"{name}.weight")
        return scaled + self._tensor(f"{name}.bias")

    def _tensor(self, name: str) -> NDArray[np.float32]:
        return self._tensors[name].astype(np.float32, copy=False)


def can_read(weights: ClipWeights) -> bool:
    """Whether `TextTower` knows the architecture, and the checkpoint can be mapped."""
    model = weights.config["model_cfg"]
    text = {name for name, value in model.get("text_cfg", {}).items() if value is not None}
    if weights.tokenizer is not None or "multimodal_cfg" in model or not text <= _PLAIN:
        return False
    try:
        tensors = _read_header(weights.path)
    except (OSError, ValueError):
        return False
    return all(tensor.kind in _TYPES for name, tensor in tensors.items() if not name.startswith("visual."))


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: str
    shape: tuple[int, ...]
    offset: int


def map_tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    """Map the tensors of a safetensors file that have a type of `_TYPES`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file.
    """
    data: Any = np.memmap(path, np.uint8, mode="r")
    found = {}
    for name, tensor in _read_header(path).items():
        if tensor.kind in _TYPES:
            found[name] = np.ndarray(tensor.shape, _TYPES[tensor.kind], data, tensor.offset)
    return found


def _read_header(path: Path) -> dict[str, _Tensor]:
    """Read where the tensors of a safetensors file are (https://github.com/huggingface/safetensors, "Format")."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LARGEST_HEADER:
            raise ValueError("not a safetensors file")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file")
    return {
        name: _Tensor(tensor["dtype"], tuple(tensor["shape"]), 8 + size + tensor["data_offsets"][0])
        for name, tensor in header.items()
        if name != "__metadata__"
    }


def _quick_gelu(states: NDArray[np.float32]) -> NDArray[np.float32]:
    product: NDArray[np.float32] = states / (1 + np.exp(-1.702 * states))
    return product


def _gelu(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """The state times the normal distribution function of it; erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    size = np.abs(states) * np.float32(2**-0.5)
    share = 1 / (1 + 0.3275911 * size)
    terms = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    series = sum(term * share ** (power + 1) for power, term in enumerate(terms))
    erf = np.copysign(1 - series * np.exp(-size * size), states)
    product: NDArray[np.float32] = states * 0.5 * (1 + erf)
    return product
