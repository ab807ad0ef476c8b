"""The location of a photo's file: one text for all spellings of its URI."""

from __future__ import annotations

import os
from pathlib import Path

from curation_features.errors import PhotoError
from curation_features.photos.reader import is_remote, local_path


class Locations:
    """The locations of files: two URIs of one local file, also through symbolic links, have one location.

    A file in the project's folder has its path within it, so that a project may move. A URI of another machine is its
    own location.

    Args:
        root: the project's folder; relative paths begin there.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._inside = os.path.join(self._root, "")  # noqa: PTH118 (adds a slash)
        self._folders: dict[str, str] = {}

    def of(self, uri: str) -> str:
        """Return the location of a file, which need not exist."""
        try:
            return uri if is_remote(uri) else self._resolve(local_path(uri)).removeprefix(self._inside)
        except (PhotoError, ValueError):  # of another machine; NUL
            return uri

    def _resolve(self, path: str) -> str:
        """Return a path without links; each folder is resolved once."""
        folder, name = os.path.split(os.path.join(self._root, path))  # noqa: PTH118 (Path would drop "..")
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        plain = os.path.join(self._folders[folder], name)  # noqa: PTH118
        is_plain = name not in ("", ".", "..") and not os.path.islink(plain)  # noqa: PTH114 (a Path for each file takes long)
        return plain if is_plain else os.path.realpath(plain)
