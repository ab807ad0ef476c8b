"""The log of deletions: what was deleted and when, and where the events of a batch are to count on from.

    data/deleted.jsonl    one JSON object in each line, the newest last

A line is written before the first file goes. A deletion that was interrupted and begun again has two lines. Fields:
`time` (ISO 8601, UTC); `batch_id`, `photos` and `sequence` (of the batch's last event; null: it had none) of a batch;
`photo_id`, `batches` and `files` (those that were made of the photo, relative to the data folder) of a photo.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curation_features.atomic_files import cannot_write
from curation_features.errors import StoreError

NAME = "deleted.jsonl"


def record_deletion(data_path: Path, **fields: Any) -> None:
    """Append a line, and flush it to disk. Raises `StoreError`: it cannot be written, so nothing may be deleted."""
    path = data_path / NAME
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **fields}).encode() + b"\n"
    try:
        data_path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            os.write(descriptor, line if _ends_a_line(path) else b"\n" + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from error


def deletions(data_path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the log, oldest first; a damaged one is left out. Raises `StoreError`: it cannot be read."""
    path = data_path / NAME
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    yield found
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error


def last_sequence(data_path: Path, batch_id: str) -> int | None:
    """The `sequence` that the events of a deleted batch had come to; None if it was never deleted, or had none."""
    found = [line.get("sequence") for line in deletions(data_path) if line.get("batch_id") == batch_id]
    return max((number for number in found if type(number) is int), default=None)


def _ends_a_line(path: Path) -> bool:
    """Whether the log is empty or ends with a line that is whole."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
