"""Atomic file writes, and safe opening of files that may be anything."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from curation_features.errors import TOO_MANY_FILES, StoreError, too_many_files

_TEMPORARY_NAME = re.compile(r"^\..*\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d+)\.[0-9a-f]{8}\.tmp$", re.DOTALL)
_MAX_AGE_S = 7 * 86400.0  # of a temporary file of another machine
_LARGE_FOLDER = 8_000_000  # bytes of the list of names of a folder, of at least 30,000 files
_ROOM = 2**30  # free bytes of a disk that is not full
_FULL_FOLDER = (
    "its folder has as many files as this file system allows (ext4: some 5 million), though the disk is not full: "
    "use several data folders (docs/scale.md)"
)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, deleted after the block.

    `publish` gives the file its final name. Parent folders are created. A killed process leaves its temporary file
    to `sweep`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:32]}.{_machine_id()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def publish(*files: tuple[Path, Path], durable: bool = True) -> None:
    """Rename temporary files to their final names, in this order.

    Args:
        files: pairs of temporary and final path.
        durable: flush all files to disk before the first rename, and each folder after its rename, so that a full
            disk replaces none of them and a power cut keeps the order.

    Raises:
        OSError: a file cannot be flushed or renamed.
    """
    if durable:
        for temporary, _ in files:
            flush(temporary)
    for temporary, path in files:
        temporary.replace(path)
        if durable:
            flush(path.parent)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` on success.

    If the block raises, the old file at `path` stays and the temporary file is deleted.

    Args:
        path: the final name.
        durable: flush the file and its folder to disk, so that the rename survives a power cut.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    with staged(path) as temporary:
        yield temporary
        publish((temporary, path), durable=durable)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` atomically (see `replacing`)."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def store_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` atomically. Raises `StoreError` if it cannot be written."""
    with writing(path):
        write_bytes(path, data, durable=durable)


def link_bytes(source: Path, path: Path) -> None:
    """Create a hard link `path` to `source`, or a copy as fallback.

    Raises:
        StoreError: the file cannot be written.
    """
    with writing(path), replacing(path, durable=False) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)


def flush(path: Path) -> None:
    """Flush a file, or the renames in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an `OSError` of the block as a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


FEATURES_AGAIN = "make the features of this batch again"
"""A remedy for `reading`."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Raise an error of the block, also of a Parquet or JSON parser, as a `StoreError` that names `path`."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:  # the bases of pyarrow's errors
        cause = getattr(error, "strerror", None) or error
        raise StoreError(f"{path}: cannot be read ({cause}): {remedy}") from error


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the `StoreError` for a file that cannot be written."""
    cause = os.strerror(error.errno) if error.errno else error  # Arrow's own text names the temporary file
    remedy = TOO_MANY_FILES if too_many_files(error) else "free space or permissions"
    if _is_folder_full(path.parent, error):
        remedy = _FULL_FOLDER
    return StoreError(f"{path}: cannot be written ({cause}); {remedy}, then run again")


def _is_folder_full(folder: Path, error: OSError) -> bool:
    """Return whether a folder lacks room for a name, and not the disk: ext4 has the same error for both.

    Without its feature `large_dir` the index of a folder has two levels, which hold some 5 million names of 70 letters.
    """
    if error.errno != errno.ENOSPC:
        return False
    try:
        disk, names = os.statvfs(folder), folder.stat().st_size
    except OSError:
        return False
    return names > _LARGE_FOLDER and disk.f_bavail * disk.f_frsize > _ROOM and disk.f_favail > 1000


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add `path` to an `OSError` without a file name. (Network errors have no errno.)"""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def open_regular(path: Path | str, *, follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading, without blocking on a FIFO.

    Raises:
        OSError: the file cannot be opened. `errno` is `ENODEV` for a folder, FIFO, socket or device, and `ELOOP` for a
            symbolic link without `follow_links`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENODEV, "is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file (hex). Raises `StoreError` if it cannot be read."""
    with reading(path, "check its permissions"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def uri(path: Path, root: Path) -> str:
    """Return a path as manifests and events name it, in legal UTF-8.

    The path is relative to the project's `root` if it is inside, otherwise absolute.
    """
    root, path = Path(os.path.abspath(root)), Path(os.path.abspath(path))  # noqa: PTH100 (a link keeps its own name)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.as_uri()
    return f"./{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else str(path)


def sweep(*folders: Path) -> None:
    """Delete leftover temporary files from folders, not from their subfolders; never raises."""
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:  # 20,000 names take 20 ms
            for entry in entries:
                if entry.name.startswith("."):
                    remove_leftover(Path(entry.path))


def remove_leftover(path: Path) -> None:
    """Delete a file if it `is_leftover`; never raises."""
    if is_leftover(path):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Return whether a file is a leftover of `staged`.

    The file name holds the machine and the process. A process on another machine or in another container cannot be
    checked; its file is a leftover if it has not been modified for a week.
    """
    writer = _TEMPORARY_NAME.search(path.name)
    if writer is None:
        return False
    if writer["machine"] == _machine_id():
        return not _is_alive(int(writer["process"]))
    try:
        return time.time() - path.lstat().st_mtime > _MAX_AGE_S
    except OSError:
        return False


@cache
def _machine_id() -> str:
    """Return a hex id of the machine, its boot and the container."""
    words = [platform.node()]
    with suppress(OSError):  # only Linux has these
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    """Whether a process runs. One that has ended stays a zombie if its parent does not wait for it (containers)."""
    with suppress(OSError, IndexError):
        if Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, or an id out of range
        return True
    return True
