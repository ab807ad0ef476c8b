"""A download that goes on where it broke off, and gets its name when it is whole and right."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote

from curation_features import atomic_files

if TYPE_CHECKING:
    import requests

TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection, and between two packets."""

CHUNK_BYTES = 1 << 16
LONGEST_ETAG = 100
PATIENCE = 3
"""Attempts in a row that may bring nothing, once something has come."""
WAIT_S = 1.0

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the name of a file, how many of its bytes are here, and how many there are (None: not told).

Both are equal once, at the end, when the file has been verified and is in its place.
"""

Tell: TypeAlias = Callable[[int, int | None], None]


def no_progress(name: str, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def download(
    url: str,
    target: Path,
    check: Callable[[Path], str | None],
    *,
    name: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = no_progress,
) -> None:
    """Download `url` to `target`, whole and right or not at all.

    Until then it is a part file beside `target`, which an interruption leaves for the next call to go on with. The ETag
    of the server is in its name: of a file that has changed since, nothing is kept.

    Args:
        check: what is wrong with a whole file; None where nothing is. What is wrong is downloaded once more.
        name: what `progress` and errors call the file.
        headers: for the server, but not for another one that it refers to.

    Raises:
        OSError: the server cannot be reached or refuses, it sent wrong bytes twice, or the disk is full.
    """
    tell = partial(progress, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        part = _complete(url, target, headers, tell)
        problem = check(part)
        if problem is None:
            atomic_files.flush(part)
            part.replace(target)
            atomic_files.flush(target.parent)
            size = target.stat().st_size
            tell(size, size)
            return
        part.unlink()
    raise OSError(f"{name}: what the server sent {problem}")


def parts(target: Path) -> list[Path]:
    """The part files of a download to `target`."""
    return [path for path in target.parent.glob("*.part") if path.name.startswith(f"{target.name}.")]


def _complete(url: str, target: Path, headers: Mapping[str, str], tell: Tell) -> Path:
    """A part file with all that the server has. A connection that breaks off is made again."""
    from requests import ConnectionError, Timeout
    from requests.exceptions import ChunkedEncodingError

    patience = 1
    while True:
        before = _bytes_here(target)
        try:
            return _receive(url, target, headers, tell)
        except (ConnectionError, Timeout, ChunkedEncodingError):
            patience = PATIENCE if _bytes_here(target) > before else patience - 1
            if patience == 0:
                raise
            time.sleep(WAIT_S)


def _receive(url: str, target: Path, headers: Mapping[str, str], tell: Tell) -> Path:
    """One request for what is missing of the part file, or for all of it where none can be gone on with."""
    import requests

    part = next((part for part in parts(target) if _etag(part)), None)
    done = part.stat().st_size if part else 0
    wanted = {**headers, "Accept-Encoding": "identity"}
    if part and done:
        wanted |= {"Range": f"bytes={done}-", "If-Range": _etag(part)}
    with requests.get(url, headers=wanted, stream=True, timeout=TIMEOUT_S) as response:
        if part and response.status_code == 416:  # the part is whole, or not of this file: the check tells
            return part
        response.raise_for_status()
        if part is None or not _continues(response, done):
            part, done = _new_part(target, response.headers.get("ETag", "")), 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with atomic_files.named(part), part.open("ab") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if done != total:
                    tell(done, total)
    if total is not None and done != total:
        raise requests.ConnectionError(f"the server sent {done} of {total} bytes")
    return part


def _continues(response: requests.Response, done: int) -> bool:
    """Whether an answer begins where the part file ends."""
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {done}-")


def _new_part(target: Path, etag: str) -> Path:
    """An empty part file in place of all others. Without a strong ETag it is not gone on with later."""
    for old in parts(target):
        old.unlink()
    usable = re.fullmatch('"[^"]+"', etag) and len(quote(etag, safe="")) <= LONGEST_ETAG
    part = target.with_name(f"{target.name}.{quote(etag, safe='') if usable else ''}.part")
    part.touch()
    return part


def _etag(part: Path) -> str:
    """The ETag in the name of a part file."""
    return unquote(part.name.removesuffix(".part").rpartition(".")[2])


def _bytes_here(target: Path) -> int:
    return sum(part.stat().st_size for part in parts(target))
