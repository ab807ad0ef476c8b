"""Deletes single files, inside the data folder only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from curation_features.errors import StoreError


class DataFolder:
    """The data folder, as the only place where files are deleted."""

    def __init__(self, data_path: Path) -> None:
        self._lexical = os.path.normpath(os.path.abspath(data_path))  # noqa: PTH100 (links stay)
        self._real = os.path.realpath(data_path)

    def holds(self, path: Path) -> bool:
        """Whether a path lies inside, going by its text."""
        return os.path.normpath(os.path.abspath(path)).startswith(os.path.join(self._lexical, ""))  # noqa: PTH100, PTH118

    def check(self, paths: Iterable[Path]) -> None:
        """Raises `StoreError` if one of the paths lies elsewhere, or a folder on the way to it is a link."""
        for folder in sorted({path.parent for path in paths}):
            if not self.holds(folder / "file"):
                raise StoreError(f"{folder}: lies outside the data folder, where nothing is deleted")
            relative = os.path.relpath(os.path.abspath(folder), self._lexical)  # noqa: PTH100 (links stay)
            if os.path.realpath(folder) != os.path.normpath(os.path.join(self._real, relative)):  # noqa: PTH118
                raise StoreError(
                    f"{folder}: is, or lies in, a symbolic link, through which nothing is deleted: "
                    "put a folder in its place (a bind mount will do), or delete by hand"
                )

    def delete(self, path: Path) -> bool:
        """Delete a file, or a link itself; returns whether it was there. Raises `StoreError`: it cannot be deleted."""
        self.check([path])
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be deleted ({error.strerror}): check its permissions, then run the same again"
            ) from error
        return True
