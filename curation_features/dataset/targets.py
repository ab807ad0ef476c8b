"""Folders and files to write a dataset to, replaced as a whole on success."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from curation_features.atomic_files import flush, is_leftover, publish, staged, writing

if TYPE_CHECKING:
    import pyarrow as pa


class Target(Protocol):
    """Opens the files of a dataset by name, relative to it."""

    def open(self, name: str) -> pa.NativeFile:
        """Open a new file for writing. Raises `OSError`."""

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file. Raises `StoreError`."""

    def writing(self, name: str) -> AbstractContextManager[None]:
        """Raise an `OSError` of the block as a `StoreError` that names the final file."""


class FolderTarget:
    """A folder that becomes the dataset later.

    Args:
        folder: where the files are written.
        final: the folder of the dataset, for messages.
    """

    def __init__(self, folder: Path, final: Path) -> None:
        self._folder = folder
        self._final = final

    def open(self, name: str) -> pa.NativeFile:
        """Open a new file, and make its folder."""
        import pyarrow as pa

        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return pa.OSFile(str(path), "wb")

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        with self.writing(name):
            (self._folder / name).write_bytes(data)

    def writing(self, name: str) -> AbstractContextManager[None]:
        """Name the final file in errors."""
        return writing(self._final / name)


class FileTarget:
    """One file, which becomes the dataset later."""

    def __init__(self, temporary: Path, final: Path) -> None:
        self._temporary = temporary
        self._final = final

    def open(self, name: str) -> pa.NativeFile:
        """Open the file."""
        import pyarrow as pa

        return pa.OSFile(str(self._temporary), "wb")

    def write(self, name: str, data: bytes) -> None:
        """Write nothing: a single file has its record in its metadata."""

    def writing(self, name: str) -> AbstractContextManager[None]:
        """Name the final file in errors."""
        return writing(self._final)


@contextmanager
def replacing_file(path: Path) -> Iterator[FileTarget]:
    """Yield a target for one file, and give it its name on success. Raises `StoreError`."""
    _delete_leftovers(path)
    with writing(path), staged(path) as temporary:
        yield FileTarget(temporary, path)
        publish((temporary, path))


@contextmanager
def replacing_folder(path: Path) -> Iterator[FolderTarget]:
    """Yield a target for an empty folder next to `path`, and exchange both on success.

    If the block raises or the process is killed, the old folder stays as it was. Raises `StoreError`.
    """
    _delete_leftovers(path)
    with writing(path), staged(path) as temporary:
        try:
            temporary.mkdir()
            yield FolderTarget(temporary, path)
            for written in (*temporary.rglob("*"), temporary):
                flush(written)
            _exchange(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # after the exchange the old dataset


def _exchange(new: Path, path: Path) -> None:
    """Give `new` the name `path`; a folder of this name gets the name `new`."""
    if not path.exists():
        new.rename(path)
    elif not _exchange_at_once(new, path):
        aside = _aside(path)
        path.rename(aside)
        try:
            new.rename(path)
        except OSError:
            aside.rename(path)
            raise
        aside.rename(new)
    flush(path.parent)


_RENAME_EXCHANGE = 2  # of renameat2 in Linux; RENAME_SWAP of renamex_np in macOS has the same value
_AT_FDCWD = -100


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the system or the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, _RENAME_EXCHANGE) == 0)
        return bool(library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
    return False


def _aside(path: Path) -> Path:
    """Name of the old folder between two renames."""
    return path.with_name(f".{path.name}.replaced")


def _delete_leftovers(path: Path) -> None:
    """Delete what killed runs have left; if one was killed between two renames, the old dataset gets its name again."""
    aside = _aside(path)
    if aside.is_dir():
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with writing(path):
                aside.rename(path)
    for leftover in path.parent.glob(f".{escape(path.name[:32])}.*.tmp"):
        if is_leftover(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
