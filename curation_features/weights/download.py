"""Resumable downloads that get their final name once they are complete and verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote

from curation_features import atomic_files

TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection, and between two packets."""

CHUNK_BYTES = 1 << 16
LONGEST_ETAG = 100
PATIENCE = 3
"""Consecutive attempts that may bring no byte, once some have arrived."""
WAIT_S = 1.0

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes so far, and its size (None: unknown).

The last two are equal only once: at the end, when the file is verified and has its final name.
"""


Check: TypeAlias = Callable[[Path], str | None]
"""Describes the problem of a complete file, or returns None."""


def no_progress(name: str, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def download(
    url: str,
    target: Path,
    check: Check,
    *,
    name: str,
    progress: Progress,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Download `url` to `target`, complete and verified, or raise.

    A part file next to `target` holds the bytes until then; after an interruption, the next call resumes it. Its name
    holds the server's ETag, so that the part of a file that has changed since is discarded.

    Args:
        check: after a problem, one more download follows.
        name: the file's name for `progress` and errors.
        headers: sent to the server, but not to another one that it redirects to.

    Raises:
        OSError: the server cannot be reached or refuses, it sent wrong bytes twice, or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    receive = partial(_receive, url, target, headers or {}, partial(progress, name))
    for _ in range(2):
        part = _resume(receive, target)
        problem = check(part)
        if problem is None:
            atomic_files.publish((part, target))
            size = target.stat().st_size
            progress(name, size, size)
            return
        part.unlink()
    raise OSError(f"{name}: what the server sent {problem}")


def parts(target: Path) -> list[Path]:
    """The part files of a download to `target`."""
    return [path for path in target.parent.glob("*.part") if path.name.startswith(f"{target.name}.")]


def _resume(receive: Callable[[], Path], target: Path) -> Path:
    """Return the complete part file from `receive`, which is called again after a broken connection."""
    from requests import ConnectionError, Timeout
    from requests.exceptions import ChunkedEncodingError

    patience = 1
    while True:
        before = _bytes_so_far(target)
        try:
            return receive()
        except (ConnectionError, Timeout, ChunkedEncodingError):
            patience = PATIENCE if _bytes_so_far(target) > before else patience - 1
            if patience == 0:
                raise
            time.sleep(WAIT_S)


def _receive(url: str, target: Path, headers: Mapping[str, str], report: Callable[[int, int | None], None]) -> Path:
    """Request the missing bytes of the part file, or all bytes if no part file can be resumed."""
    import requests

    part = next((part for part in parts(target) if _etag(part)), None)
    done = part.stat().st_size if part else 0
    sent_headers = {**headers, "Accept-Encoding": "identity"}
    if part and done:
        sent_headers |= {"Range": f"bytes={done}-", "If-Range": _etag(part)}
    with requests.get(url, headers=sent_headers, stream=True, timeout=TIMEOUT_S) as response:
        if part and response.status_code == 416:  # the part is complete, or of another file: `check` finds out
            return part
        response.raise_for_status()
        is_rest = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if part is None or not is_rest:
            part, done = _create_part(target, response.headers.get("ETag", "")), 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with atomic_files.named(part), part.open("ab") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if done != total:
                    report(done, total)
    return part


def _create_part(target: Path, etag: str) -> Path:
    """Create an empty part file and delete all others. Without a strong ETag it is never resumed."""
    for old in parts(target):
        old.unlink()
    quoted = quote(etag, safe="") if etag.startswith('"') else ""
    part = target.with_name(f"{target.name}.{quoted if len(quoted) <= LONGEST_ETAG else ''}.part")
    part.touch()
    return part


def _etag(part: Path) -> str:
    """The ETag in the name of a part file."""
    return unquote(part.name.removesuffix(".part").rpartition(".")[2])


def _bytes_so_far(target: Path) -> int:
    return sum(part.stat().st_size for part in parts(target))
