"""Locks of what is derived from all batches, against other processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from curation_features.atomic_files import writing
from curation_features.errors import BusyError


@contextmanager
def locked(data_path: Path, name: str, work: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock `{data_path}/locks/{name}.lock`.

    Args:
        work: of the process that holds it, for the message: "updates the index".
        wait: for another process.

    Raises:
        BusyError: another process holds it (without `wait`).
        StoreError: the lock cannot be written.
    """
    path = data_path / "locks" / f"{name}.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, blocking=wait)
        try:
            lock.acquire()
        except Timeout as error:
            raise BusyError(f"another process {work} (lock {path}): try again later") from error
    try:
        yield
    finally:
        lock.release()
