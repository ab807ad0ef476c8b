"""Photos that are matched, and JSON values that are compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from curation_features.verification.text import path_text

Key = tuple[str, int]
"""A photo_id, and how many artifacts before this one have the same."""

Steps = tuple[str | int, ...]
"""The way to a value in a document: names of fields, and places in lists."""


def keys_of(photo_ids: Iterable[Any], seen: Counter[str] | None = None) -> list[Key]:
    """A key for each photo_id; what is no photo_id gets one that no photo has."""
    seen = Counter() if seen is None else seen
    keys = []
    for photo_id in photo_ids:
        name = photo_id if isinstance(photo_id, str) else ""
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def sequence_problems(expected: Sequence[Key], found: Sequence[Key]) -> Iterator[tuple[Key, int, str]]:
    """Keys that are missing, too many or out of order, each with a place: its own, or where it belongs."""
    if expected == found:
        return
    wanted, present = set(expected), set(found)
    for place, key in enumerate(expected):
        if key not in present:
            yield key, place, "is missing"
    for place, key in enumerate(found):
        if key not in wanted:
            yield key, place, "is not in the manifest, or more often than there"
    order = iter(key for key in expected if key in present)
    for place, key in enumerate(found):
        if key in wanted and key != next(order):
            yield key, place, "is not in its place"


def differences(expected: Any, found: Any, steps: Steps = ()) -> Iterator[tuple[str, str]]:
    """Where two JSON values differ in value, type or order of fields: the field, and how. Shows no value."""
    if type(expected) is not type(found) and _kind(expected) != _kind(found):
        yield path_text(steps), f"is {_kind(found)}, and was {_kind(expected)}"
    elif isinstance(expected, dict):
        for name, value in expected.items():
            if name in found:
                yield from differences(value, found[name], (*steps, name))
            else:
                yield path_text((*steps, name)), "is missing"
        for name in (name for name in found if name not in expected):
            yield path_text((*steps, name)), "is new"
        if found.keys() == expected.keys() and list(found) != list(expected):
            yield path_text(steps), "has its fields in another order"
    elif isinstance(expected, list):
        if len(expected) != len(found):
            yield path_text(steps), f"has {len(found)} entries, and had {len(expected)}"
        for index, values in enumerate(zip(expected, found, strict=False)):
            yield from differences(*values, (*steps, index))
    elif expected != found or (isinstance(expected, float) and math.copysign(1, expected) != math.copysign(1, found)):
        yield path_text(steps), "has another value"


_KINDS = {str: "a string", bool: "a boolean", int: "an integer", float: "a float", dict: "an object", list: "a list"}


def _kind(value: Any) -> str:
    """What a value is in JSON; numbers with and without a fraction are told apart."""
    return next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "null")


def non_finite(value: Any) -> Iterator[Steps]:
    """Where NaN and infinities lie in a JSON value. Not recursive: what is checked may be nested deeply."""
    waiting: list[tuple[Steps, Any]] = [((), value)]
    while waiting:
        steps, value = waiting.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                yield steps
        elif isinstance(value, dict):
            waiting += [((*steps, name), item) for name, item in reversed(value.items()) if not isinstance(item, str)]
        elif isinstance(value, list):
            waiting += [((*steps, index), item) for index, item in reversed(list(enumerate(value)))]
