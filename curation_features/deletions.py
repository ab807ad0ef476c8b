"""The log of deletions, `{data_path}/deleted.jsonl`: one JSON object a line, for each batch or photo that was deleted.

It is all that stays of a deleted batch. A batch of the same id that is made later counts its events on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from curation_features.errors import StoreError
from curation_features.files import cannot_write


class Deletions:
    """The log of deletions of one data folder."""

    def __init__(self, data_path: Path) -> None:
        self.path = data_path / "deleted.jsonl"

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line, durably. Raises `StoreError`: it cannot be written."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def last_sequence(self, batch_id: str) -> int:
        """The sequence number of the last event of a deleted batch; 0 if no batch of that id was deleted.

        Raises:
            StoreError: the log is there and cannot be read.
        """
        numbers = (entry.get("sequence") for entry in self._entries() if entry.get("batch_id") == batch_id)
        return max((number for number in numbers if type(number) is int), default=0)

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The entries in order, without a line that a killed process left half-written."""
        try:
            with self.path.open("rb") as file:
                for line in file:
                    with suppress(ValueError):
                        entry = json.loads(line)
                        if isinstance(entry, dict):
                            yield entry
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from error
