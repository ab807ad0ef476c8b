"""Text that is safe to show, whatever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MARKUP = frozenset("<>&`|*[]\\")


def inert(text: object, limit: int = 200) -> str:
    """Text from outside, short, printable and without markup."""
    kept = "".join(
        letter if letter.isprintable() and letter not in _MARKUP else "?" for letter in str(text)[: limit + 1]
    )
    return _short(kept, limit)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def photo_text(key: tuple[str, int]) -> str:
    """A photo, by the beginning of its id."""
    return f"photo {inert(key[0], 12)}" if key[0] else "no photo_id"


def path_text(steps: Sequence[str | int]) -> str:
    """Steps as people write them, with a colon after them, or nothing for no steps: `exif.gps[1]: `."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{inert(step, 64)}" for step in steps)
    return f"{_short(text.removeprefix('.'), 200)}: " if text else ""


def shown(value: Any) -> str:
    """A value of a feature record."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else inert(value, 32)


def stored(text: str) -> str:
    """Text as a table holds it, which has no lone surrogates."""
    return text.encode("utf-8", "replace").decode()
