"""Serves the page on this machine only, until it is interrupted."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn

from curation_features.errors import InputError
from curation_features.gallery.app import LibraryApp
from curation_features.gallery.asking import Searcher
from curation_features.gallery.guard import Guard, random_path
from curation_features.settings import Settings

HOST = "127.0.0.1"
FIRST_PORT = 8700
_PORTS = 20  # tried if none is given
_GRACE_S = 2


def serve(
    settings: Settings, searcher: Callable[[], Searcher], port: int | None, ready: Callable[[str, str], None]
) -> str:
    """Serve the library page until SIGINT or SIGTERM.

    Args:
        searcher: makes what searches by words and by example.
        port: None: the first free one of some.
        ready: called when the page can be opened, with its address, and an address that opens it once.

    Returns:
        The address of the server.

    Raises:
        InputError: the port cannot be used.
    """
    with listen(port) as listening:
        server, address = make_server(settings, searcher, listening, ready)
        server.run(sockets=[listening])
    return address


def make_server(
    settings: Settings,
    searcher: Callable[[], Searcher],
    listening: socket.socket,
    ready: Callable[[str, str], None] = lambda address, once: None,
) -> tuple[uvicorn.Server, str]:
    """Return the server of a socket, and its address; see `serve`."""
    port = listening.getsockname()[1]
    address, base = f"http://{HOST}:{port}/", random_path()
    guard = Guard(LibraryApp(settings, searcher).at(base), port, base)
    config = uvicorn.Config(
        guard,
        access_log=False,  # addresses have tokens
        log_config=None,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_S,
    )
    opened = partial(_report, ready, f"{address}?token=", guard)
    return _Server(config, opened), address


def _report(ready: Callable[[str, str], None], address: str, guard: Guard) -> None:
    ready(address + guard.token, address + guard.ticket())


def listen(port: int | None) -> socket.socket:
    """Return a socket that listens on loopback. Raises `InputError`: the port cannot be used."""
    ports = range(FIRST_PORT, FIRST_PORT + _PORTS) if port is None else (port,)
    for one in ports:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, one))
            listening.listen(128)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            raise InputError(f"port {one} cannot be used: {error.strerror}; give another one with --port") from error
        return listening
    raise InputError(f"ports {ports[0]} to {ports[-1]} are in use; give a free one with --port")


class _Server(uvicorn.Server):
    """A server that reports when it is ready, and ends on a signal without raising it again."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM; the second SIGINT does not wait for open requests."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)
