"""Whether a port is free: `python -m curation_features.orchestration.port 3000`, before a server is started.

`dagster dev` goes on without its page where another program has the port, and says that it serves.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

_HOST = "127.0.0.1"  # where `dagster dev` listens
_TRIED = 100  # ports after one that is taken


def problem_of(given: str) -> str:
    """Why nothing can listen on a port, and what to do; empty where it is free."""
    if not (given.isdecimal() and 0 < int(given) < 2**16):
        return f"{given!r} is not a port: give one from 1 to 65535, as in PORT=3001"
    port = int(given)
    try:
        _listen(port)
    except OSError as error:
        free = next((f"PORT={other} is free" for other in range(port + 1, port + _TRIED) if _is_free(other)), "")
        return f"port {port} cannot be used ({error.strerror}); {free or 'give another one as PORT'}"
    return ""


def _listen(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the webserver does
        probe.bind((_HOST, port))
        probe.listen()


def _is_free(port: int) -> bool:
    with suppress(OSError, OverflowError):
        _listen(port)
        return True
    return False


if __name__ == "__main__":
    sys.exit(problem_of(sys.argv[1]) or None)
