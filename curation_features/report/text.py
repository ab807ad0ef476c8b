"""Text from outside, as people may be shown it: names of files, and lines without control characters and secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from curation_features.schema import PhotoRecord

MESSAGE_LENGTH = 160  # characters

_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\"]+")  # of a URL; it may hold a signature


def one_line(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Text of one line, without control characters and secrets, of at most `length` characters."""
    printable = "".join(character if character.isprintable() else " " for character in _QUERY.sub(r"\1...", text))
    line = " ".join(printable.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def file_name(artifact: Mapping[str, Any], record: PhotoRecord, length: int) -> str:
    """The name of the file that a photo came in, without its folder; the photo's id where there is no name.

    Args:
        length: characters, at most. It is never empty.
    """
    uri = str(artifact.get("original_uri") or record.image_uri)
    path = unquote(uri.partition("?")[0]) if "://" in uri else uri
    name = path.rstrip("/").rpartition("/")[2]
    return one_line(name, length) or one_line(record.photo_id, length) or "(no name)"
