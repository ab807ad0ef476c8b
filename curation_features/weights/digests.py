"""sha256 of large files, remembered for as long as nothing has touched them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path

from curation_features import atomic_files
from curation_features.settings import Settings

logger = logging.getLogger(__name__)


def digest(settings: Settings, path: Path, *, again: bool = False) -> str:
    """sha256 of a file (hex), remembered for as long as its size and its times stay.

    The time of its last change of any kind (`ctime`) is among them, which a copy that keeps the modification time
    does not keep.

    Args:
        again: read the file even where its digest is remembered.
    """
    memo = settings.data_path / "cache" / "weights.json"
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    known = _read(memo)
    if again or key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            atomic_files.write_bytes(memo, json.dumps(known, indent=1).encode(), durable=False)
        except OSError as error:
            logger.warning("%s cannot be written (%s): weights are hashed again by the next run", memo, error)
    return known[key]


def _read(path: Path) -> dict[str, str]:
    """The remembered digests; none where the file is missing or is not what it should be."""
    try:
        memo = json.loads(path.read_bytes())
        return {key: value for key, value in memo.items() if re.fullmatch("[0-9a-f]{64}", value)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
