"""Files and JSON, read so that whatever is wrong with them becomes one error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curation_features.atomic_files import open_regular
from curation_features.errors import StoreError
from curation_features.verification.text import inert


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever keeps a file from being read into a `StoreError` that names it."""
    try:
        open_regular(path).close()
        yield
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nested too deeply, or unknown to pyarrow
        cause = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{inert(path.parent.name)}/{inert(path.name)}: cannot be read ({inert(cause)}); materialize features again"
        ) from error


def parsed(text: str) -> Any:
    """A JSON value. Raises `ValueError` for a key that is twice in one object; `NaN` is read, to be found later."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the field {name} is there more than once in one object")
    return members
