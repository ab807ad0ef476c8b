"""Check that a port is free before a server starts: `python -m curation_features.orchestration.port 3000`.

If another program has the port, `dagster dev` runs without its webserver and still reports that it serves.
"""

from __future__ import annotations

import socket
import sys

_HOST = "127.0.0.1"  # the address of `dagster dev`
_MAX_PORTS = 100  # tried after one that is in use


def find_port_problem(text: str) -> str:
    """The reason why no server can listen on a port, with the remedy; empty if it is free."""
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        return f"{text!r} is not a port: set one from 1 to 65535, as in PORT=3001"
    port = int(text)
    problem = _listen(port)
    if not problem:
        return ""
    others = range(port + 1, min(port + _MAX_PORTS, 2**16))
    remedy = next((f"PORT={other} is free" for other in others if not _listen(other)), "set PORT to another one")
    return f"port {port} cannot be used ({problem}); {remedy}"


def _listen(port: int) -> str:
    """Listen on a port for a moment; the reason why that fails, or an empty text."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the webserver does
            probe.bind((_HOST, port))
            probe.listen()
    except OSError as error:
        return str(error.strerror)
    return ""


if __name__ == "__main__":
    sys.exit(find_port_problem(sys.argv[1]) or None)
