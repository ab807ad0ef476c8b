"""A hub on the loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A server that speaks as much of the Hugging Face hub as a download needs.

    Attributes:
        files: what each path of the repository holds.
        requests: method and path of every request so far.
        cut: names of files of which only the first half is sent before the connection closes.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with the empty repository `org/model` on the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _HubHandler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.hub  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


class _HubHandler(BaseHTTPRequestHandler):
    """`/org/model/resolve/main/FILE`, which redirects to `/cdn/FILE` for large files, as the real hub does."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        hub.requests.append(f"{self.command} {self.path}")
        name = self.path.rsplit("/", 1)[-1]
        data = hub.files.get(name)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        large = not name.endswith(".json")
        if large and not self.path.startswith("/cdn/"):
            self.send_response(302)
            cdn = hub.url.replace("127.0.0.1", "localhost")  # another host, as for the real hub's large files
            self.send_header("Location", f"{cdn}/cdn/{name}")
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", "0")
            data = b""
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body and name in hub.cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(data)
