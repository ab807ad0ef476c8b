"""The terms of a search: texts and pictures with weights, wanted or not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from curation_features.errors import QueryError

_WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*:(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a search.

    Attributes:
        text: words, or the path of a picture; of a photo of the index its `photo_id`.
        weight: greater than 0; relative to that of the other terms.
        is_picture: whether `text` is a picture.
        is_wanted: whether results resemble it, or shall not.
        sha256: of a photo of the index.
    """

    text: str
    weight: float = 1.0
    is_picture: bool = False
    is_wanted: bool = True
    sha256: str = ""


Picture: TypeAlias = "str | Path | tuple[str, str]"
"""A file, or the `photo_id` and `sha256` of a photo of the index."""


@dataclass(frozen=True, slots=True)
class Query:
    """All terms of a search; at least one is wanted."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, texts: Iterable[str], like: Iterable[Picture] = (), without: Iterable[str] = ()) -> Query:
        """Return the query of some texts and pictures. Each may begin with a weight: `2:golden hour`.

        The name of an existing file has no weight in it.

        Raises:
            QueryError: a term is empty, a weight is 0, or no term is wanted.
        """
        terms = (
            *(_parse(text) for text in texts),
            *(_parse(picture, is_picture=True) for picture in like),
            *(_parse(text, is_wanted=False) for text in without),
        )
        if not any(term.is_wanted for term in terms):
            raise QueryError("a search needs words or a picture: curation-features search 'two parrots'")
        return cls(terms)


def _parse(given: Picture, *, is_picture: bool = False, is_wanted: bool = True) -> Term:
    if isinstance(given, tuple):
        return Term(given[0], is_picture=True, is_wanted=is_wanted, sha256=given[1])
    text, weight = str(given), 1.0
    is_name = is_picture and Path(given).is_file()  # `12:30.jpg`
    if isinstance(given, str) and not is_name and (found := _WEIGHT.fullmatch(given)):
        weight, text = float(found[1]), found[2]
    text = text if is_picture else " ".join(text.split())
    if not text.strip():
        raise QueryError(f"the term {str(given)!r} is empty: give words, such as 'two parrots' or '2:golden hour'")
    if weight == 0:
        raise QueryError(f"the weight of {str(given)!r} is 0: give a larger one, or use --not")
    return Term(text, weight, is_picture, is_wanted)
