"""A process of an engine: processes one shard after the other. One of `local` ends when its driver ends.

    driver -> worker    {"function", "settings", "level"}            once
                        {"shard", "wait"}
    worker -> driver    {"ready": true}                              once, when the work is prepared
                        {"photos": N}                                measured since the last message
                        {"log": [logger, level, text]}
                        {"result": {...}}, or {"busy": true}: another process works on the shard
                        {"fatal": [name of the error, message]}      no shard can be processed; the process ends

One JSON object per line, so that neither side runs code of the other.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from curation_features.engines.executor import Shard, ShardFunction, ShardResult, Work
from curation_features.engines.progress import PacedCounter
from curation_features.errors import BusyError, CurationError, WeightsError

DRIVER_GONE = 75
"""Exit code after the death of the driver."""

_PROGRESS_EVERY_S = 0.25

log = logging.getLogger("curation_features.engines")


def main(arguments: Sequence[str]) -> None:
    """Serve shards until the driver closes the connection.

    Args:
        arguments: file descriptor of the connection.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's affair
    os.dup2(2, 1)  # the driver's standard output may be JSON
    descriptor = int(arguments[0])
    os.set_inheritable(descriptor, False)
    driver = _SocketDriver(socket.socket(fileno=descriptor))
    threading.Thread(target=driver.read, name="driver", daemon=True).start()
    serve(driver)
    # No clean-up that could wait for threads: files are complete, or have temporary names.
    sys.stderr.flush()
    os._exit(0)


class Driver(Protocol):
    """The other side of a process."""

    def receive(self) -> dict[str, Any]:
        """Wait for the next message and return it."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; called by several threads."""


def serve(driver: Driver) -> None:
    """Process shards until this process ends, or until none can be processed."""
    work = driver.receive()
    logging.getLogger("curation_features").setLevel(work["level"])
    logging.getLogger().handlers = [_LogToDriver(driver)]
    try:
        function = Work(work["function"], work["settings"]).prepare()
        driver.send({"ready": True})
        while True:
            task = driver.receive()
            driver.send(_answer(function, Shard.from_json(task["shard"]), task["wait"], driver))
    except Exception as error:
        if not isinstance(error, CurationError):
            log.exception("The work cannot be prepared: %s (-v shows where)", error)
        text = str(error) if isinstance(error, CurationError) else f"{type(error).__name__}: {error}"
        driver.send({"fatal": [type(error).__name__, text]})


def _answer(function: ShardFunction, shard: Shard, wait: bool, driver: Driver) -> dict[str, Any]:
    """Process a shard. Raises `WeightsError`: no shard can be processed."""
    start = time.monotonic()
    counter = PacedCounter(lambda new, _: driver.send({"photos": new}), _PROGRESS_EVERY_S)
    try:
        result = function(shard, counter.add, wait=wait)
    except BusyError:
        return {"busy": True}
    except WeightsError:
        raise
    except Exception as error:
        if isinstance(error, CurationError):
            reason = str(error)
        else:
            reason = f"{type(error).__name__}: {error}"
            log.exception("Shard %s failed: %s (-v shows where)", shard.batch_id, reason)
        result = ShardResult(shard.batch_id, "failed", reason, time.monotonic() - start, shard.photos)
    return {"result": result.to_json()}


class _SocketDriver:
    """The connection to a driver on this machine."""

    def __init__(self, connection: socket.socket) -> None:
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._connection = connection
        self._lock = threading.Lock()

    def read(self) -> None:
        """Receive messages. End this process at once when the driver has ended, also in the middle of a shard."""
        with suppress(OSError):
            for line in self._lines():
                self._messages.put(json.loads(line))
        os._exit(DRIVER_GONE)

    def receive(self) -> dict[str, Any]:
        """Wait for the next message."""
        return self._messages.get()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; `read` notices that the driver has ended."""
        with self._lock, suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _lines(self) -> Iterator[bytes]:
        with self._connection.makefile("rb") as file:
            yield from file


class _LogToDriver(logging.Handler):
    """Sends log records to the driver, which shows them above its progress bar; tracebacks only at INFO."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        is_verbose = logging.getLogger("curation_features").level <= logging.INFO
        text = self.format(record) if is_verbose else record.getMessage()
        self._driver.send({"log": [record.name, record.levelno, text]})
