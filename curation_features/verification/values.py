"""Compare JSON values of any depth, and name the paths in them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from curation_features.text import inert, shorten

Steps = tuple[str | int, ...]
"""The path to a value in a document: names of fields and indexes of lists."""


def find_difference(expected: Any, found: Any) -> str:
    """Describe the first field whose value, type or order differs; empty if none.

    Args:
        expected: a JSON value that is nested less deeply than Python's recursion limit; `found` may be deeper.
    """
    if _is_same(expected, found):
        return ""
    before, after = dict(_walk(expected)), dict(_walk(found))
    for steps in {**before, **after}:
        if steps not in after:
            problem = "is missing"
        elif steps not in before:
            problem = "is new"
        else:
            problem = _compare(before[steps], after[steps])
        if problem:
            return format_path(steps) + problem
    steps = next(steps for steps, other in zip(before, after, strict=True) if steps != other)
    return f"{format_path(steps)}has another position"


def find_non_finite(value: Any) -> list[str]:
    """Return a problem for each NaN and each infinity in a JSON value."""
    try:
        json.dumps(value, allow_nan=False)  # the usual case, which is fast
    except (ValueError, TypeError, RecursionError):
        numbers = ((steps, item) for steps, item in _walk(value) if isinstance(item, float))
        return [f"{format_path(steps)}is not finite" for steps, item in numbers if not math.isfinite(item)]
    return []


def format_path(steps: Steps) -> str:
    """Format a path as in `exif.gps[1]: `; empty for no steps."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{inert(step, 64)}" for step in steps)
    return f"{shorten(text.removeprefix('.'), 200, '...')}: " if text else ""


def format_value(value: Any) -> str:
    """Format a value of a feature record."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else inert(value, 32)


def _compare(expected: Any, found: Any) -> str:
    """Describe how a value differs, apart from its members; empty if it does not."""
    if type(expected) is type(found):
        return "" if isinstance(found, (dict, list)) or _is_same(expected, found) else "has another value"
    same = not isinstance(found, (dict, list)) and _is_same(expected, found)  # a NumPy number is written as a number
    return "" if same else f"is {type(found).__name__} instead of {type(expected).__name__}"


def _is_same(expected: Any, found: Any) -> bool:
    """Return whether two JSON values are equal in value, type and key order."""
    try:
        return json.dumps(expected) == json.dumps(found)
    except RecursionError:
        return False


def _walk(value: Any) -> Iterator[tuple[Steps, Any]]:
    """Yield a JSON value and all values in it, with their paths, in order."""
    waiting: list[tuple[Steps, Any]] = [((), value)]
    while waiting:
        steps, value = waiting.pop()
        yield steps, value
        if isinstance(value, dict):
            waiting += [((*steps, name), item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*steps, index), item) for index, item in reversed(list(enumerate(value)))]
