"""The search box: what a user wrote becomes texts to look for, and texts to avoid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from curation_features.search.finding import Found
    from curation_features.search.query import Picture

_PART = re.compile(
    r"""\s*(?P<minus>-\s*)?(?:(?P<weight>\d+(?:\.\d+)?:)?"(?P<quoted>[^"]*)"|(?P<plain>[^,"]+))\s*(?:,|$)|,"""
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Texts of the search box, each with its weight in front, as in `2:golden hour`."""

    texts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Searcher(Protocol):
    """Finds photos by words and by example: `search.finding.Finder`."""

    def find(
        self, texts: Sequence[str], *, like: Sequence[Picture], without: Sequence[str], where: str | None, top: int
    ) -> Found:
        """See `search.library.Library.find`."""


def parse(text: str) -> Asked:
    """Parse a search box: texts separated by commas; `-` before a text avoids it; quotes protect commas.

    Example: `beach, 2:golden hour, -"boats, ships"`.
    """
    texts: list[str] = []
    without: list[str] = []
    for found in _PART.finditer(text):
        words = found["plain"] if found["quoted"] is None else f"{found['weight'] or ''}{found['quoted']}"
        words = " ".join((words or "").split())
        if words:
            (without if found["minus"] else texts).append(words)
    return Asked(tuple(texts), tuple(without))
