"""Zero-shot scores: cosines, confidences and labels from photo and label embeddings.

Source: the zero-shot classification of CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.schema import LABELS_PER_PHOTO, FeatureError, LabelPrediction, LabelScore, round_score

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
    high, low = _split(np.where(finite[:, np.newaxis], embeddings, 0.0))
    label_high, label_low = (part.T for part in _split(label_vectors))
    fine = high @ label_low + low @ label_high
    cosine: NDArray[np.float64] = (high @ label_high) / _HIGH**2 + fine / (_HIGH**2 * _LOW)
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
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :LABELS_PER_PHOTO]
    confidence = np.take_along_axis(confidences(cosine, scale), best, axis=1)
    columns = (best.tolist(), confidence.tolist(), cosine.tolist())
    return [_predict(labels, *row) for row in zip(*columns, strict=True)]


def fallback_prediction(labels: Sequence[str], error: FeatureError, fallback: Sequence[str] = ()) -> LabelPrediction:
    """Return default labels at confidence 0 and cosine 0: `fallback`, or the first of `labels`."""
    names = tuple(fallback or labels)[:LABELS_PER_PHOTO]
    return LabelPrediction(labels=tuple(LabelScore(name, 0.0, 0.0) for name in names), error=error)


def _split(rows: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split numbers in [-1, 1] into integers, `(high + low / _LOW) / _HIGH`, to within 2^-45."""
    scaled = np.multiply(rows, _HIGH, dtype=np.float64)
    high = np.rint(scaled)
    return high, np.rint((scaled - high) * _LOW)


def _predict(labels: Sequence[str], best: list[int], confidence: list[float], cosine: list[float]) -> LabelPrediction:
    """Round the numbers of a photo: the confidence of its `best` labels, and the cosine of all."""
    if math.isnan(cosine[0]):
        return LabelPrediction(error=FeatureError("clip_labels", "not_finite", "the photo's embedding is not finite"))
    scores = (
        LabelScore(labels[index], round_score(value), round_score(max(cosine[index], 0.0)))
        for index, value in zip(best, confidence, strict=True)
    )
    return LabelPrediction(tuple(scores), tuple(map(round_score, cosine)), round_score(confidence[0] - confidence[1]))
