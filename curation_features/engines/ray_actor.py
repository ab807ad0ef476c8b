"""A Ray actor that processes shards. Ray imports this module on each node by its name."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from typing import Any

from curation_features import __version__
from curation_features.engines.worker import serve


class ShardActor:
    """Runs `worker.serve` in a thread; its driver calls `post` and, at the same time, `take`.

    Args:
        version: of the driver's package.

    Raises:
        RuntimeError: this node has another version, whose results could differ.
    """

    def __init__(self, version: str) -> None:
        if version != __version__:
            raise RuntimeError(f"curation-features is {__version__} on this node and {version} on the driver's")
        os.dup2(2, 1)
        self._received: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=serve, args=(self,), name="shards", daemon=True).start()

    def post(self, message: dict[str, Any]) -> None:
        """Accept a message of the driver."""
        self._received.put(message)

    def take(self) -> list[Mapping[str, Any]]:
        """Wait for messages to the driver and return them."""
        messages = [self._sent.get()]
        while not self._sent.empty():
            messages.append(self._sent.get())
        return messages

    def receive(self) -> dict[str, Any]:
        """Wait for the next message of the driver; see `worker.Driver`."""
        return self._received.get()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to the driver; see `worker.Driver`."""
        self._sent.put(message)
