"""Labels whose prompts are truncated to the model's context length, or equal after truncation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from curation_features.clip.engine import ClipEngine
    from curation_features.clip.vocabulary import Vocabulary

_SHOWN = 5  # labels per warning
_LONGEST_SHOWN = 60  # characters of a label


@dataclass(frozen=True, slots=True)
class TruncatedPrompts:
    """Labels of a vocabulary that the model reads only in part.

    Attributes:
        length: context length of the model in tokens.
        cut: number of templates in which the prompt is truncated, by label.
        same: pairs of labels whose truncated prompts are equal in all templates.
    """

    length: int
    cut: Mapping[str, int]
    same: Sequence[tuple[str, str]]

    def warnings(self, vocabulary: Vocabulary) -> Iterator[str]:
        """Describe the truncation, one line per warning."""
        named = {label: f"labels[{position}] {_shorten(label)}" for position, label in enumerate(vocabulary.labels)}
        if self.cut:
            templates = len(vocabulary.templates)
            names = [f"{named[label]} (in {count} of {templates} templates)" for label, count in self.cut.items()]
            yield f"The model reads only the first {self.length} tokens of {_join(names)}: shorten them"
        if self.same:
            names = [f"{named[first]} and {named[second]}" for first, second in self.same]
            yield f"The model cannot distinguish {_join(names)}: shorten them, or remove one"


def find_truncated_prompts(engine: ClipEngine, vocabulary: Vocabulary) -> TruncatedPrompts:
    """Find truncated and equal prompts; only the tokenizer runs."""
    tokens, is_cut = engine.tokenize(vocabulary.prompts())
    counts = is_cut.reshape(len(vocabulary.labels), -1).sum(axis=1).tolist()
    cut = {label: count for label, count in zip(vocabulary.labels, counts, strict=True) if count}
    same: list[tuple[str, str]] = []
    first: dict[bytes, str] = {}
    for label, rows in zip(vocabulary.labels, np.split(tokens, len(vocabulary.labels)), strict=True):
        twin = first.setdefault(rows.tobytes(), label)
        if twin != label:
            same.append((twin, label))
    return TruncatedPrompts(tokens.shape[1], cut, same)


def _shorten(label: str) -> str:
    return repr(label if len(label) <= _LONGEST_SHOWN else f"{label[:_LONGEST_SHOWN]}...")


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
