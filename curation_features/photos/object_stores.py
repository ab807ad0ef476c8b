"""Reads objects of remote stores through fsspec, with retries and limits. Nothing is written or deleted there."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from curation_features.errors import PhotoError, too_many_files
from curation_features.photos.read_errors import http_status, remote_reason
from curation_features.text import mask_secrets

if TYPE_CHECKING:
    from curation_features.settings import Settings

log = logging.getLogger(__name__)

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme -> extra of this package
_TRANSIENT = frozenset({"io_error", "timed_out"})
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})  # of 4xx; every 5xx is
_RANGE_NOT_SATISFIABLE = 416  # from byte 0: the object is empty (RFC 9110, 14.1.2)

ONE_REQUEST = 64 << 20
"""Objects of up to so many bytes take one request. The size of larger ones is asked for before the download."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Upper limits of the pause before the first and any later retry, seconds."""

AWAY_AFTER = 8
"""A store is away after so many objects in a row that failed for a temporary reason."""

AWAY_SECONDS = 30.0
"""A store that is away is tried again after so many seconds."""


class ObjectStores:
    """Reads whole objects. Safe for use by several threads.

    Pauses before retries double, with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015). If a store is away, its other objects fail without a request, and one warning is logged.

    Args:
        sleep: waits for some seconds.
        clock: seconds of a monotonic clock.
        jitter: a random number in [0, 1).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._max_bytes = settings.max_file_bytes
        self._attempts = settings.download_attempts
        self._seconds = settings.max_download_seconds
        self._at_once = settings.downloads_at_once
        self._slots = threading.BoundedSemaphore(self._at_once)
        self._sleep, self._clock, self._jitter = sleep, clock, jitter
        self._stores: defaultdict[str, _Store] = defaultdict(lambda: _Store(clock))

    def read(self, uri: str) -> bytes:
        """Read an object; of a larger one than `max_file_bytes`, at most one byte more.

        Raises:
            PhotoError: the object is missing, not permitted or too large; or the store does not answer.
            OSError: this process has too many open files.
            ValueError: the URI is invalid.
        """
        name = _store_of(uri)
        store = self._stores[name]
        store.check(name)
        deadline = self._clock() + self._seconds
        for attempt in range(1, self._attempts + 1):
            try:
                with self._slots:
                    data = self._fetch(uri, deadline - self._clock())
            except PhotoError:
                store.has_answered(name)
                raise
            except Exception as error:
                if too_many_files(error) or isinstance(error, ValueError):
                    raise
                failure = self._explain(uri, error, attempt)
                if not _is_transient(error):
                    store.has_answered(name)
                    raise failure from error
                pause = self._jitter() * min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
                if attempt == self._attempts or self._clock() + pause >= deadline:
                    store.has_failed(name, failure)
                    raise failure from error
                self._sleep(pause)
            else:
                store.has_answered(name)
                return data
        raise AssertionError("download_attempts is at least 1")

    def _fetch(self, uri: str, seconds: float) -> bytes:
        import fsspec

        scheme = uri.partition("://")[0].lower()
        try:
            filesystem, path = fsspec.url_to_fs(uri, **self._options(scheme))
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            remedy = f'pip install "curation-features[{extra}]"' if extra else str(error)
            raise PhotoError("unsupported_uri", f"{quote(uri)}: {scheme}:// needs a package: {remedy}") from error
        if scheme in ("s3", "s3a"):
            filesystem.retries = 1  # s3fs repeats what botocore repeats, which would repeat ours
        first = min(self._max_bytes, ONE_REQUEST) + 1
        data = self._get(filesystem, path, first, seconds)
        if len(data) < first or first > self._max_bytes:
            return data
        size = _call(filesystem, "info", path, seconds=seconds)["size"]
        if size is not None and size > self._max_bytes:
            raise PhotoError(
                "too_large", f"{quote(uri)} has {size} bytes, more than max_file_bytes ({self._max_bytes})"
            )
        return self._get(filesystem, path, self._max_bytes + 1, seconds)  # whole: it may have been replaced

    def _get(self, filesystem: Any, path: str, end: int, seconds: float) -> bytes:
        try:
            return cast("bytes", _call(filesystem, "cat_file", path, seconds=seconds, start=0, end=end))
        except Exception as error:
            if http_status(error) == _RANGE_NOT_SATISFIABLE:
                return b""
            raise

    def _options(self, scheme: str) -> Mapping[str, Any]:
        """Options of a file system, in addition to the user's configuration of fsspec, which has precedence."""
        if scheme not in ("s3", "s3a"):
            return {}
        from fsspec.config import conf

        ours = {"max_pool_connections": self._at_once, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": ours | conf.get("s3", {}).get("config_kwargs", {})}

    def _explain(self, uri: str, error: Exception, attempt: int) -> PhotoError:
        """Return the `PhotoError` for an error of a backend; its message has no secrets."""
        reason = remote_reason(error)
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if reason == "timed_out":
            cause = f"no answer in time (max_download_seconds: {self._seconds:g})"
        if reason == "permission_denied":
            cause += "; check the credentials in the environment, and that they may read it"
            cause += " (stores may also refuse keys that do not exist)"
        tries = f" (tried {attempt} times)" if attempt > 1 else ""
        return PhotoError(reason, f"{quote(uri)} cannot be read: {_without_secrets(cause, uri)}{tries}")


class _Store:
    """Knows whether a store answers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._failures = 0  # in a row
        self._last: PhotoError | None = None
        self._next_try = 0.0

    def check(self, name: str) -> None:
        """Raise the last failure if the store is away. Now and then one caller may try."""
        with self._lock:
            if self._failures < AWAY_AFTER or self._last is None:
                return
            if self._clock() >= self._next_try:
                self._next_try = self._clock() + AWAY_SECONDS
                return
            raise PhotoError(self._last.reason, f"not tried: {name} does not answer; its last failure: {self._last}")

    def has_answered(self, name: str) -> None:
        """Note that the store is there."""
        with self._lock:
            if self._failures >= AWAY_AFTER:
                log.warning("%s answers again", name)
            self._failures = 0

    def has_failed(self, name: str, failure: PhotoError) -> None:
        """Note a temporary failure; log the one from which on the store is away."""
        with self._lock:
            self._failures += 1
            self._last = failure
            if self._failures == AWAY_AFTER:
                self._next_try = self._clock() + AWAY_SECONDS
                log.warning(
                    "%s does not answer (%s); its other photos fail without a request, and one is tried each %d s. "
                    "Run the batch again with --retry-failed when it does",
                    *(name, failure, AWAY_SECONDS),
                )


def _call(filesystem: Any, method: str, path: str, *, seconds: float, **options: Any) -> Any:
    """Call a method of a file system; network backends, which are asynchronous, are cancelled after some seconds."""
    from fsspec.asyn import AsyncFileSystem, sync

    if isinstance(filesystem, AsyncFileSystem):
        # A limit of 0 would be none.
        return sync(filesystem.loop, getattr(filesystem, f"_{method}"), path, timeout=max(seconds, 0.001), **options)
    return getattr(filesystem, method)(path, **options)


def _is_transient(error: Exception) -> bool:
    status = http_status(error)
    if status is not None and 400 <= status < 500:
        return status in _TRANSIENT_STATUS
    return remote_reason(error) in _TRANSIENT


def _store_of(uri: str) -> str:
    """Return scheme and bucket (or host) of a URI, without credentials."""
    scheme, _, path = mask_secrets(uri).partition("://")
    return f"{scheme}://{path.partition('/')[0].rpartition('@')[2]}"


def _without_secrets(text: str, uri: str) -> str:
    """Mask the secrets of all URLs in a text, and those of `uri` also if the text has its path only."""
    path, _, query = uri.partition("://")[2].partition("?")
    for secret in (query, path.rpartition("@")[0]):
        text = text.replace(secret, "...") if secret else text
    return mask_secrets(text)


def quote(uri: str) -> str:
    """Return a remote URI for messages, without credentials and query."""
    masked = mask_secrets(uri)
    return repr(masked if len(masked) <= 200 else f"{masked[:200]}...")
