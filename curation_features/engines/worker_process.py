"""The driver's side of a process of the local engine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from curation_features.engines.executor import Work
from curation_features.errors import TOO_MANY_FILES, ResourceError, too_many_files

_CODE = "import sys; sys.path[:] = sys.argv[2:]; from curation_features.engines.worker import main; main(sys.argv[1:2])"
_END_SECONDS = 1.0  # of a process that has closed its connection
_RECEIVED_BYTES = 1 << 16


class WorkerProcess:
    """A process that runs `engines.worker`.

    Args:
        work: what it does.
        environ: its environment.
        level: its level of logging.

    Attributes:
        connection: readable when there are messages, or when the process has ended.

    Raises:
        ResourceError: it cannot be started.
    """

    def __init__(self, work: Work, environ: Mapping[str, str], level: int) -> None:
        self._received = b""
        try:
            self.connection, other = socket.socketpair()
            with other:
                self._process = subprocess.Popen(  # noqa: S603 (our own code)
                    [sys.executable, "-P", "-c", _CODE, str(other.fileno()), *sys.path],
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=environ,
                )
        except OSError as error:
            remedy = TOO_MANY_FILES if too_many_files(error) else "use fewer processes (--processes)"
            raise ResourceError(f"no process can be started: {error}; {remedy}") from error
        self.send({"function": work.function, "settings": work.settings, "level": level})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; that the process has ended is noticed by `receive`."""
        with suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that have arrived; None if the process has ended."""
        try:
            data = self.connection.recv(_RECEIVED_BYTES)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Let the process end at once, also within a shard; its files are complete or have temporary names."""
        self.connection.close()

    def close(self) -> int:
        """Let the process end, and return its exit code, negative for a signal."""
        self.end()
        try:
            # It ends alone when the connection is closed, unless native code holds Python's lock.
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
