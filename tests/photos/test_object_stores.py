"""Reading of objects: retries, limits and reasons. `test_s3` does it with a real server."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pictures import refusal

from curation_features.errors import PhotoError
from curation_features.photos import object_stores
from curation_features.photos.object_stores import AWAY_AFTER, AWAY_SECONDS, ObjectStores
from curation_features.photos.read_ahead import ReadAhead
from curation_features.photos.reader import PhotoFile, PhotoReader
from curation_features.settings import Settings

URI = "memory://bucket/a.jpg"


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status} of https://key:p4ss/w0rd@host/a.jpg?X-Amz-Signature=s1gned")
        self.status = status


class Store:
    """An in-memory store that fails as told, with a clock that only its pauses move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import fsspec

        self.errors: list[Exception] = []
        self.asked: list[str] = []
        self.now = 0.0
        self.pauses: list[float] = []
        memory = fsspec.filesystem("memory")
        real = memory.cat_file
        self.pipe, self.clear = memory.pipe_file, memory.store.clear

        def cat_file(path: str, **limits: int) -> bytes:
            self.asked.append(path)
            if self.errors:
                raise self.errors.pop(0)
            return real(path, **limits)

        monkeypatch.setattr(memory, "cat_file", cat_file)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def reader(self, **changes: object) -> ObjectStores:
        settings = Settings(photo_roots=("memory://",), **changes)
        return ObjectStores(settings, sleep=self.sleep, clock=lambda: self.now, jitter=lambda: 1.0)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch):
    found = Store(monkeypatch)
    found.pipe("/bucket/a.jpg", b"pixels")
    yield found
    found.clear()


@pytest.mark.parametrize(
    "error",
    [*(HttpError(status) for status in (408, 409, 429, 500, 502, 503, 504)), TimeoutError(), ConnectionResetError(),
     OSError(16, "SlowDown"), RuntimeError("of a backend")],
)  # fmt: skip
def test_temporary_failures_are_tried_again(store, error: Exception) -> None:
    store.errors = [error] * 4
    assert store.reader().read(URI) == b"pixels"
    assert store.pauses == [0.5, 1, 2, 4]  # doubled, here at their upper limits
    store.errors, store.asked = [error] * 5, []
    assert "tried 5 times" in str(refusal(lambda: store.reader().read(URI)))
    assert len(store.asked) == 5


def test_pauses_are_random_and_limited(store) -> None:
    store.errors = [HttpError(503)] * 12
    reader = store.reader(download_attempts=13, max_download_seconds=1000.0)
    reader._jitter = iter([0.5] * 12).__next__
    assert reader.read(URI) == b"pixels"
    assert store.pauses[:3] == [0.25, 0.5, 1]
    assert max(store.pauses) == object_stores.LONGEST_PAUSE / 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("gone"), "missing"),
        (HttpError(404), "missing"),
        (PermissionError("not yours"), "permission_denied"),
        (HttpError(403), "permission_denied"),
        (type("NoCredentialsError", (Exception,), {})("none"), "permission_denied"),
        (IsADirectoryError("a prefix"), "not_a_file"),
        (HttpError(400), "io_error"),
    ],
)
def test_lasting_failures_are_tried_once(store, error: Exception, reason: str) -> None:
    store.errors = [error]
    assert refusal(lambda: store.reader().read(URI)).reason == reason
    assert (len(store.asked), store.pauses) == (1, [])


def test_attempts_end_with_the_time_limit(store) -> None:
    store.errors = [TimeoutError()] * 9
    failure = refusal(lambda: store.reader(download_attempts=9, max_download_seconds=4).read(URI))
    assert (failure.reason, store.pauses) == ("timed_out", [0.5, 1, 2])  # the next would end after 7.5 s
    assert "max_download_seconds: 4" in str(failure)


def test_a_store_that_is_away_is_reported_once(store, caplog) -> None:
    caplog.set_level(logging.INFO)
    reader = store.reader(download_attempts=1)
    store.errors = [ConnectionRefusedError("away")] * (AWAY_AFTER + 1)
    failures = [refusal(lambda: reader.read(URI)) for _ in range(1000)]
    assert len(store.asked) == AWAY_AFTER
    assert {failure.reason for failure in failures} == {"io_error"}
    assert len(str(failures[-1])) < 300
    assert "not tried: memory://bucket does not answer" in str(failures[-1])
    assert len(caplog.records) == 1
    store.pipe("/other/a.jpg", b"pixels")
    store.errors, kept = [], store.errors
    assert reader.read("memory://other/a.jpg") == b"pixels"  # another bucket is not affected
    store.errors = kept
    store.now += AWAY_SECONDS
    assert "not tried" not in str(refusal(lambda: reader.read(URI)))
    assert "not tried" in str(refusal(lambda: reader.read(URI)))
    store.now += AWAY_SECONDS
    assert [reader.read(URI) for _ in range(2)] == [b"pixels"] * 2
    assert len(caplog.records) == 2


