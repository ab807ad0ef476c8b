"""Messages between the process and its decoder processes: a length (4 bytes, big-endian) and JSON.

JSON, because a decoder that a hostile file has taken over may send anything: no message can run code.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, cast

_LENGTH = struct.Struct(">I")
_MAX_BYTES = 8_000_000  # of one message; files and pixels travel in shared memory


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message. Raises `OSError` if the other side has ended."""
    data = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any]:
    """Receive a message.

    Raises:
        EOFError: the other side has ended.
        TimeoutError: nothing arrived within the connection's timeout.
        ValueError: the message is invalid.
    """
    (length,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size))
    if length > _MAX_BYTES:
        raise ValueError(f"a message of {length} bytes")
    message = json.loads(_receive_bytes(connection, length))
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return cast("dict[str, Any]", message)


def _receive_bytes(connection: socket.socket, length: int) -> bytes:
    parts, missing = [], length
    while missing:
        part = connection.recv(missing)
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
