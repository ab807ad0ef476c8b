"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it to `path` when the block succeeds.

    A block that raises leaves whatever was at `path` before, and no temporary file. Parent folders are made.

    Args:
        path: the final name.
        durable: flush the file and its folder to disk, so that the rename survives a power cut.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:32]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
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


def sweep(folder: Path) -> None:
    """Delete the temporary files of `replacing` anywhere in `folder` whose processes are gone."""
    for path in folder.rglob(".*.tmp"):
        owner = re.search(r"\.(\d+)\.[0-9a-f]{8}\.tmp$", path.name)
        if owner and not _is_alive(int(owner[1])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, whole or not at all (see `replacing`)."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


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
