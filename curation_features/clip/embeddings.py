"""Image embeddings of a `ClipEngine` with their norms, if the engine reports them.

A cosine needs unit vectors only. The norm that a vector had before is a separate measurement, which a unit vector
cannot restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Embeddings(NamedTuple):
    """Unit vectors (N, D) with the Euclidean norms (N,) that they had before; both float32.

    A row that is not finite is NaN in `vectors`; its norm means nothing.
    """

    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]


class ImageEncoder(Protocol):
    """The method of a `ClipEngine` that embeds images; the norms of its vectors are unknown."""

    def encode_images(self, batch: Any) -> NDArray[np.float32]:
        """Embed a batch (N, 3, S, S) of inputs: (N, D), unit norm."""


class NormedImageEncoder(ImageEncoder, Protocol):
    """An engine that reports norms, too; a user-supplied engine need not."""

    def embed_images(self, batch: Any) -> Embeddings:
        """Embed a batch (N, 3, S, S) of inputs, to the vectors of `encode_images` and their norms."""


def embed_images(
    engine: ImageEncoder | NormedImageEncoder, batch: Any
) -> tuple[NDArray[np.float32], Sequence[float | None]]:
    """Embed a batch (N, 3, S, S) of inputs in one forward pass.

    Returns:
        Unit vectors (N, D), and the norm of each before it was normalised; None if the engine does not report it.
    """
    if _has_norms(engine):
        found = engine.embed_images(batch)
        return found.vectors, np.asarray(found.norms, np.float64).tolist()
    vectors = engine.encode_images(batch)
    return vectors, [None] * len(vectors)


def _has_norms(engine: ImageEncoder | NormedImageEncoder) -> TypeGuard[NormedImageEncoder]:
    """Whether an engine has an `embed_images` that belongs to its `encode_images`.

    If a subclass, a wrapper or the object itself replaces `encode_images` alone, the inherited `embed_images` would
    return other vectors.
    """
    for names in (getattr(engine, "__dict__", {}), *map(vars, type(engine).__mro__)):
        if "embed_images" in names or "encode_images" in names:
            return "embed_images" in names
    return False
