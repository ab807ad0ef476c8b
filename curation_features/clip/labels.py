"""Zero-shot scores: from photo and label vectors to cosines, confidences and labels. Arrays in, records out.

Source: the zero-shot classification of CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.schema import LABELS_PER_PHOTO, SCORE_DECIMALS, FeatureError, Labelling, LabelScore

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cosines(embeddings: NDArray[np.floating[Any]], label_vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Cosine of every photo (rows) and every label (columns), in [-1, 1].

    Args:
        embeddings: (N, D), unit norm. A row that is not finite gives a row that is not finite, and changes no other.
        label_vectors: (L, D), unit norm.
    """
    rows = embeddings.astype(np.float64)
    rows[~np.isfinite(rows).all(axis=1)] = np.nan
    # Not a BLAS product: that one may add up a row in another order when it has other neighbours.
    products: NDArray[np.float64] = np.einsum("nd,ld->nl", rows, label_vectors.astype(np.float64))
    return products.clip(-1.0, 1.0)


def confidences(cosine: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Softmax over all labels (the last axis) of `cosine * scale`; each row lies in [0, 1] and adds up to 1.

    Args:
        cosine: (..., L).
        scale: the model's learned scale, or another temperature; greater than 0.
    """
    with np.errstate(under="ignore", invalid="ignore"):
        logits = (cosine - cosine.max(axis=-1, keepdims=True)) * scale
        odds = np.exp(logits)
        shares: NDArray[np.float64] = odds / odds.sum(axis=-1, keepdims=True)
    return shares


def label_photos(
    embeddings: NDArray[np.floating[Any]],
    label_vectors: NDArray[np.floating[Any]],
    labels: Sequence[str],
    scale: float,
) -> list[Labelling]:
    """The `LABELS_PER_PHOTO` most probable labels of every photo, most probable first, ties by position in `labels`.

    The order is that of the cosines, which the softmax keeps, so that it holds where probabilities round to 0.
    All numbers are rounded to `SCORE_DECIMALS`. A photo whose embedding is not finite gets an error in place of labels.

    Args:
        embeddings: (N, D), unit norm.
        label_vectors: (L, D), unit norm, in the order of `labels`.
        scale: see `confidences`.
    """
    cosine = cosines(embeddings, label_vectors)
    confidence = confidences(cosine, scale)
    return [_labelling(*rows, labels) for rows in zip(cosine, confidence, strict=True)]


def fallback_labelling(labels: Sequence[str], error: FeatureError, fallback: Sequence[str] = ()) -> Labelling:
    """Default labels at confidence 0 and cosine 0: `fallback`, or else the first of `labels`, with the reason."""
    names = tuple(fallback or labels)[:LABELS_PER_PHOTO]
    return Labelling(labels=tuple(LabelScore(name, 0.0, 0.0) for name in names), error=error)


def _labelling(cosine: NDArray[np.float64], confidence: NDArray[np.float64], labels: Sequence[str]) -> Labelling:
    if not np.isfinite(confidence).all():
        return Labelling(error=FeatureError("clip_labels", "not_finite", "the photo's embedding is not finite"))
    best = np.argsort(-cosine, kind="stable")[:LABELS_PER_PHOTO]
    return Labelling(
        labels=tuple(
            LabelScore(labels[at], _rounded(confidence[at]), _rounded(max(cosine[at], 0.0))) for at in best.tolist()
        ),
        cosines=tuple(_rounded(value) for value in cosine),
        margin=_rounded(confidence[best[0]] - confidence[best[1]]),
    )


def _rounded(value: float) -> float:
    return round(float(value), SCORE_DECIMALS) + 0.0  # -0.0 becomes 0.0
