"""The guard of the library page: who gets in, and what every answer carries."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import Answer, request

from curation_features.gallery import guard as guards
from curation_features.gallery.guard import Guard, random_path

HOST = ("host", "127.0.0.1:8700")


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"the page"})


@pytest.fixture
def guard() -> Guard:
    return Guard(page, 8700, "/secret")


def enter(guard: Guard, token: str, *headers: tuple[str, str]) -> Answer:
    return request(guard, "/", {"token": token}, [HOST, *headers])


def cookie(guard: Guard) -> tuple[str, str]:
    given = enter(guard, guard.token).header("set-cookie")
    assert given is not None
    return ("cookie", given.partition(";")[0])


def test_the_address_sets_a_cookie_for_the_page_only(guard: Guard) -> None:
    answer = enter(guard, guard.token)
    assert (answer.status, answer.header("location")) == (303, "/secret/")
    value, *attributes = str(answer.header("set-cookie")).split("; ")
    assert set(attributes) == {"Path=/secret/", "HttpOnly", "SameSite=Strict"}
    assert guard.token not in value
    assert len(value.partition("=")[2]) >= 43  # 256 bits in base64
    found = request(guard, "/secret/", None, [HOST, ("cookie", f"other=1; {value}")])
    assert (found.status, found.body) == (200, b"the page")
    assert request(guard, "/secret/", None, [("host", "LOCALHOST:8700"), ("cookie", value)]).status == 200
    assert random_path() != random_path()


def test_a_ticket_opens_once_and_not_for_long(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = guard.ticket()
    assert [enter(guard, ticket).status for _ in range(2)] == [303, 403]
    late = guard.ticket()
    now = guards.time.monotonic()
    monkeypatch.setattr(guards.time, "monotonic", lambda: now + 121)
    assert enter(guard, late).status == 403
    assert [enter(guard, guard.token).status for _ in range(2)] == [303, 303]


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "\u00e9", "\0"])
def test_another_token_is_refused(guard: Guard, token: str) -> None:
    answer = enter(guard, token)
    assert answer.status == 403
    assert "curation-features library" in answer.body.decode()
    assert answer.header("set-cookie") is None


@pytest.mark.parametrize(
    ("headers", "more", "status"),
    [
        ([("host", "evil.example:8700")], {}, 403),  # a name that was rebound to 127.0.0.1
        ([("host", "127.0.0.1")], {}, 403),
        ([("host", "127.0.0.1:80")], {}, 403),
        ([("host", "127.0.0.1:8700.evil.example")], {}, 403),
        ([HOST, HOST], {}, 403),
        ([], {}, 403),
        ([HOST, ("origin", "http://127.0.0.1:9000")], {}, 403),
        ([HOST, ("origin", "https://127.0.0.1:8700")], {}, 403),
        ([HOST, ("origin", "null")], {}, 403),
        ([HOST, ("sec-fetch-site", "cross-site")], {}, 403),
        ([HOST, ("sec-fetch-site", "same-site")], {}, 403),  # another port of this machine
        ([HOST], {"method": "POST"}, 405),
        ([HOST], {"method": "OPTIONS"}, 405),
        ([HOST], {"type": "websocket"}, 1008),
        ([HOST, ("origin", "http://127.0.0.1:8700"), ("sec-fetch-site", "same-origin")], {}, 200),
        ([HOST, ("sec-fetch-site", "none")], {"method": "HEAD"}, 200),
    ],
)
def test_requests_from_elsewhere_are_refused(
    guard: Guard, headers: list[tuple[str, str]], more: dict[str, str], status: int
) -> None:
    assert request(guard, "/secret/", None, [*headers, cookie(guard)], **more).status == status
    if status != 200:
        assert request(guard, "/", {"token": guard.token}, headers, **more).status == status


def test_the_default_port_is_not_in_the_address() -> None:
    guard = Guard(page, 80, "/secret")
    assert request(guard, "/", {"token": guard.token}, [("host", "127.0.0.1")]).status == 303
    assert request(guard, "/", {"token": guard.token}, [HOST]).status == 403


@pytest.mark.parametrize("other", ["theme", "expires=x", "a b=c", 'x="', "=", "\u00e9=1", ""])
def test_cookies_of_other_servers_change_nothing(guard: Guard, other: str) -> None:
    name, own = cookie(guard)
    for sent in (f"{own}; {other}", f"{other}; {own}", f"library=x; {other};{own}"):
        assert request(guard, "/secret/", None, [HOST, (name, sent)]).status == 200


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/secret/", None, 403),
        ("/secret/", ("cookie", "library=x"), 403),
        ("/secret/", ("cookie", 'library="'), 403),
        ("/secret/api/photos", None, 403),
        ("/secret", None, 404),
        ("/other/", None, 404),
        ("/secretly/", None, 404),
    ],
)
def test_without_the_cookie_nothing_is_shown(
    guard: Guard, path: str, given: tuple[str, str] | None, status: int
) -> None:
    answer = request(guard, path, None, [HOST, *([given] if given else [])])
    assert (answer.status, answer.header("set-cookie")) == (status, None)
    assert b"the page" not in answer.body


def test_every_answer_has_the_protecting_headers(guard: Guard) -> None:
    answers = [request(guard, "/secret/", None, [HOST, cookie(guard)]), enter(guard, guard.token), enter(guard, "x")]
    for answer in answers:
        headers = dict(answer.headers)
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert {rules[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert {rules[name] for name in rules if name.endswith("-src") and name != "default-src"} == {"'self'"}
        assert not [name for name in headers if name.startswith("access-control")]
