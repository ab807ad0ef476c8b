"""Match the photos of two files, and compare JSON values."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from curation_features.text import inert, shorten
from curation_features.verification.report import COMPLETE, Check, Report

Key = tuple[str, int]
"""A photo_id, and the number of earlier artifacts with the same photo_id."""

Steps = tuple[str | int, ...]
"""The path to a value in a document: names of fields and indexes of lists."""


def keys_of(photo_ids: Iterable[str], counts: Counter[str] | None = None) -> list[Key]:
    """The key of each photo_id; `counts` are those of earlier artifacts."""
    counts = Counter() if counts is None else counts
    keys = []
    for photo_id in photo_ids:
        keys.append((photo_id, counts[photo_id]))
        counts[photo_id] += 1
    return keys


class PhotosOfFile:
    """The photos of one file in order, to compare with the manifest.

    Args:
        place: of a photo in the file, with `{}` for its index.
    """

    def __init__(self, place: str, report: Report) -> None:
        self._place = place
        self._report = report
        self._keys: list[Key] = []
        self._counts: Counter[str] = Counter()

    def add(self, photo_id: Any) -> Key:
        """Add the next photo; anything but text gets an unknown key."""
        self._keys += keys_of([photo_id if isinstance(photo_id, str) else ""], self._counts)
        return self._keys[-1]

    def report(self, check: Check, problem: str) -> None:
        """Report a problem of the last photo."""
        self._report_at(len(self._keys) - 1, self._keys[-1], check, problem)

    def check_order(self, expected: Sequence[Key]) -> None:
        """Report photos that are missing, too many or out of order."""
        known, present = set(expected), set(self._keys)
        for index, key in enumerate(expected):
            if key not in present:
                self._report_at(index, key, COMPLETE, "is missing")
        order = (key for key in expected if key in present)
        for index, key in enumerate(self._keys):
            if key not in known:
                self._report_at(index, key, COMPLETE, "is not in the manifest, or occurs more often than in it")
            elif key != next(order):
                self._report_at(index, key, COMPLETE, "is out of order")

    def _report_at(self, index: int, key: Key, check: Check, problem: str) -> None:
        photo = f"photo {inert(key[0], 15)}" if key[0] else "no photo_id"
        self._report.add(check, f"{self._place.format(index)} ({photo})", problem)


def format_path(steps: Steps) -> str:
    """Format a path as in `exif.gps[1]: `; empty for no steps."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{inert(step, 64)}" for step in steps)
    return f"{shorten(text.removeprefix('.'), 200, '...')}: " if text else ""


def format_value(value: Any) -> str:
    """Format a value of a feature record."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else inert(value, 32)


def find_difference(expected: Any, found: Any, steps: Steps = ()) -> str:
    """Describe the first field whose value, type or order differs; empty if none.

    Args:
        expected: a JSON value that is nested less deeply than Python's recursion limit; `found` may be deeper.
    """
    if _is_same(expected, found):
        return ""
    if type(expected) is not type(found):
        return f"{format_path(steps)}is {type(found).__name__} instead of {type(expected).__name__}"
    if isinstance(expected, dict):
        for name in {**expected, **found}:
            if name not in found or name not in expected:
                return f"{format_path((*steps, name))}is {'missing' if name in expected else 'new'}"
            if problem := find_difference(expected[name], found[name], (*steps, name)):
                return problem
        return f"{format_path(steps)}has its fields in another order"
    if isinstance(expected, list):
        if len(expected) != len(found):
            return f"{format_path(steps)}has {len(found)} entries instead of {len(expected)}"
        pairs = enumerate(zip(expected, found, strict=True))
        return next(filter(None, (find_difference(*pair, (*steps, index)) for index, pair in pairs)), "")
    return f"{format_path(steps)}has another value"


def _is_same(expected: Any, found: Any) -> bool:
    """Whether two JSON values are equal in value, type and key order."""
    try:
        return json.dumps(expected) == json.dumps(found)
    except RecursionError:
        return False


def find_non_finite(value: Any) -> Iterator[Steps]:
    """Paths of NaN and infinities in a JSON value of any depth."""
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
