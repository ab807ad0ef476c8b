"""The answers of the page's requests, from the tables: photos, counts and groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from curation_features.gallery.cards import CARD_COLUMNS, DETAIL_COLUMNS, card, detail
from curation_features.gallery.current import OpenTables
from curation_features.gallery.selection import FACETS, LISTS, Selection
from curation_features.storage.tables import Row

Photo = tuple[str, str]
"""Id of the batch and of the photo in it."""

Note = Callable[[list[Row]], object]

MOST_ROWS = 300
"""Photos of one request."""

_MOST_VALUES = 300  # of a facet; the most frequent ones
_PLACE = ("batch_id", "position")
_GROUP = (
    *("group_id", "min(group_kind) AS kind", "min(group_what) AS what", "min(group_similarity) AS similarity"),
    "max(taken) AS newest",
    "list({'batch_id': batch_id, 'position': position, 'photo_id': photo_id} "
    "ORDER BY group_copy_of IS NOT NULL, group_rank, batch_id, position) AS members",
)
_MOST_MEMBERS = 24  # shown of one group


def photos(
    opened: OpenTables, selection: Selection, start: int, count: int, note: Note = lambda rows: None
) -> dict[str, Any]:
    """Return the photos of a selection from place `start` on, and their number.

    Args:
        note: gets the rows that were read.
    """
    name, tables = selection.key(), opened.tables
    total = opened.keep(name, lambda: tables.keep(name, _PLACE, *_filters(opened, selection), selection.sql_order))
    places = [(row["batch_id"], row["position"]) for row in tables.kept(name, start, min(count, MOST_ROWS))]
    rows = tables.rows_of(CARD_COLUMNS, places)
    note(rows)
    found = {(row["batch_id"], row["position"]): row for row in rows}
    cards = [card(found[place]) if place in found else None for place in places]
    return {"version": opened.version, "count": total, "start": start, "photos": cards}


def _filters(opened: OpenTables, selection: Selection, but: str = "") -> tuple[str, str]:
    """Return the filter of the user, and the conditions of this program without the facet `but`.

    After columns were loaded, the filter is evaluated once, and its photos are kept.
    """
    where, conditions = selection.where, selection.conditions(but)
    if not where or not opened.tables.is_loaded:
        return where, conditions
    name = selection.where_key()
    opened.keep(name, lambda: opened.tables.keep(name, _PLACE, where))
    kept = f"(batch_id, position) IN (SELECT (batch_id, position) FROM {name})"  # noqa: S608 (a word)
    return "", f"({conditions}) AND {kept}" if conditions else kept


def named(opened: OpenTables, wanted: Sequence[Photo], note: Note) -> dict[Photo, dict[str, Any]]:
    """Return the cards of some photos, if their batches are finished."""
    rows = opened.tables.rows_of(CARD_COLUMNS, wanted)
    note(rows)
    return {(row["batch_id"], row["photo_id"]): card(row) for row in reversed(rows)}


def one(opened: OpenTables, wanted: Photo, position: int) -> dict[str, Any] | None:
    """Return the details of one photo, with its group; None if it is in no finished batch.

    Args:
        position: place in the batch: files of equal bytes share an id.
    """
    rows = opened.tables.rows_of(DETAIL_COLUMNS, [wanted])
    if not rows:
        return None
    found = detail(next((row for row in rows if row["position"] == position), rows[0]))
    if found["group"]:
        photos = opened.tables.members(wanted[0], found["group"]["id"])
        members = opened.tables.rows_of(CARD_COLUMNS, photos[:_MOST_MEMBERS])
        found["members"] = [card(row) for row in sorted(members, key=_by_rank)]
    return found


def counts(opened: OpenTables, selection: Selection) -> dict[str, Any]:
    """Return how many photos of a selection have each value of each facet, as [value, number] by number.

    The choice in a facet itself does not count, so that another value of it can be chosen.
    """
    by_filters: dict[tuple[str, str], list[str]] = {}
    for facet in (*FACETS, *LISTS):
        by_filters.setdefault(_filters(opened, selection, but=facet), []).append(facet)
    found: dict[str, list[list[Any]]] = {}
    for (where, condition), facets in by_filters.items():
        found.update(_count(opened, where, condition, facets))
    numbers = [number for _, number in found["batch"]]
    shown = {facet: rows if facet == "month" else rows[:_MOST_VALUES] for facet, rows in found.items()}
    return {"version": opened.version, **shown, "batches": len(numbers), "photos": sum(numbers)}


def _count(opened: OpenTables, where: str, also: str, facets: Collection[str]) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    plain = [facet for facet in facets if facet in FACETS]
    if plain:
        for facet, rows in opened.tables.tally({name: FACETS[name] for name in plain}, where, also).items():
            found[facet] = _ordered(rows)
    for facet in facets:
        if facet in LISTS:
            values = f"unnest(CASE WHEN len({LISTS[facet]}) = 0 THEN [NULL] ELSE {LISTS[facet]} END)"
            found[facet] = _ordered(opened.tables.tally({facet: values}, where, also)[facet])
    return found


def _ordered(rows: Mapping[str | None, int]) -> list[list[Any]]:
    """Return values with their numbers, most frequent first; a missing value is an empty text."""
    pairs = sorted(((value or "", number) for value, number in rows.items()), key=lambda pair: (-pair[1], pair[0]))
    return [list(pair) for pair in pairs]


def groups(opened: OpenTables, kind: str, start: int, count: int) -> dict[str, Any]:
    """Return groups with their photos, the newest first; `kind` is empty for all."""
    kind = kind if kind in ("copy", "burst", "set") else "all"
    also = "group_id IS NOT NULL" if kind == "all" else f"group_kind = '{kind}'"
    name, tables = f"groups_{kind}", opened.tables
    total = opened.keep(
        name,
        lambda: tables.keep(name, _GROUP, None, also, "GROUP BY group_id ORDER BY newest DESC NULLS LAST, group_id"),
    )
    rows = tables.kept(name, start, min(count, MOST_ROWS))
    shown = [(one["batch_id"], one["position"]) for row in rows for one in row["members"][:_MOST_MEMBERS]]
    found = {(row["batch_id"], row["position"]): card(row) for row in tables.rows_of(CARD_COLUMNS, shown)}
    listed = [_listed(row, found) for row in rows]
    return {"version": opened.version, "count": total, "start": start, "groups": listed}


def _listed(row: Row, found: Mapping[tuple[str, int], Any]) -> dict[str, Any]:
    members = row["members"]
    photos = [found.get((one["batch_id"], one["position"])) for one in members[:_MOST_MEMBERS]]
    return {
        **{name: row[name] for name in ("kind", "what", "similarity")},
        "size": len(members),
        "photos": [photo for photo in photos if photo],
    }


def _by_rank(row: Row) -> tuple[Any, ...]:
    return row["group_copy_of"] is not None, row["group_rank"], row["batch_id"], row["position"]
