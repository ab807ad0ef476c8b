"""The child process that decodes: one task at a time, within limits that the operating system enforces.

After it has loaded its modules the process can open no file, socket or pipe: its limit of open files is 0. What it has
is a connection to its parent and the memory they share, where files arrive and pixels return. Each task has a limit of
address space (enforced on Linux) and of CPU seconds. A process without work ends after `IDLE_SECONDS`, and at once when
its parent has ended.
"""

from __future__ import annotations

import math
import mmap
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
from PIL import Image

from curation_features.errors import PhotoError
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.processes import messages
from curation_features.photos.processes.tasks import TASKS, preload
from curation_features.photos.reader import PhotoFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IDLE_SECONDS = 60.0
"""Seconds without a task after which a process ends."""

_HEADROOM_BYTES = 1 << 30  # address space of threads, their arenas, and the file
_BYTES_PER_PIXEL = 16  # copies of the pixels in the decoder, Pillow and NumPy
_SPARE_CPU_SECONDS = 2  # beyond the limit that parsers check themselves, with a better message


def main(arguments: Sequence[str]) -> None:
    """Serve tasks until the parent closes the connection.

    Args:
        arguments: file descriptors of the connection and of the shared memory, its size in bytes, and the extras of
            this package whose libraries are loaded.
    """
    connection_number, memory_number, capacity, *extras = arguments
    connection = socket.socket(fileno=int(connection_number))
    memory = mmap.mmap(int(memory_number), int(capacity))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    Image.MAX_IMAGE_PIXELS = None  # `max_pixels` is the limit
    cv2.setNumThreads(1)  # there is a process per thread of the parent
    try:
        preload(extras)
        address_space = _address_space()
        _forbid_opening()
    except Exception:
        messages.send(connection, {"failed": traceback.format_exc()[-4000:]})
        return
    messages.send(connection, {"ready": True})
    with suppress(EOFError, OSError):
        while True:
            signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)  # ends the process
            task = messages.receive(connection)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _limit(address_space, task["max_pixels"], task["max_seconds"])
            messages.send(connection, _answer(task, memory, cache(partial(_wait_for_turn, connection))))


def _forbid_opening() -> None:
    """Forbid new files, sockets, pipes, file contents and core dumps, for good."""
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (0, 0))


def _limit(address_space: int | None, max_pixels: int, max_seconds: float) -> None:
    """Set the limits of one task."""
    cpu_seconds = math.ceil(time.process_time() + max_seconds) + _SPARE_CPU_SECONDS
    wanted = {resource.RLIMIT_CPU: cpu_seconds}
    if address_space is not None:
        wanted[resource.RLIMIT_AS] = address_space + _HEADROOM_BYTES + _BYTES_PER_PIXEL * max_pixels
    for limit, soft in wanted.items():
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _address_space() -> int | None:
    """Return the address space of this process, bytes. None if the system does not tell (macOS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _wait_for_turn(connection: socket.socket) -> None:
    """Wait until no other process decodes a large photo."""
    messages.send(connection, {"large": True})
    messages.receive(connection)


def _answer(task: Mapping[str, Any], memory: mmap.mmap, wait_for_turn: Callable[[], None]) -> dict[str, Any]:
    """Run a task; its buffers are written to the memory, one after the other."""
    try:
        data = memory[: task["bytes"]]
        limits = DecodeLimits(task["max_pixels"], task["max_seconds"], wait_for_turn)
        fields, buffers = TASKS[task["name"]](PhotoFile(data, task["sha256"]), limits, task["arguments"])
        return {"fields": fields, "lengths": _write(buffers, memory)}
    except PhotoError as error:
        return {"reason": error.reason, "message": str(error)}
    except MemoryError:
        return {"reason": "too_large", "message": "decoding exceeds the memory of a decoder process"}
    except Exception as error:
        return {"internal": f"{type(error).__name__}: {error}"}


def _write(buffers: Sequence[bytes | NDArray[np.uint8]], memory: mmap.mmap) -> list[int]:
    lengths, start = [], 0
    for buffer in buffers:
        length = len(buffer) if isinstance(buffer, bytes) else buffer.nbytes
        memory[start : start + length] = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # an array is a buffer
        lengths.append(length)
        start += length
    return lengths
