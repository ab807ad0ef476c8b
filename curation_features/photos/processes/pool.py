"""Decoder processes: children that decode photos for this process, and the pool that reuses them."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from curation_features.errors import TOO_MANY_FILES, PhotoError, ResourceError, too_many_files
from curation_features.photos.formats import EXTRA_OF, identify
from curation_features.photos.processes import messages
from curation_features.photos.reader import PhotoFile
from curation_features.schema import PHOTO_REASONS

_START_SECONDS = 120.0  # on a busy machine
_MIN_CAPACITY = 1 << 30  # bytes of address space, so that one process serves files and tasks of most sizes
_KEPT_BYTES = 16_000_000  # shared memory of one process that stays in use between tasks
_CODE = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + count]; "
    "from curation_features.photos.processes.worker import main; main(sys.argv[2 + count :])"
)


class _ProcessDiedError(Exception):
    """The process ended within a task, or answered nonsense. The argument is its exit code, negative for a signal."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of `processes.tasks` for one file.

    Attributes:
        name: key of `TASKS`.
        file: the photo.
        arguments: as JSON.
        max_pixels: bounds the address space of the process.
        max_seconds: bounds its CPU seconds; a process that needs ten times as long without ending is stopped.
        result_bytes: maximum size of the result's buffers.
    """

    name: str
    file: PhotoFile
    arguments: Mapping[str, Any]
    max_pixels: int
    max_seconds: float
    result_bytes: int


Answer = tuple[dict[str, Any], list[bytearray]]


class DecoderProcesses:
    """A pool of decoder processes, one per thread that waits for a photo. Safe for use by several threads.

    A process that dies within a task is replaced, and the task is tried again in a new process: memory that
    another photo corrupted, or a `kill` by the system, is not this photo's fault.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._turn = threading.Lock()  # of large photos
        self._owner = os.getpid()

    def run(self, task: Task) -> Answer:
        """Run a task.

        Raises:
            PhotoError: the task refuses the photo; or its decoder crashed twice (`unreadable`), needed more memory
                than allowed (`too_large`) or more time (`too_slow`).
            ResourceError: no process can be started.
        """
        try:
            return self._try(self._take(task), task)
        except _ProcessDiedError:
            pass
        try:
            return self._try(_Process(_capacity(task), _extras(task)), task)
        except _ProcessDiedError as error:
            raise _explain_death(error.args[0]) from None

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _take(self, task: Task) -> _Process:
        """Return an idle process that suits the task, or a new one."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork: they answer to the other process
                self._idle, self._owner = [], os.getpid()
            process = self._idle.pop() if self._idle else None
        if process is not None and process.suits(task):
            return process
        capacity, extras = _capacity(task), _extras(task)
        if process is not None:  # the new one also serves what the old one did
            capacity, extras = max(capacity, process.capacity), extras | process.extras
            process.close()
        return _Process(capacity, extras)

    def _try(self, process: _Process, task: Task) -> Answer:
        try:
            answer = process.run(task, self._turn)
        except PhotoError:
            if process.is_alive:
                self._put_back(process)
            raise
        except BaseException:
            process.close()
            raise
        self._put_back(process)
        return answer

    def _put_back(self, process: _Process) -> None:
        with self._lock:
            self._idle.append(process)


class _Process:
    """One decoder process and its shared memory.

    Args:
        capacity: bytes of the shared memory; pages that are not used take no memory.
        extras: extras of this package whose libraries the process loads.
    """

    def __init__(self, capacity: int, extras: frozenset[str]) -> None:
        self.extras = extras
        self.capacity = capacity
        with ExitStack() as opened:  # the process inherits what is closed here
            try:
                memory_file = _memory_file(capacity)
                opened.callback(os.close, memory_file)
                self._memory = mmap.mmap(memory_file, capacity)
                self._connection, other = socket.socketpair()
                opened.enter_context(other)
                arguments = [str(other.fileno()), str(memory_file), str(capacity), *extras]
                self._process = _start(arguments, (other.fileno(), memory_file))
            except OSError as error:
                remedy = TOO_MANY_FILES if too_many_files(error) else _SWITCH_OFF
                raise ResourceError(f"no decoder process can be started: {error}; {remedy}") from error
        self._end = weakref.finalize(self, _end, self._process, self._connection, os.getpid())
        self._wait_until_ready()

    @property
    def is_alive(self) -> bool:
        return self._end.alive

    def suits(self, task: Task) -> bool:
        """Return whether the process runs, and has the memory and the packages for a task."""
        return self._process.poll() is None and _capacity(task) <= self.capacity and _extras(task) <= self.extras

    def run(self, task: Task, turn: threading.Lock) -> Answer:
        """Run a task. Raises `_ProcessDiedError` if the process ends, else as `DecoderProcesses.run`.

        Args:
            turn: held from the moment that the process is about to decode a large photo.
        """
        with ExitStack() as large:
            return self._run(task, lambda: large.enter_context(turn))

    def _run(self, task: Task, wait_for_turn: Callable[[], object]) -> Answer:
        used = len(task.file.data)
        self._memory[:used] = task.file.data
        try:
            self._connection.settimeout(10 * task.max_seconds)
            messages.send(
                self._connection,
                {
                    "name": task.name,
                    "bytes": used,
                    "sha256": task.file.sha256,
                    "arguments": task.arguments,
                    "max_pixels": task.max_pixels,
                    "max_seconds": task.max_seconds,
                },
            )
            answer = messages.receive(self._connection)
            if "large" in answer:
                wait_for_turn()
                messages.send(self._connection, {"go": True})
                answer = messages.receive(self._connection)
            fields, lengths = _checked(answer, task.result_bytes)
        except TimeoutError:
            self.close()
            raise PhotoError("too_slow", f"the decoder did not answer within {10 * task.max_seconds:g} s") from None
        except (EOFError, OSError) as error:
            raise _ProcessDiedError(self.close()) from error
        except (ValueError, KeyError, TypeError) as error:  # a decoder that a hostile file has taken over
            self.close()
            raise _ProcessDiedError(0) from error
        buffers: list[bytearray] = []
        start = 0
        for length in lengths:
            buffers.append(bytearray(memoryview(self._memory)[start : start + length]))
            start += length
        self._release(max(used, start))
        return fields, buffers

    def close(self) -> int:
        """End the process; return its exit code."""
        self._end()
        return int(self._process.returncode)

    def _wait_until_ready(self) -> None:
        cause = "it did not start in time"
        try:
            self._connection.settimeout(_START_SECONDS)
            message = messages.receive(self._connection)
            if "ready" in message:
                return
            cause = str(message.get("failed"))
        except (OSError, EOFError, ValueError) as error:
            cause = str(error) or "it ended at once"
        self.close()
        raise ResourceError(f"no decoder process can be started: {cause}; {_SWITCH_OFF}")

    def _release(self, used: int) -> None:
        """Return the memory of a large photo to the system."""
        if used > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            self._memory.madvise(mmap.MADV_REMOVE, 0, -(-used // mmap.PAGESIZE) * mmap.PAGESIZE)


_SWITCH_OFF = "set isolate_decoders = false to decode in this process"


def _start(arguments: Sequence[str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a process of this Python with the same modules."""
    return subprocess.Popen(  # noqa: S603 (our own code)
        [sys.executable, "-P", "-c", _CODE, str(len(sys.path)), *sys.path, *arguments],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},  # an arena is 64 MB of address space
    )


