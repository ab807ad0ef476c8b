"""The signals, flags and hints of a photo, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN: Mapping[str, int] = {
    "blur_px": 3,
    "streak": 2,
    "noise_luma": 2,
    "noise_chroma": 2,
    "headroom_ev": 2,
    "clipped_centre": 3,
    "contrast": 2,
    "blocks": 2,
    "focus_px": 3,
    "focus_median_px": 2,
}
"""The signals on the page, with their decimals; those that sort photos have all digits of the table."""

PLACE = ("focus_left", "focus_top", "focus_width", "focus_height")
"""One of the sharpest places, in shares of the width and height."""

COLUMNS = (*SHOWN, *PLACE, "flags", "hints", "flag_reasons")
"""Their columns in the table of features; the table of an earlier release has none of them."""

_PLACE_DECIMALS = 3


def signals_of(row: Mapping[str, Any]) -> list[float | None]:
    """The signals of a photo in the order of `SHOWN`; empty if none was measured."""
    values = {name: row.get(name) for name in SHOWN}
    if all(value is None for value in values.values()):
        return []
    return [None if value is None else round(value, SHOWN[name]) for name, value in values.items()]


def place_of(row: Mapping[str, Any]) -> list[float] | None:
    """Left, top, width and height of one of the sharpest places, or None if it is not known."""
    place = [row.get(name) for name in PLACE]
    if any(share is None for share in place):
        return None
    return [round(float(share or 0), _PLACE_DECIMALS) for share in place]


def flags_of(row: Mapping[str, Any], column: str) -> list[list[str]]:
    """The names in a column, `flags` or `hints`, each with its reason in words."""
    reasons = dict(reason.split(": ", 1) for reason in row.get("flag_reasons") or ())
    return [[name, reasons.get(name, "")] for name in row.get(column) or ()]
