"""The search box: what a user wrote becomes texts to look for, and texts to avoid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from curation_features.search.finding import Found
    from curation_features.search.query import Picture

_QUOTED = re.compile(r'(?<![^\s,:-])"([^"]*)"')  # at the beginning of a word: 5" is a size
_PART = re.compile(rf"(?:{_QUOTED.pattern}|[^,])++")


@dataclass(frozen=True, slots=True)
class Asked:
    """Texts of the search box, each with its weight in front, as in `2:golden hour`."""

    texts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Searcher(Protocol):
    """Finds photos by words and by example: `search.finding.Finder`."""

    def find(
        self,
        texts: Sequence[str],
        *,
        like: Sequence[Picture],
        without: Sequence[str],
        where: str | None,
        top: int,
        seconds: float | None,
    ) -> Found:
        """See `search.finding.Finder.find`."""


def parse(text: str) -> Asked:
    """Parse a search box: texts separated by commas; `-` before a text avoids it; quotes protect commas.

    Example: `beach, 2:golden hour, -"boats, ships"`.
    """
    asked: dict[bool, list[str]] = {True: [], False: []}
    for part in (found[0].strip() for found in _PART.finditer(text)):
        is_wanted = not part.startswith("-")
        words = " ".join(_QUOTED.sub(r"\1", part.removeprefix("-")).split())
        if words:
            asked[is_wanted].append(words)
    return Asked(tuple(asked[True]), tuple(asked[False]))
