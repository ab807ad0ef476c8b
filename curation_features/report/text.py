"""Text from outside, as people may be shown it: file names, paths, and lines without control characters and secrets."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

from curation_features.errors import PhotoError
from curation_features.manifest import URI_FIELDS
from curation_features.photos.reader import is_remote, local_path
from curation_features.schema import PhotoRecord
from curation_features.text import one_line as one_line

PATH_LENGTH = 120  # characters

Folders = Mapping[str, list[str]]
"""For each kind of address the folder that all photos with such an address are in, as the names of its folders."""


def file_name(artifact: Mapping[str, Any], record: PhotoRecord, length: int) -> str:
    """The name of the file that a photo came in, without its folder; the photo's id where there is no name.

    Args:
        length: characters, at most. It is never empty.
    """
    uri = str(artifact.get("original_uri") or record.image_uri)
    path = unquote(uri.partition("?")[0]) if "://" in uri else uri
    name = path.rstrip("/").rpartition("/")[2]
    return one_line(name, length) or one_line(record.photo_id, length) or "(no name)"


def display_paths(artifacts: Iterable[Mapping[str, Any]], length: int = PATH_LENGTH) -> list[str]:
    """The paths of a batch's photos within the deepest folder that all of them are in, as people may be shown them.

    Photos of one name in two folders differ, and no folder above the common one is told. A single photo has its name.

    Args:
        artifacts: of a whole batch: the common folder depends on all of them.
        length: characters of a path, at most; of a longer one the end is shown.

    Returns:
        One text of one line for each artifact, in order; the photo's id where a path has no printable character.
    """
    batch = list(artifacts)
    folders = common_folders(map(_photo_uri, batch))
    return [_display_path(artifact, folders, length) for artifact in batch]


def _display_path(artifact: Mapping[str, Any], folders: Folders, length: int) -> str:
    line = one_line(path_within(_photo_uri(artifact), folders), None)
    shown = line if len(line) <= length else f"…{line[len(line) - length + 1 :]}"
    return shown or one_line(str(artifact.get("photo_id")), length) or "(no name)"


def _photo_uri(artifact: Mapping[str, Any]) -> str:
    """Where a photo was found; if an artifact does not say so, the image that is analysed."""
    return str(next(filter(None, map(artifact.get, ("original_uri", *URI_FIELDS))), ""))


def common_folders(uris: Iterable[str]) -> Folders:
    """The deepest folder that all photos of a batch are in, of each kind of address; memory does not grow with them."""
    found: dict[str, list[str]] = {}
    for uri in uris:
        kind, path = _path(uri)
        pairs = zip(found.get(kind, path), path[:-1], strict=False)
        found[kind] = [name for name, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return found


def path_within(uri: str, folders: Folders) -> str:
    """A photo's path within the common folder, exactly: it may hold any character, and surrogates for other bytes.

    Args:
        folders: the `common_folders` of the batch.
    """
    kind, path = _path(uri)
    return "/".join(path[len(folders[kind]) :])


def _path(uri: str) -> tuple[str, list[str]]:
    """The kind of an address, and its path as a list of names, without user, password and query."""
    try:
        path = None if is_remote(uri) else local_path(uri)
    except PhotoError:  # on another machine
        path = None
    if path is None:
        host, _, rest = uri.partition("?")[0].partition("://")[2].partition("/")
        return "remote", [host.rpartition("@")[2], *map(unquote, rest.rstrip("/").split("/"))]
    path = posixpath.normpath(path)
    return "absolute" if path.startswith("/") else "relative", path.lstrip("/").split("/")
