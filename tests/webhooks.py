"""Fixture: an HTTP server on loopback that accepts posts, or misbehaves as configured."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from devserver import free_port

Answer = int | Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Post:
    path: str
    headers: Mapping[str, str]
    body: bytes
    answered: Answer

    @property
    def id(self) -> str:
        return json.loads(self.body)["id"]


class Receiver:
    """An HTTP server that keeps its posts. It sends the configured answers, then 204."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.posts: list[Post] = []
        self.others: list[str] = []
        self.released = threading.Event()
        self.port = free_port()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def taken(self) -> list[str]:
        """Ids of the events that were answered with success, in order."""
        return [post.id for post in self.posts if post.answered in range(200, 300)]

    def wait_for(self, posts: int) -> None:
        """Until so many posts have been read; those of a client that has gone away by then, too."""
        while len(self.posts) < posts:
            time.sleep(0.01)

    def up(self) -> None:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver.answers.pop(0) if receiver.answers else 204
                receiver.posts.append(Post(self.path, dict(self.headers), body, answer))
                if callable(answer):
                    answer(self)
                    return
                self.send_response(answer)
                self.send_header("Location", receiver.url + "/moved")
                self.send_header("Retry-After", "3600")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                receiver.others.append(self.path)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Close the port; `up` opens the same one again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hang(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.released.wait(500)
        handler.close_connection = True

    def drop(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.close_connection = True


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Receiver()
    yield server
    server.released.set()
    server.down()
