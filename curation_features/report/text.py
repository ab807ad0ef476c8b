"""Text from outside, as people may be shown it: names of files, and lines without control characters and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from curation_features.photos import is_remote
from curation_features.schema import PhotoRecord

MESSAGE_LENGTH = 160  # characters

_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\"]+")  # of a URL; it may hold a signature


def one_line(text: str, length: int = MESSAGE_LENGTH, *, keep_end: bool = False) -> str:
    """Text of one line, without control characters and secrets, of at most `length` characters.

    Args:
        keep_end: longer text loses its beginning, not its end.
    """
    printable = "".join(character if character.isprintable() else " " for character in _QUERY.sub(r"\1...", text))
    line = " ".join(printable.split())
    if len(line) <= length:
        return line
    return f"…{line[1 - length :]}" if keep_end else f"{line[: length - 1]}…"


def file_name(artifact: Mapping[str, Any], record: PhotoRecord, length: int) -> str:
    """The name of the file that a photo came in, without its folder; the photo's id where there is no name.

    Args:
        length: characters, at most. It is never empty.
    """
    uri = str(artifact.get("original_uri") or record.image_uri)
    path = unquote(uri.partition("?")[0]) if "://" in uri else uri
    name = path.rstrip("/").rpartition("/")[2]
    return one_line(name, length) or one_line(record.photo_id, length) or "(no name)"


def display_paths(original_uris: Iterable[str]) -> list[str]:
    """The shortest paths that still tell the folders of photos: relative to the deepest folder that holds them all.

    Relative paths, absolute ones and remote URIs (by host and path, percent-decoded, without a query) have a common
    folder each. The path of a single photo is its file name. Text from outside: callers make it inert.
    """
    photos = [_folder_and_name(uri) for uri in original_uris]
    shared: dict[str, int] = {}
    for kind in {kind for kind, _, _ in photos}:
        folders = [folder for other, folder, _ in photos if other == kind]
        first, last = min(folders), max(folders)  # what these two share, all between them share
        shared[kind] = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return ["/".join((*folder[shared[kind] :], name)) for kind, folder, name in photos]


def _folder_and_name(uri: str) -> tuple[str, tuple[str, ...], str]:
    """The kind of a URI, the parts of its folder, and the name of its file, which may be empty."""
    path, kind = uri, "remote" if is_remote(uri) else "local"
    if "://" in uri:
        path = unquote(uri.partition("?")[0].partition("://")[2])
        path = path if kind == "remote" else f"/{path.partition('/')[2]}"  # without the host
    *folder, name = [part for part in path.split("/") if part not in ("", ".")] or [""]
    return "absolute" if kind == "local" and path.startswith("/") else kind, tuple(folder), name
