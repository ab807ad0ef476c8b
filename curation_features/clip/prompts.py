"""Labels that the model cannot tell apart or reads only in part, because its context length cuts their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from curation_features.clip.engine import ClipEngine
    from curation_features.clip.vocabulary import Vocabulary

_LABELS_AT_ONCE = 64
_SHOWN = 5  # labels of one kind
_LONGEST_SHOWN = 60  # characters of a label


@dataclass(frozen=True, slots=True)
class Unread:
    """What the model does not read of a vocabulary, as its prompts are longer than it takes.

    Attributes:
        length: tokens that the model reads of a prompt.
        cut: in how many templates the prompt of a label is cut; by label, and only of those that are.
        same: pairs of labels of which nothing that differs is read in any template.
    """

    length: int
    cut: Mapping[str, int]
    same: Sequence[tuple[str, str]]

    def warnings(self, vocabulary: Vocabulary) -> Iterator[str]:
        """What to tell of it, a line each."""
        place = {label: f"labels[{position}] {_shown(label)}" for position, label in enumerate(vocabulary.labels)}
        if self.cut:
            templates = len(vocabulary.templates)
            names = [f"{place[label]} (in {count} of {templates} templates)" for label, count in self.cut.items()]
            yield f"The model reads {self.length} tokens of a prompt, and not the rest of {_some(names)}: shorten them"
        if self.same:
            names = [f"{place[first]} and {place[second]}" for first, second in self.same]
            yield f"The model reads the same of {_some(names)}: shorten them, or remove one"


def unread(engine: ClipEngine, vocabulary: Vocabulary) -> Unread:
    """Find out what the model does not read of a vocabulary; no text is encoded."""
    cut: dict[str, int] = {}
    same: list[tuple[str, str]] = []
    first: dict[bytes, str] = {}
    length, templates = 0, len(vocabulary.templates)
    prompts = vocabulary.prompts()
    for start in range(0, len(vocabulary.labels), _LABELS_AT_ONCE):
        labels = vocabulary.labels[start : start + _LABELS_AT_ONCE]
        tokens, is_cut = engine.tokenize(prompts[start * templates : (start + len(labels)) * templates])
        length = tokens.shape[1]
        counts = is_cut.reshape(-1, templates).sum(axis=1).tolist()
        cut |= {label: count for label, count in zip(labels, counts, strict=True) if count}
        for label, rows in zip(labels, np.split(tokens, len(labels)), strict=True):
            twin = first.setdefault(rows.tobytes(), label)
            if twin != label:
                same.append((twin, label))
    return Unread(length, cut, same)


def _shown(label: str) -> str:
    return repr(label if len(label) <= _LONGEST_SHOWN else f"{label[:_LONGEST_SHOWN]}...")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
