"""Events posted to a webhook: the HTTP binding of CloudEvents 1.0 in structured mode."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from curation_features.errors import EventError, SettingsError
from curation_features.manifest import to_json

if TYPE_CHECKING:
    import requests

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

_DOWN = frozenset({408, 425, 429, *range(500, 600)})
"""Answers that say nothing about the event: it is worth another attempt, later."""

_BACKOFF_S = 0.25  # the second attempt follows at once, the third after 0.5 to 0.75 s, the fourth after 1 to 1.25 s


class WebhookSink:
    """Posts each event to one URL; any 2xx answer means that it was taken.

    An attempt that fails for a passing reason (no connection, no answer, 408, 425, 429, 5xx) is repeated with
    back-off and jitter. `Retry-After` is not waited for: the event waits in its outbox, not the run. Redirects are
    not followed. Proxies and certificates are those of the environment, as `requests` reads it.

    Args:
        url: http or https. All of it but scheme, host and port may be a secret: it never appears in errors or logs.
        token: sent as a bearer token; it appears nowhere else.
        timeout_s: how long a connection may take, and then each silence of the server, s.
        attempts: how often one event is tried before the sink counts as down.

    Raises:
        SettingsError: a URL or a token that can never be used.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = 5.0, attempts: int = 3) -> None:
        self._origin = _origin(url)
        self._url = url
        self._timeout_s = timeout_s
        self._session = _session(token, attempts)

    def deliver(self, event: Mapping[str, Any]) -> None:
        """Post `event`. Raises `EventError`: the webhook is down, or refuses it (any other 4xx, and 3xx)."""
        answer = self._post(to_json(event))
        if isinstance(answer, str):
            raise EventError(f"{self._origin}: no answer ({answer})", retry=True)
        if answer in _DOWN:
            raise EventError(f"{self._origin}: answers {answer}", retry=True)
        if 300 <= answer < 400:
            remedy = "redirects are not followed; set event_webhook to the final address"
            raise EventError(f"{self._origin}: answers {answer}: {remedy}", retry=False)
        if not 200 <= answer < 300:
            remedy = "check event_webhook and event_webhook_token"
            raise EventError(f"{self._origin}: refuses the event with {answer}: {remedy}", retry=False)

    def _post(self, body: bytes) -> int | str:
        """The status of the answer, or why there is none. No exception leaves: requests' own hold the whole URL."""
        import urllib3

        headers = {"Content-Type": CONTENT_TYPE}
        try:
            with (
                _without_urls_in_the_log(),
                self._session.post(
                    self._url, body, headers=headers, timeout=self._timeout_s, allow_redirects=False, stream=True
                ) as response,
            ):
                return response.status_code
        except (OSError, urllib3.exceptions.HTTPError) as error:  # an OSError is what requests' exceptions are
            return _cause(error)


def _origin(url: str) -> str:
    """Scheme, host and port of a URL that can be posted to: what may be shown of it."""
    import requests
    import urllib3

    try:
        requests.Request("POST", url).prepare()
        parsed = urllib3.util.parse_url(url)
    except ValueError:  # of both libraries; the message would hold the URL
        parsed = urllib3.util.Url()
    if parsed.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\\]", url):
        raise SettingsError(
            "event_webhook: must be a URL such as https://host/path; it is not shown here, as it may hold a secret"
        )
    return f"{parsed.scheme}://{parsed.netloc}"


def _session(token: str, attempts: int) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    if not re.fullmatch(r"[!-~]*", token):
        raise SettingsError("event_webhook_token: holds white space, or a character that is not ASCII")

    def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    retry = Retry(
        attempts - 1,
        status_forcelist=_DOWN,
        allowed_methods={"POST"},
        backoff_factor=_BACKOFF_S,
        backoff_jitter=_BACKOFF_S,
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    session = requests.Session()
    session.auth = bearer if token else None  # a header alone would yield to an entry in ~/.netrc
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


@contextmanager
def _without_urls_in_the_log() -> Iterator[None]:
    """Keep what urllib3 logs in this thread out of the log: each attempt, with the path and the query."""
    thread = threading.get_ident()
    loggers = [logging.getLogger(name) for name in ("urllib3.connectionpool", "urllib3.util.retry")]

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    for logger in loggers:
        logger.addFilter(elsewhere)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(elsewhere)


def _cause(error: BaseException | None) -> str:
    """Why, in the system's words if it has any, else by the type of the root: neither holds a URL."""
    name = ""
    while error is not None:
        if told := getattr(error, "strerror", None):
            return str(told)
        name = type(error).__name__
        error = error.__cause__ or error.__context__
    return name
