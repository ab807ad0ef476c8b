"""Makes untrusted text safe to display: file names, paths, and lines without control characters and secrets."""

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
"""The deepest common folder of all photos, as a list of names, for each kind of URI."""


def file_name(artifact: Mapping[str, Any], record: PhotoRecord) -> str:
    """The file name of a photo without its folder, or else the photo's id; not empty, at most `PATH_LENGTH` long."""
    uri = str(artifact.get("original_uri") or record.image_uri)
    path = unquote(uri.partition("?")[0]) if "://" in uri else uri
    name = path.rstrip("/").rpartition("/")[2]
    return one_line(name, PATH_LENGTH) or one_line(record.photo_id, PATH_LENGTH) or "(no name)"


def display_paths(artifacts: Iterable[Mapping[str, Any]], length: int = PATH_LENGTH) -> list[str]:
    """The paths of a batch's photos within their deepest common folder, safe to display.

    They distinguish photos of one name in two folders, and show no folder above the common one.

    Args:
        artifacts: of a whole batch: the common folder depends on all of them.
        length: maximum number of characters; of a longer path the end is shown.

    Returns:
        One line for each artifact, in order; the photo's id if a path has no printable character.
    """
    batch = [(artifact, _photo_uri(artifact)) for artifact in artifacts]
    folders = common_folders(uri for _, uri in batch)
    shown = []
    for artifact, uri in batch:
        line = one_line(path_within(uri, folders), None)
        path = line if len(line) <= length else f"…{line[len(line) - length + 1 :]}"
        shown.append(path or one_line(str(artifact.get("photo_id")), length) or "(no name)")
    return shown


def _photo_uri(artifact: Mapping[str, Any]) -> str:
    """The URI of the original photo, or else of the analysed image."""
    return str(next(filter(None, map(artifact.get, ("original_uri", *URI_FIELDS))), ""))


def common_folders(uris: Iterable[str]) -> Folders:
    """The deepest common folder of all photos of a batch; memory is independent of their number."""
    folders: dict[str, list[str]] = {}
    for uri in uris:
        kind, path = _split_uri(uri)
        pairs = zip(folders.get(kind, path), path[:-1], strict=False)
        folders[kind] = [name for name, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return folders


def path_within(uri: str, folders: Folders) -> str:
    """The exact path of a photo within the common folder, with any character, and surrogates for other bytes.

    Args:
        folders: the `common_folders` of the batch.
    """
    kind, path = _split_uri(uri)
    return "/".join(path[len(folders[kind]) :])


def _split_uri(uri: str) -> tuple[str, list[str]]:
    """The kind of a URI, and its path as a list of names, without user, password and query."""
    try:
        path = None if is_remote(uri) else local_path(uri)
    except PhotoError:  # a path on another machine
        path = None
    if path is None:
        host, _, rest = uri.partition("?")[0].partition("://")[2].partition("/")
        return "remote", [host.rpartition("@")[2], *map(unquote, rest.rstrip("/").split("/"))]
    path = posixpath.normpath(path)
    return "absolute" if path.startswith("/") else "relative", path.lstrip("/").split("/")
