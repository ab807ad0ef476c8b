"""A selection of photos: facets, a name and a filter in SQL, and an order, as the page's address gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation_features.errors import QueryError
from curation_features.schema import METRICS
from curation_features.search.tables import literal

FACETS: Mapping[str, str] = {
    "batch": "batch_id",
    "status": "status",
    "label": "label",
    "camera": "camera",
    "month": "strftime(taken, '%Y-%m')",
    "kind": "group_kind",
}
"""Facets with one value for each photo, as SQL; a chosen empty value selects photos without one."""

LISTS: Mapping[str, str] = {
    "flag": "list_concat(coalesce(flags, []), coalesce(hints, []))",
    "reason": "coalesce([e.stage || ': ' || e.reason for e in errors], [])",
}
"""Facets with any number of values for each photo, as SQL; a chosen empty value selects photos without any."""

LOADED = (
    *("batch_id", "position", "original_uri", "image_uri", "taken", "status", "errors", "camera", "iso", "label"),
    *("confidence", "width", "height", *(metric.name for metric in METRICS), "blur_px", "flags", "hints"),
    *("group_id", "group_kind", "group_rank", "group_copy_of"),
)
"""Columns of facets, orders and conditions, which are kept in memory."""

_LAST = "batch_id DESC, position"
_BEST = "group_id IS NULL OR group_kind = 'set' OR (group_rank = 1 AND group_copy_of IS NULL)"

ORDERS: Mapping[str, tuple[str, bool]] = {
    "taken": ("taken", True),
    **{metric.name: (metric.name, metric.best == 1) for metric in METRICS},
    "blur_px": ("blur_px", True),
    "confidence": ("confidence", True),
    "iso": ("iso", False),
    "name": ("coalesce(original_uri, image_uri)", False),
    "size": ("width::BIGINT * height", True),
}
"""Orders: an SQL expression, and whether the usual direction descends."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The photos that a page shows.

    Attributes:
        chosen: facet -> chosen values, of which a photo must have one.
        name: a part of its path or of the id of its batch, in any case.
        where: an SQL expression of the user.
        is_best: only the best photo of each burst, and of all copies of a picture.
        order: a key of `ORDERS`.
        is_turned: the order's other direction.
    """

    chosen: Mapping[str, Sequence[str]]
    name: str = ""
    where: str = ""
    is_best: bool = False
    order: str = "taken"
    is_turned: bool = False

    @property
    def sql_order(self) -> str:
        """Return the order as SQL; photos without a value are last."""
        column, descends = ORDERS[self.order]
        direction = "DESC" if descends != self.is_turned else "ASC"
        return f"ORDER BY {column} {direction} NULLS LAST, {_LAST}"

    def conditions(self, but: str = "") -> str:
        """Return the facets and the name as an SQL expression, without the facet `but`; empty if all photos match."""
        parts = [_condition(facet, values) for facet, values in self.chosen.items() if values and facet != but]
        if self.name.strip():
            path = "lower(concat_ws(' ', batch_id, original_uri, image_uri))"
            parts += [f"contains({path}, lower({literal(word)}))" for word in self.name.split()]
        if self.is_best:
            parts.append(_BEST)
        return " AND ".join(f"({part})" for part in parts)

    @property
    def sql(self) -> str | None:
        """Return all filters as one SQL expression; None if all photos match. `where` must be one expression."""
        parts = [part for part in (self.where, self.conditions()) if part]
        return " AND ".join(f"(\n{part}\n)" for part in parts) or None

    def key(self) -> str:
        """Return a word that no other selection has."""
        return _word("view", self.where, self.conditions(), self.sql_order)

    def where_key(self) -> str:
        """Return a word that no other filter of the user has."""
        return _word("where", self.where)


def selection_from(given: Mapping[str, Sequence[str]]) -> Selection:
    """Return the selection of an address. Raises `QueryError`: the order is unknown."""
    order = _first(given, "sort") or "taken"
    if order not in ORDERS:
        raise QueryError(f"there is not an order {order!r}; orders: {', '.join(ORDERS)}")
    return Selection(
        chosen={facet: tuple(given[facet]) for facet in (*FACETS, *LISTS) if given.get(facet)},
        name=_first(given, "name"),
        where=_first(given, "where").strip(),
        is_best=_first(given, "best") == "1",
        order=order,
        is_turned=_first(given, "turned") == "1",
    )


def _first(given: Mapping[str, Sequence[str]], name: str) -> str:
    return next(iter(given.get(name, ())), "")


def _condition(facet: str, values: Sequence[str]) -> str:
    """Return the SQL expression of photos that have one of the values of a facet."""
    named = [literal(value) for value in values if value]
    if facet in LISTS:
        has = f"list_has_any({LISTS[facet]}, [{', '.join(named)}])"
        has_none = f"len({LISTS[facet]}) = 0"
    else:
        has = f"{FACETS[facet]} IN ({', '.join(named)})"
        has_none = f"{FACETS[facet]} IS NULL"
    return " OR ".join([*([has] if named else []), *([has_none] if "" in values else [])])


def _word(kind: str, *texts: str) -> str:
    return f"{kind}_{hashlib.sha256(repr(texts).encode()).hexdigest()[:24]}"
