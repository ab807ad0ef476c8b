"""Admits requests of the page only: no other machine, user, page or name of this machine.

    GET /?token=...     the address that the command prints; sets the cookie, and leads to the page
    GET /{path}/...     the page; needs the cookie

Browsers send cookies of a host to all its ports (RFC 6265, section 8.5). So the page has a random path, and the cookie
is sent to this path only.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "library"
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every answer; an answer has `cache-control: no-store` unless its route sets another."""

_DEFAULT_PORT = 80  # of http
_TICKET_S = 120.0
_OPEN_AGAIN = "Open the address that `curation-features library` printed in the terminal."


class Guard:
    """An ASGI application around another one, which gets only requests of the page.

    Args:
        app: gets requests whose path begins with `base`.
        port: the port of the server; `Host` must name it.
        base: path of the page, from `random_path`.

    Attributes:
        token: opens the page, any number of times.
    """

    def __init__(self, app: App, port: int, base: str) -> None:
        self._app = app
        self._base = base
        end = "" if port == _DEFAULT_PORT else f":{port}"  # as browsers write it
        self._hosts = frozenset(f"{name}{end}".encode() for name in ("127.0.0.1", "localhost"))
        self._origins = frozenset(b"http://" + host for host in self._hosts)
        self._cookie = secrets.token_urlsafe(32)
        self._tickets: dict[str, float] = {}
        self._lock = threading.Lock()
        self.token = secrets.token_urlsafe(32)

    def ticket(self) -> str:
        """Return a token that opens the page once, within two minutes.

        It is for the command line of a browser, which other users of the machine can read.
        """
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            self._tickets[ticket] = time.monotonic() + _TICKET_S
        return ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # a WebSocket
            return await send({"type": "websocket.close", "code": 1008})
        if refusal := self._refusal(scope):
            return await _answer(send, *refusal)
        if scope["path"] == "/":
            return await self._enter(scope, send)
        if not scope["path"].startswith(f"{self._base}/"):
            return await _answer(send, 404, f"Not found. {_OPEN_AGAIN}")
        if not self._has_cookie(scope):
            return await _answer(send, 403, f"This page is closed to you. {_OPEN_AGAIN}")
        await self._app(scope, receive, _hardened(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason of a request that comes from elsewhere; None for one of the page or the user."""
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "Only GET and HEAD are allowed: this page changes nothing."
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:  # a DNS name that was rebound to this machine
            return 403, f"The address must begin with one of {', '.join(sorted(_words(self._origins)))}."
        if any(origin.lower() not in self._origins for origin in _values(scope, b"origin")):
            return 403, "Another page may not use this one."
        if any(site not in (b"same-origin", b"none") for site in _values(scope, b"sec-fetch-site")):
            return 403, "Another page may not use this one. To open it, paste its address into the browser."
        return None

    async def _enter(self, scope: Scope, send: Send) -> None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if len(given) != 1 or not self._admits(given[0]):
            return await _answer(send, 403, f"The address has no valid token, or was used before. {_OPEN_AGAIN}")
        cookie = f"{COOKIE}={self._cookie}; Path={self._base}/; HttpOnly; SameSite=Strict"
        await _answer(send, 303, "", {"location": f"{self._base}/", "set-cookie": cookie})

    def _admits(self, given: str) -> bool:
        with self._lock:
            now = time.monotonic()
            self._tickets = {ticket: end for ticket, end in self._tickets.items() if end > now}
            used = next((ticket for ticket in self._tickets if _is_same(ticket, given)), None)
            if used is not None:
                del self._tickets[used]
        return used is not None or _is_same(self.token, given)

    def _has_cookie(self, scope: Scope) -> bool:
        sent = b";".join(_values(scope, b"cookie")).decode("latin-1")
        # Not http.cookies: it refuses all cookies because of one that another server of this machine has set.
        pairs = (pair.strip().partition("=") for pair in sent.split(";"))
        return any(name == COOKIE and _is_same(value, self._cookie) for name, _, value in pairs)


def random_path() -> str:
    """Return a path that no other server of this machine has."""
    return f"/{secrets.token_urlsafe(12)}"


def _hardened(send: Send) -> Send:
    """Return `send` with the headers of every answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            all_of = {**HEADERS, "cache-control": "no-store"}
            more = [(name.encode(), value.encode()) for name, value in all_of.items() if name.encode() not in names]
            message = {**message, "headers": [*given, *more]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = text.encode()
    given = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **(headers or {})}
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    await _hardened(send)(start)
    await send({"type": "http.response.body", "body": body})


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _words(values: frozenset[bytes]) -> list[str]:
    return [value.decode() for value in values]


def _is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogatepass"))