def test_missing_objects_do_not_make_a_store_away(store) -> None:
    reader = store.reader()
    for _ in range(3 * AWAY_AFTER):
        assert refusal(lambda: reader.read("memory://bucket/none.jpg")).reason == "missing"
    assert reader.read(URI) == b"pixels"


def test_requests_at_once_are_limited(store, monkeypatch) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def fetch(*_: object) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        return b"x"

    monkeypatch.setattr(ObjectStores, "_fetch", fetch)
    reader = store.reader(downloads_at_once=3)
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(reader.read, [URI] * 36)) == [b"x"] * 36
    assert most == 3


def test_a_large_object_is_refused_before_its_download(store, monkeypatch) -> None:
    monkeypatch.setattr(object_stores, "ONE_REQUEST", 10)
    for size, requests in ((10, 1), (11, 2), (20, 2)):
        store.pipe("/bucket/b.jpg", bytes(size))
        store.asked = []
        assert len(store.reader(max_file_bytes=20).read("memory://bucket/b.jpg")) == size
        assert len(store.asked) == requests
    store.pipe("/bucket/b.jpg", bytes(21))
    store.asked = []
    failure = refusal(lambda: store.reader(max_file_bytes=20).read("memory://bucket/b.jpg"))
    assert (failure.reason, len(store.asked)) == ("too_large", 1)
    assert "has 21 bytes" in str(failure)


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/a.jpg?X-Amz-Signature=s1gned",
        "https://user:p4ss@host/a.jpg",
        "s3://key:p4ss/w0rd@bucket/a.jpg",
        "memory://key:p4ss/w0rd@bucket/a.jpg?X-Amz-Signature=s1gned",
    ],
)
@pytest.mark.parametrize("error", [None, HttpError(503), HttpError(403)])
def test_messages_and_logs_have_no_credentials(store, caplog, settings, uri: str, error: Exception | None) -> None:
    store.errors = [error] * 99 if error else []
    texts = [str(refusal(lambda: PhotoReader(settings).read(uri)))]
    reader = store.reader(download_attempts=1)
    for _ in range(AWAY_AFTER + 1):
        texts.append(str(refusal(lambda: reader.read(uri.replace("https", "memory").replace("s3", "memory")))))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("curation_features")]
    assert len(ours) == (error is not None and error.status == 503)
    for text in (*texts, *ours):
        assert not any(secret in text for secret in ("s1gned", "p4ss", "w0rd", "user:")), text


def test_uris_with_a_password_are_refused(settings: Settings) -> None:
    reader = PhotoReader(settings.replace(photo_roots=("memory://",)))
    assert "has a password" in str(refusal(lambda: reader.read("memory://key:p4ss/w0rd@bucket/a.jpg")))
    for uri in ("memory://host:8080/a@2x.jpg", "memory://bucket/a:b@2x.jpg", "memory://container@account/a.jpg"):
        assert refusal(lambda uri=uri: reader.read(uri)).reason == "missing"


# --- Ahead of their turn ---


def test_photos_are_read_ahead_within_the_limit(settings: Settings) -> None:
    started: list[str] = []
    uris = [f"memory://b/{n % 7}.jpg" for n in range(20)]

    def read(uri: str) -> PhotoFile:
        started.append(uri)
        if uri.endswith("3.jpg"):
            raise PhotoError("missing", uri)
        return PhotoFile(uri.encode(), "")

    ahead = ReadAhead(read, ["local.jpg", *uris], 4)
    ahead.start()
    try:
        for number, uri in enumerate(uris):
            if uri.endswith("3.jpg"):
                assert refusal(lambda uri=uri: ahead(uri)).reason == "missing"
            else:
                assert ahead(uri).data == uri.encode()
            assert len(started) <= number + 1 + 4
        assert started == uris
        assert ahead("local.jpg").data == b"local.jpg"
    finally:
        ahead.close()


def test_a_photo_that_is_asked_for_early_is_read_once(settings: Settings) -> None:
    started: list[str] = []

    def read(uri: str) -> PhotoFile:
        started.append(uri)
        return PhotoFile(uri.encode(), "")

    uris = [f"memory://b/{n}.jpg" for n in range(6)]
    ahead = ReadAhead(read, uris, 1)
    ahead.start()
    for uri in reversed(uris):
        assert ahead(uri).data == uri.encode()
    ahead._pool.shutdown()  # with everything that has been started
    assert sorted(started) == uris
