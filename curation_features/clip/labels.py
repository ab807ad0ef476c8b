"""Zero-shot scores: from photo and label vectors to cosines, confidences and labels. Arrays in, records out.

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

# Two vectors of unit norm times 2^26 each: no part of their dot product exceeds 2^52, and whole numbers up to 2^53 are
# exact. What is left of a number is at most half of 2^-26, or 2^17 of its 2^18 parts: the same holds for it, up to 2^18
# dimensions. The product of two such rests adds less than 1e-13, and is left out.
_HIGH = 2.0**26
_LOW = 2.0**18

_PHOTOS_AT_ONCE = 128  # so that what a product needs stays in a core's cache
_NEAR_A_HALF = 1e-9  # some eight units in the last place of 10^6


def cosines(embeddings: NDArray[np.floating[Any]], label_vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Cosine of every photo (rows) and every label (columns), in [-1, 1], to within 1e-13.

    A cosine follows from its two vectors alone, to the last bit: other rows and columns, the number of threads, the
    BLAS and the machine make no difference. The vectors are cut into slices of whole numbers so small that no sum over
    them needs rounding, and sums without rounding come out the same in any order (Ozaki, Ogita, Oishi and Rump 2012,
    "Error-free transformations of matrix multiplication by using fast routines of matrix multiplication").

    Args:
        embeddings: (N, D), unit norm. A row that is not finite gives a row that is not finite, and changes no other.
        label_vectors: (L, D), unit norm.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        embeddings = np.where(finite[:, np.newaxis], embeddings, 0.0)
    labels = len(label_vectors)
    label_high, label_low = _slices(label_vectors)
    label_slices = np.concatenate([label_high, label_low]).T
    found = np.empty((len(embeddings), labels))
    for start in range(0, len(embeddings), _PHOTOS_AT_ONCE):
        high, low = _slices(embeddings[start : start + _PHOTOS_AT_ONCE])
        products = high @ label_slices
        fine = products[:, labels:] + low @ label_high.T
        found[start : start + len(high)] = products[:, :labels] / _HIGH**2 + fine / (_HIGH**2 * _LOW)
    found[~finite] = np.nan
    return found.clip(-1.0, 1.0)


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
) -> list[LabelPrediction]:
    """The `LABELS_PER_PHOTO` most probable labels of every photo, most probable first, ties by position in `labels`.

    The order is that of the cosines, which the softmax keeps, so that it holds where probabilities round to 0.
    All numbers are rounded to `SCORE_DECIMALS`. A photo whose embedding is not finite gets an error in place of labels.

    Args:
        embeddings: (N, D), unit norm.
        label_vectors: (L, D), unit norm, in the order of `labels`.
        scale: see `confidences`.
    """
    cosine = cosines(embeddings, label_vectors)
    best = _first(cosine)
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
    """Numbers in [-1, 1] as `round(value, SCORE_DECIMALS)` rounds each of them, to the last bit; none is -0.0.

    `np.round` multiplies before it rounds, and that product may fall on the wrong side of a half.
    """
    scaled = values * 10.0**SCORE_DECIMALS
    whole = np.rint(scaled)
    found: NDArray[np.float64] = whole / 10.0**SCORE_DECIMALS
    unsure = np.abs(np.abs(scaled - whole) - 0.5) < _NEAR_A_HALF
    found[unsure] = [round(value, SCORE_DECIMALS) for value in values[unsure].tolist()]
    return found + 0.0


def fallback_prediction(labels: Sequence[str], error: FeatureError, fallback: Sequence[str] = ()) -> LabelPrediction:
    """Default labels at confidence 0 and cosine 0: `fallback`, or else the first of `labels`, with the reason."""
    names = tuple(fallback or labels)[:LABELS_PER_PHOTO]
    return LabelPrediction(labels=tuple(LabelScore(name, 0.0, 0.0) for name in names), error=error)


def _slices(rows: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers in [-1, 1] as `(high + low / _LOW) / _HIGH`, where both are whole, to within 2^-45."""
    scaled = np.multiply(rows, _HIGH, dtype=np.float64)
    high = np.rint(scaled)
    low = np.subtract(scaled, high, out=scaled)
    low *= _LOW
    return high, np.rint(low, out=low)


def _first(cosine: NDArray[np.float64]) -> NDArray[np.intp]:
    """The places of the `LABELS_PER_PHOTO` largest numbers of each row, largest first, ties by place."""
    left, rows = cosine.copy(), np.arange(len(cosine))
    places = np.empty((len(cosine), min(LABELS_PER_PHOTO, cosine.shape[1])), np.intp)
    for rank in range(places.shape[1]):
        places[:, rank] = left.argmax(axis=1)  # the first of equal ones
        left[rows, places[:, rank]] = -np.inf
    return places


def _prediction(
    names: list[str], confidence: list[float], score: list[float], cosine: list[float], margin: float
) -> LabelPrediction:
    if math.isnan(margin):
        return LabelPrediction(error=FeatureError("clip_labels", "not_finite", "the photo's embedding is not finite"))
    return LabelPrediction(tuple(map(LabelScore, names, confidence, score)), tuple(cosine), margin)
