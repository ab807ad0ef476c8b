"""Scores of all photos of an index for a query.

All texts make one direction, and all pictures another: the weighted mean of unit vectors. An unwanted term is projected
out of the direction of its kind. The two directions are not added: cosines of a text with photos are about 0.2, and
differ by 0.03, those of a picture are 0.5 and differ by 0.1, so that a picture would drown all words. Each direction
has the standard score of its cosines instead, and these are added with the weights of their terms.

An unwanted text would change the direction of a picture little, as the two are nearly orthogonal. Without wanted texts
it is a separate direction, which counts negatively.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from curation_features.errors import QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.search.query import Term

_BLOCK = 64  # scores of which the best is compared, to find the best of all
_LEAST_NORM = 1e-3
_LEAST_DEVIATION = 1e-3  # of nearly equal photos: smaller differences are rounding errors


@dataclass(frozen=True, slots=True)
class Directions:
    """The vectors that photos are compared with.

    Attributes:
        vectors: (K, D) float32, norm 1.
        weights: K numbers; negative for what is not wanted.
        main: (D,) float32: the weighted mean of the wanted ones, norm 1, for a single cosine.
    """

    vectors: NDArray[np.float32]
    weights: NDArray[np.float32]
    main: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of N photos.

    Attributes:
        standard: (N,) float32: how many standard deviations a photo is above the mean of all of them.
        means, deviations: (K,) of the cosines with each direction.
    """

    standard: NDArray[np.float32]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]


def directions(terms: Sequence[Term], vectors: NDArray[np.float32]) -> Directions:
    """Return the directions of terms with these unit vectors (T, D).

    Raises:
        QueryError: what is wanted and what is not are the same.
    """
    found: list[NDArray[np.float64]] = []
    weights: list[float] = []
    for is_picture in (False, True):
        wanted, unwanted = (
            [
                (term.weight, vector)
                for term, vector in zip(terms, vectors, strict=True)
                if term.is_picture == is_picture and term.is_wanted == is_wanted
            ]
            for is_wanted in (True, False)
        )
        if wanted:
            found.append(_project_out(_mean(wanted), [vector for _, vector in unwanted]))
            weights.append(sum(weight for weight, _ in wanted))
        elif unwanted:
            found.append(_mean(unwanted))
            weights.append(-sum(weight for weight, _ in unwanted))
    stacked, weighted = np.stack(found), np.array(weights)
    main = stacked[weighted > 0].T @ weighted[weighted > 0]
    return Directions(stacked.astype(np.float32), weighted.astype(np.float32), _unit(main).astype(np.float32))


def _mean(weighted: Sequence[tuple[float, NDArray[np.float32]]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = sum(weight * vector.astype(np.float64) for weight, vector in weighted)  # type: ignore[assignment]
    return _unit(mean)


def _project_out(vector: NDArray[np.float64], unwanted: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the part of a vector that is orthogonal to all unwanted ones, norm 1."""
    if not unwanted:
        return vector
    basis, _ = np.linalg.qr(np.stack(unwanted).astype(np.float64).T)
    return _unit(vector - basis @ (basis.T @ vector))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = float(np.linalg.norm(vector))
    if norm < _LEAST_NORM:
        raise QueryError("what is wanted and what is not are the same: change the words after --not")
    return vector / norm


def score(cosines: NDArray[np.float32], weights: NDArray[np.float32]) -> Scores:
    """Return the scores of photos with these cosines (K, N) with each direction."""
    means = cosines.mean(axis=1, dtype=np.float64)
    centred = cosines - means[:, None].astype(np.float32)
    squares = np.array([row @ row for row in centred], np.float64)
    deviations = np.maximum(np.sqrt(squares / cosines.shape[1]), _LEAST_DEVIATION)
    return Scores((_scales(deviations, weights) @ centred), means, deviations)


def score_more(cosines: NDArray[np.float32], scores: Scores, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard scores (N,) of photos with these cosines (N, K), beside those that were scored before."""
    standard: NDArray[np.float32] = (cosines - scores.means.astype(np.float32)) @ _scales(scores.deviations, weights)
    return standard


def _scales(deviations: NDArray[np.float64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    scales: NDArray[np.float64] = weights / deviations / np.linalg.norm(weights)
    return scales.astype(np.float32)


def best_places(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the places of at least `count` finite scores (all, if there are fewer), the best first, then by place.

    At least `count` scores reach the best one of each of the `count` best blocks, so that only those are sorted.
    """
    blocks = scores[: len(scores) // _BLOCK * _BLOCK].reshape(_BLOCK, -1).max(axis=0)
    least = np.partition(blocks, -count)[-count] if count <= len(blocks) else np.float32(-np.inf)
    places = np.flatnonzero((scores >= least) & (scores > -np.inf))
    return places[np.argsort(-scores[places], kind="stable")]
