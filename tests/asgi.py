"""Requests to an ASGI application without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    """The answer to a request; the names of headers are in small letters."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def request(
    app: Any,
    path: str,
    given: Mapping[str, Any] | None = None,
    headers: list[tuple[str, str]] | None = None,
    **more: Any,
) -> Answer:
    """Send a request; `given` are the parameters of its address, `more` replaces parts of the scope."""
    return asyncio.run(_request(app, path, given, headers, more))


async def _request(
    app: Any, path: str, given: Mapping[str, Any] | None, headers: list[tuple[str, str]] | None, more: dict[str, Any]
) -> Answer:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": urlencode(given or {}, doseq=True).encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers or ()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8700),
        **more,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if sent[0]["type"] == "websocket.close":
        return Answer(sent[0]["code"], [], b"")
    found = [(name.decode().lower(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))
