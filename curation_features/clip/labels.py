"""Zero-shot scores: cosines, confidences and labels from photo and label embeddings.

Source: the zero-shot classification of CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.schema import LABELS_PER_PHOTO, SCORE_DECIMALS, FeatureError, LabelPrediction, LabelScore

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A plain float64 product is not enough: its last bits depend on the other rows of the batch (BLAS), and now and then
# they change a rounded score or the order of equal labels.
#
# Unit vectors are scaled by 2^26: no partial sum of a dot product exceeds 2^52, and integers up to 2^53 are exact. The
# remainder of a number is at most 2^-27, or 2^17 units of 2^-44: its sums are exact, too, up to 2^18 dimensions. The
# product of two remainders adds less than 1e-13 and is omitted.
_HIGH = 2.0**26
_LOW = 2.0**18

_PHOTOS_AT_ONCE = 128  # the operands of a product fit a core's cache
_NEAR_A_HALF = 1e-9  # about eight units in the last place of 10^6


def cosines(embeddings: NDArray[np.floating[Any]], label_vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the cosine of every photo (rows) and label (columns), in [-1, 1], to within 1e-13.

    A cosine depends only on its two vectors, bit for bit: not on other rows and columns, threads, BLAS or machine. The
    vectors are split into slices of small integers, whose sums need no rounding and are equal in any order (Ozaki,
    Ogita, Oishi and Rump 2012, "Error-free transformations of matrix multiplication by using fast routines of matrix
    multiplication").

    Args:
        embeddings: (N, D), unit norm. A row that is not finite gives NaN and does not affect other rows.
        label_vectors: (L, D), unit norm.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        embeddings = np.where(finite[:, np.newaxis], embeddings, 0.0)
    labels = len(label_vectors)
    label_high, label_low = _split(label_vectors)
    label_slices = np.concatenate([label_high, label_low]).T
    cosine = np.empty((len(embeddings), labels))
    for start in range(0, len(embeddings), _PHOTOS_AT_ONCE):
        high, low = _split(embeddings[start : start + _PHOTOS_AT_ONCE])
        products = high @ label_slices
        fine = products[:, labels:] + low @ label_high.T
        cosine[start : start + len(high)] = products[:, :labels] / _HIGH**2 + fine / (_HIGH**2 * _LOW)
    cosine[~finite] = np.nan
    return cosine.clip(-1.0, 1.0)


def confidences(cosine: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Compute the softmax of `cosine * scale` over all labels (the last axis).

    Args:
        cosine: (..., L).
        scale: the learned scale, or another temperature; greater than 0.
    """
    with np.errstate(under="ignore", invalid="ignore"):
        logits = (cosine - cosine.max(axis=-1, keepdims=True)) * scale
        odds = np.exp(logits)
        probabilities: NDArray[np.float64] = odds / odds.sum(axis=-1, keepdims=True)
    return probabilities


def label_photos(
    embeddings: NDArray[np.floating[Any]],
    label_vectors: NDArray[np.floating[Any]],
    labels: Sequence[str],
    scale: float,
) -> list[LabelPrediction]:
    """Return the `LABELS_PER_PHOTO` most probable labels of every photo, ties by position in `labels`.

    Labels are ordered by cosine, so the order is right even if probabilities round to 0. All numbers are rounded to
    `SCORE_DECIMALS`. A photo whose embedding is not finite has an error instead of labels.

    Args:
        embeddings: (N, D), unit norm.
        label_vectors: (L, D), unit norm, in the order of `labels`.
        scale: see `confidences`.
    """
    cosine = cosines(embeddings, label_vectors)
    best = _top(cosine)
    confidence = np.take_along_axis(confidences(cosine, scale), best, axis=1)
    score = np.take_along_axis(cosine, best, axis=1).clip(min=0.0)
    columns = (
        np.array(labels, dtype=object)[best].tolist(),
        rounded(confidence).tolist(),
        rounded(score).tolist(),
        rounded(cosine).tolist(),
        rounded(confidence[:, 0] - confidence[:, 1]).tolist(),
    )
    return [_prediction(*row) for row in zip(*columns, strict=True)]


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round numbers in [-1, 1] like `round(value, SCORE_DECIMALS)`, bit for bit, but never to -0.0.

    `np.round` multiplies first, and the product may be on the wrong side of a half.
    """
    scaled = values * 10.0**SCORE_DECIMALS
    whole = np.rint(scaled)
    result: NDArray[np.float64] = whole / 10.0**SCORE_DECIMALS
    uncertain = np.abs(np.abs(scaled - whole) - 0.5) < _NEAR_A_HALF
    result[uncertain] = [round(value, SCORE_DECIMALS) for value in values[uncertain].tolist()]
    return result + 0.0


def fallback_prediction(labels: Sequence[str], error: FeatureError, fallback: Sequence[str] = ()) -> LabelPrediction:
    """Return default labels at confidence 0 and cosine 0: `fallback`, or the first of `labels`."""
    names = tuple(fallback or labels)[:LABELS_PER_PHOTO]
    return LabelPrediction(labels=tuple(LabelScore(name, 0.0, 0.0) for name in names), error=error)


def _split(rows: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split numbers in [-1, 1] into integers, `(high + low / _LOW) / _HIGH`, to within 2^-45."""
    scaled = np.multiply(rows, _HIGH, dtype=np.float64)
    high = np.rint(scaled)
    low = np.subtract(scaled, high, out=scaled)
    low *= _LOW
    return high, np.rint(low, out=low)


def _top(cosine: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the indices of the `LABELS_PER_PHOTO` largest numbers of each row, ties by index."""
    remaining, rows = cosine.copy(), np.arange(len(cosine))
    indices = np.empty((len(cosine), min(LABELS_PER_PHOTO, cosine.shape[1])), np.intp)
    for rank in range(indices.shape[1]):
        indices[:, rank] = remaining.argmax(axis=1)  # the first of equal numbers
        remaining[rows, indices[:, rank]] = -np.inf
    return indices


def _prediction(
    names: list[str], confidence: list[float], score: list[float], cosine: list[float], margin: float
) -> LabelPrediction:
    if math.isnan(margin):
        return LabelPrediction(error=FeatureError("clip_labels", "not_finite", "the photo's embedding is not finite"))
    return LabelPrediction(tuple(map(LabelScore, names, confidence, score)), tuple(cosine), margin)