def _end(process: subprocess.Popen[bytes], connection: socket.socket, owner: int) -> None:
    """End a process at once. After a fork it belongs to the other process, and nothing happens."""
    connection.close()
    if os.getpid() != owner:
        return
    process.kill()  # has no effect on a process that has ended
    process.wait()


def _memory_file(capacity: int) -> int:
    """Return the descriptor of a file in memory, or without a name, of `capacity` bytes that take no space yet."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("curation_features")
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    os.ftruncate(number, capacity)
    return number


def _capacity(task: Task) -> int:
    return max(len(task.file.data), task.result_bytes, _MIN_CAPACITY)


def _extras(task: Task) -> frozenset[str]:
    return frozenset(filter(None, [EXTRA_OF.get(identify(task.file.data))]))


def _checked(answer: Mapping[str, Any], result_bytes: int) -> tuple[dict[str, Any], list[int]]:
    """Check the answer of a process, which a hostile file may control.

    Raises:
        PhotoError: the photo is refused.
        ValueError, KeyError, TypeError: the answer is invalid.
    """
    if "reason" in answer:
        reason = answer["reason"] if answer["reason"] in PHOTO_REASONS else "unreadable"
        raise PhotoError(reason, str(answer.get("message")))
    if "internal" in answer:
        raise RuntimeError(str(answer["internal"]))
    fields, lengths = answer["fields"], answer["lengths"]
    if not isinstance(fields, dict) or not isinstance(lengths, list):
        raise TypeError("fields and lengths")
    if not all(type(length) is int and length >= 0 for length in lengths) or sum(lengths) > result_bytes:
        raise ValueError("lengths")
    return fields, lengths


def _explain_death(code: int) -> PhotoError:
    """Return the error of a photo on which two processes have died."""
    if code == -signal.SIGXCPU:
        return PhotoError("too_slow", "decoding takes more CPU seconds than max_decode_seconds")
    if code == -signal.SIGKILL:
        return PhotoError("too_large", "the system stopped the decoder twice, probably for its memory")
    name = f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
    return PhotoError("unreadable", f"the decoder crashed on the image ({name}); export it again as JPEG")
