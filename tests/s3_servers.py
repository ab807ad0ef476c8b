"""moto's S3 on the loopback device, which can be made to fail, to wait, or to be away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from devserver import free_port

BUCKET = "photos"


@dataclass
class S3Server:
    """An S3 server.

    Attributes:
        answers: HTTP statuses of the next requests, before the server answers them itself.
        requests: method and path of each request.
        released: requests wait for it.
    """

    port: int = field(default_factory=free_port)
    answers: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _server: Any = None

    def __post_init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self.released.set()
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *_: Any, **__: Any) -> None:
                """Log nothing."""

        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=Silent)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        self.released.wait(30)
        if self.answers and (status := self.answers.pop(0)) != 200:
            start(f"{status} x", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start)

    def put(self, key: str, data: bytes) -> str:
        """Store an object; its URI."""
        self.filesystem().pipe_file(f"{BUCKET}/{key}", data)
        self.requests.clear()
        return f"s3://{BUCKET}/{key}"

    def filesystem(self) -> Any:
        import fsspec

        return fsspec.filesystem("s3")


@pytest.fixture(scope="session")
def _one_server() -> Iterator[S3Server]:
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("flask_cors", reason="moto's server is not installed")
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    server = S3Server()
    yield server
    server.down()


@pytest.fixture
def s3(_one_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, and the environment that leads to it."""
    for name, value in {
        "AWS_ENDPOINT_URL": _one_server.url,
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    requests.post(f"{_one_server.url}/moto-api/reset", timeout=30)
    filesystem = _one_server.filesystem()
    filesystem.invalidate_cache()
    filesystem.mkdir(BUCKET)
    _one_server.requests.clear()
    yield _one_server
    _one_server.answers.clear()
    _one_server.released.set()
