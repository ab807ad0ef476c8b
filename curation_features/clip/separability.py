"""Separability of the labels of a vocabulary, computed from label embeddings only.

For a photo x and two labels a and b, the difference of the cosines is x.(a - b): the distance |a - b| times the
*alignment*, the projection of x on the unit vector from b to a. The softmax turns it into odds exp(scale x difference).
The model gives distance and scale. Only the alignment needs photos, and it hardly depends on the labels, so
`TYPICAL_ALIGNMENT` is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPICAL_ALIGNMENT = 0.06
"""Projection of a photo's embedding on the unit vector from the nearest other label to its own label.

Seven photos and two vocabularies (500 and 1203 object names), recorded ViT-B/32 embeddings: median 0.058, range 0.005
to 0.127. For any two labels, the median absolute value is 0.022.
"""

INSEPARABLE_ODDS = 3.0
"""Two labels with smaller typical odds are inseparable."""

CLOSE_ODDS = 10.0
"""Two labels with smaller typical odds are close."""

CROWD = 3
"""Minimum number of close labels of a crowded label."""

IDLE_SHIFT = 1.1
"""A template is idle if it changes typical odds by a smaller factor."""

_ROWS_AT_ONCE = 512
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two labels, the cosine of their embeddings, and the typical odds.

    Odds: for a photo of one of them, probability of the right label divided by that of the other; at least 1.
    """

    first: str
    second: str
    cosine: float
    odds: float

    @property
    def verdict(self) -> str:
        """`inseparable`, `close` or `apart`."""
        return "inseparable" if self.odds < INSEPARABLE_ODDS else "close" if self.odds < CLOSE_ODDS else "apart"


@dataclass(frozen=True, slots=True)
class ExpectedConfidence:
    """The expected confidence of a label.

    Attributes:
        confidence: of a typical photo of this label, in [0, 1]: softmax over the typical odds to all other labels.
        close: close labels, nearest first.
    """

    label: str
    confidence: float
    close: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TemplateEffect:
    """Effect of a template on the label embeddings.

    Attributes:
        shift: largest factor over all labels by which typical odds change without it; 1: no change.
        confused: labels whose prompt in this template is nearer to another label's embedding by the other templates.
    """

    template: str
    shift: float
    confused: tuple[str, ...]

    @property
    def is_idle(self) -> bool:
        """Whether the template has almost no effect."""
        return self.shift < IDLE_SHIFT


def typical_odds(cosine: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Compute typical odds (at least 1) from cosines of label embeddings; see the module.

    Args:
        cosine: in [-1, 1].
        scale: the learned scale, or another temperature; greater than 0.
    """
    with np.errstate(over="ignore"):
        odds: NDArray[np.float64] = np.exp(scale * TYPICAL_ALIGNMENT * np.sqrt(np.clip(2.0 - 2.0 * cosine, 0.0, 4.0)))
    return odds


def nearest_pairs(
    vectors: NDArray[np.floating[Any]], labels: Sequence[str], scale: float, count: int = 10
) -> list[LabelPair]:
    """Return the `count` pairs of labels with the highest cosine, ties by position.

    Args:
        vectors: (L, D), in the order of `labels`.
    """
    nearest: list[tuple[float, int, int]] = []
    for start, cosine in _cosine_rows(vectors):
        cosine[np.tri(len(cosine), len(labels), k=start, dtype=bool)] = -np.inf  # each pair once
        best = np.argsort(-cosine, axis=None, kind="stable")[:count].tolist()
        indices = (divmod(index, len(labels)) for index in best if cosine.flat[index] > -np.inf)
        nearest += [(-float(cosine[row, column]), row + start, column) for row, column in indices]
    pairs = [(labels[row], labels[column], -negative) for negative, row, column in sorted(nearest)[:count]]
    odds = typical_odds(np.array([cosine for *_, cosine in pairs]), scale)
    return [LabelPair(*pair, float(value)) for pair, value in zip(pairs, odds, strict=True)]


def expected_confidences(
    vectors: NDArray[np.floating[Any]], labels: Sequence[str], scale: float
) -> list[ExpectedConfidence]:
    """Compute the expected confidence of each label, in their order.

    Args:
        vectors: (L, D), in the order of `labels`.
    """
    expected = []
    for start, cosine in _cosine_rows(vectors):
        for row, odds in enumerate(typical_odds(cosine, scale)):
            others = np.delete(np.arange(len(labels)), start + row)
            near = others[odds[others] < CLOSE_ODDS]
            close = tuple(labels[index] for index in near[np.argsort(odds[near], kind="stable")])
            confidence = float(1.0 / (1.0 + (1.0 / odds[others]).sum()))
            expected.append(ExpectedConfidence(labels[start + row], confidence, close))
    return expected


def template_effects(
    prompts: NDArray[np.floating[Any]], labels: Sequence[str], templates: Sequence[str], scale: float
) -> list[TemplateEffect]:
    """Compare each template with the mean of the others; empty for a single template.

    Args:
        prompts: (L, T, D), unit norm: embeddings of every label in every template.
    """
    if len(templates) < 2:
        return []
    sums = prompts.sum(axis=1, dtype=np.float64)
    effects = []
    for index, template in enumerate(templates):
        others = _unit(sums - prompts[:, index])
        shift = np.linalg.norm(_unit(sums) - others, axis=1).max()
        own = (_unit(prompts[:, index]) * others).sum(axis=1) + _ROUNDING
        best = np.concatenate([cosine.max(axis=1) for _, cosine in _cosine_rows(others, prompts[:, index])])
        confused = [label for label, is_other in zip(labels, best > own, strict=True) if is_other]
        effects.append(TemplateEffect(template, float(np.exp(scale * TYPICAL_ALIGNMENT * shift)), tuple(confused)))
    return effects


def _cosine_rows(
    vectors: NDArray[np.floating[Any]], rows: NDArray[np.floating[Any]] | None = None
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield cosines of `rows` (by default the vectors) and all vectors in blocks, with the first row's index.

    So memory does not grow with the square of the number of labels.
    """
    unit = _unit(vectors)
    rows = unit if rows is None else _unit(rows)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield start, (rows[start : start + _ROWS_AT_ONCE] @ unit.T).clip(-1.0, 1.0)


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
