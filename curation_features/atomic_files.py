"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from curation_features.errors import TOO_MANY_FILES, StoreError, too_many_files

_WRITER = re.compile(r"^\..*\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d+)\.[0-9a-f]{8}\.tmp$", re.DOTALL)
_FOREIGN_S = 7 * 86400.0


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it to `path` when the block succeeds.

    A block that raises leaves whatever was at `path` before, and no temporary file. Parent folders are made. What a
    killed process leaves is for `sweep`.

    Args:
        path: the final name.
        durable: flush the file and its folder to disk, so that the rename survives a power cut.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:32]}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if durable:
            flush(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name `path` in an error of the disk that names no file. (Errors of the network have no number.)"""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def sweep(*folders: Path) -> None:
    """Delete from the folders (not from those in them) what killed processes have left of `replacing`; never raises."""
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:  # of 20,000 names it takes 20 ms
            for entry in entries:
                if entry.name.startswith("."):
                    remove_leftover(Path(entry.path))


def remove_leftover(path: Path) -> None:
    """Delete a file if it `is_leftover`; never raises."""
    if is_leftover(path):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file is a temporary one of `replacing` whose writer is gone.

    The writer's name is in that of its file. Of another machine, or container, nobody can tell whether it still runs:
    its files count as leftovers once they have not been written to for a week.
    """
    writer = _WRITER.search(path.name)
    if writer is None:
        return False
    if writer["machine"] == _machine():
        return not _is_alive(int(writer["process"]))
    try:
        return time.time() - path.lstat().st_mtime > _FOREIGN_S
    except OSError:
        return False


@cache
def _machine() -> str:
    """Names the machine, since it was started, and the container, whose process ids this process knows (hex)."""
    words = [platform.node()]
    with suppress(OSError):  # only Linux has these
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user; or of none that could be
        return True
    return True


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, whole or not at all (see `replacing`)."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def link_bytes(source: Path, path: Path) -> None:
    """Give the file `source` the name `path`, too: a hard link, or a copy on file systems that have none.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        with replacing(path, durable=False) as temporary:
            try:
                temporary.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, temporary)
        temporary.unlink(missing_ok=True)  # a rename from one name of a file to another does nothing
    except OSError as error:
        raise cannot_write(path, error) from error


def uri(path: Path, root: Path) -> str:
    """A path as manifests and events name it: from the project's `root` if it is inside, else absolute; legal UTF-8."""
    root, path = Path(os.path.abspath(root)), Path(os.path.abspath(path))  # noqa: PTH100 (a link keeps its own name)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.as_uri()
    return f"./{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else str(path)


def flush(path: Path) -> None:
    """Flush a file, or the renames in a folder, to disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def store_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """As `write_bytes`, for what a run cannot do without. Raises `StoreError`: the file cannot be written."""
    try:
        write_bytes(path, data, durable=durable)
    except OSError as error:
        raise cannot_write(path, error) from error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file (hex). Raises `StoreError`: it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error of a file that could not be written."""
    cause = os.strerror(error.errno) if error.errno else error  # Arrow's own text names the temporary file
    remedy = TOO_MANY_FILES if too_many_files(error) else "free space or permissions"
    return StoreError(f"{path}: cannot be written ({cause}); {remedy}, then run again")
