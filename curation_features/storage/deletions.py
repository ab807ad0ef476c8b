"""Log of deletions, which keeps the event sequence of deleted batches.

    data/deleted.jsonl    one JSON object per line, the newest last

A line is written before the first file is deleted. An interrupted and repeated deletion has two lines. Fields:
`time` (ISO 8601, UTC); for a batch `batch_id`, `photos` and `sequence` (of the last event; null if it had none); for a
photo `photo_id`, `batches` and `files` (derived from the photo, relative to the data folder).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curation_features.atomic_files import reading, writing

NAME = "deleted.jsonl"


def record_deletion(data_path: Path, **fields: Any) -> None:
    """Append a line and flush it to disk. Raises `StoreError`; then nothing may be deleted."""
    path = data_path / NAME
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **fields}).encode() + b"\n"
    with writing(path):
        data_path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            os.write(descriptor, line if _ends_with_newline(path) else b"\n" + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def deletions(data_path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of the log, oldest first, without damaged lines. Raises `StoreError`."""
    path = data_path / NAME
    with reading(path, "check its permissions"):
        if not path.is_file():
            return
        with path.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        yield entry


def last_sequence(data_path: Path, batch_id: str) -> int | None:
    """Return the `sequence` of a deleted batch's last event. None if there is none."""
    numbers = [entry.get("sequence") for entry in deletions(data_path) if entry.get("batch_id") == batch_id]
    return max((number for number in numbers if type(number) is int), default=None)


def _ends_with_newline(path: Path) -> bool:
    """Return whether the log is empty or its last line is complete."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
