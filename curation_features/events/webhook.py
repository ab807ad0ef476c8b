"""Post events to a webhook: the HTTP binding of CloudEvents 1.0 in structured mode."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from curation_features.errors import EventError, SettingsError
from curation_features.manifest import to_json

_CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

_DOWN = frozenset({408, 425, 429, *range(500, 600)})
"""Transient statuses: the event is worth another attempt later."""

_BACKOFF_S = 0.25  # the second attempt follows at once, the third after 0.5 to 0.75 s, the fourth after 1 to 1.25 s


class WebhookSink:
    """Posts each event to one URL; any 2xx response means that it was accepted.

    A transient failure (no connection, no response, 408, 425, 429, 5xx) is retried with back-off and jitter.
    `Retry-After` is ignored: the event waits in the outbox, not the run. Redirects are not followed. `requests` takes
    proxies and certificates from the environment.

    Args:
        url: http or https. All but scheme, host and port may be secret and never appears in errors or logs.
        token: bearer token; it appears nowhere else.
        timeout_s: timeout of the connection and of each read, s.
        attempts: number of attempts for one event before the sink counts as down.

    Raises:
        SettingsError: the URL or the token is invalid.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = 5.0, attempts: int = 3) -> None:
        self._origin = _origin(url)
        self._url = url
        self._timeout_s = timeout_s
        self._session = _session(token, attempts)

    def deliver(self, event: Mapping[str, Any]) -> None:
        """Post `event`. Raises `EventError`: the webhook is down, or refused it (3xx, other 4xx)."""
        status = self._post(to_json(event))
        if isinstance(status, str):
            raise EventError(f"{self._origin}: no response ({status})", retry=True)
        if status in _DOWN:
            raise EventError(f"{self._origin}: responded {status}", retry=True)
        if 300 <= status < 400:
            remedy = "redirects are not followed; set event_webhook to the final address"
            raise EventError(f"{self._origin}: responded {status}: {remedy}", retry=False)
        if not 200 <= status < 300:
            remedy = "check event_webhook and event_webhook_token"
            raise EventError(f"{self._origin}: refused the event with {status}: {remedy}", retry=False)

    def _post(self, body: bytes) -> int | str:
        """The response status, or why there is none; raises nothing, as requests' exceptions hold the whole URL."""
        headers = {"Content-Type": _CONTENT_TYPE}
        try:
            with (
                _without_url_logs(),
                self._session.post(
                    self._url, body, headers=headers, timeout=self._timeout_s, allow_redirects=False, stream=True
                ) as response,
            ):
                return response.status_code
        except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' exceptions are OSErrors
            return _describe_cause(error)


def _origin(url: str) -> str:
    """Validate a URL and return its public part: scheme, host and port."""
    try:
        requests.Request("POST", url).prepare()
        parsed = urllib3.util.parse_url(url)
    except ValueError:  # of both libraries; the message would hold the URL
        parsed = urllib3.util.Url()
    if parsed.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\\]", url):
        raise SettingsError(
            "event_webhook: must be a URL such as https://host/path; it is not shown, as it may contain a secret"
        )
    return f"{parsed.scheme}://{parsed.netloc}"


def _session(token: str, attempts: int) -> requests.Session:
    if not re.fullmatch(r"[!-~]*", token):
        raise SettingsError("event_webhook_token: contains white space or a non-ASCII character")

    def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    retry = urllib3.Retry(
        attempts - 1,
        status_forcelist=_DOWN,
        allowed_methods={"POST"},
        backoff_factor=_BACKOFF_S,
        backoff_jitter=_BACKOFF_S,
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    session = requests.Session()
    session.auth = bearer if token else None  # an entry in ~/.netrc would override a header
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


@contextmanager
def _without_url_logs() -> Iterator[None]:
    """Suppress urllib3's log records of this thread, which contain the whole URL."""
    thread = threading.get_ident()
    loggers = [logging.getLogger(name) for name in ("urllib3.connectionpool", "urllib3.util.retry")]

    def is_other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    for logger in loggers:
        logger.addFilter(is_other_thread)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_other_thread)


def _describe_cause(error: BaseException | None) -> str:
    """The system's message of an error, else the type of its root cause; neither contains a URL."""
    name = ""
    while error is not None:
        if message := getattr(error, "strerror", None):
            return str(message)
        name = type(error).__name__
        error = error.__cause__ or error.__context__
    return name
