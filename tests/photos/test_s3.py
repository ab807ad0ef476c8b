"""Photos in a real S3 server (moto), read through s3fs."""

from __future__ import annotations

import hashlib
import time

import pytest
from pictures import refusal
from s3_servers import S3Server
from worlds import World

from curation_features.errors import StorageAwayError
from curation_features.events.outbox import Outbox
from curation_features.photos import object_stores
from curation_features.photos.reader import PhotoReader
from curation_features.processing import accept_without_dagster, process_batch
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.long  # s3fs and moto take a second to import


@pytest.fixture
def settings(world: World) -> Settings:
    return world.settings.replace(photo_roots=("s3://photos",), max_file_bytes=2_000_000)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "FIRST_PAUSE", 0.01)


@pytest.mark.parametrize("key", ["a.jpg", "S605%14-1.jpg", "ä #1?.jpg", "a+b c/d=1&e.jpg", "x" * 900])
def test_a_photo_is_one_request(s3: S3Server, settings: Settings, key: str) -> None:
    uri = s3.put(key, data := bytes(range(256)) * 4000)
    file = PhotoReader(settings).read(uri)
    assert (file.data, file.sha256) == (data, hashlib.sha256(data).hexdigest())
    assert len(s3.requests) == 1


def test_each_kind_of_failure_has_its_reason(s3: S3Server, settings: Settings) -> None:
    s3.put("empty.jpg", b"")
    s3.put("large.jpg", bytes(2_000_001))
    settings = settings.replace(photo_roots=("s3://photos", "s3://none"))
    reasons = {
        "s3://photos/none.jpg": "missing",
        "s3://none/a.jpg": "missing",
        "s3://photos": "not_a_file",
        "s3://photos/empty.jpg": "unreadable",
        "s3://photos/large.jpg": "too_large",
        "s3://other/a.jpg": "forbidden_path",
    }
    for uri, reason in reasons.items():
        assert refusal(lambda uri=uri: PhotoReader(settings).read(uri)).reason == reason, uri
    s3.answers[:] = [403]
    assert refusal(lambda: PhotoReader(settings).read("s3://photos/a.jpg")).reason == "permission_denied"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_each_attempt_is_one_request(s3: S3Server, settings: Settings, status: int) -> None:
    """s3fs and botocore would repeat each of ours up to 25 times."""
    uri = s3.put("a.jpg", b"pixels")
    s3.answers[:] = [status] * 3
    assert PhotoReader(settings).read(uri).data == b"pixels"
    assert len(s3.requests) == 4
    s3.answers[:] = [status] * 99
    assert refusal(lambda: PhotoReader(settings.replace(download_attempts=2)).read(uri)).reason == "io_error"
    assert len(s3.requests) == 6


def test_a_silent_store_costs_the_time_limit(s3: S3Server, settings: Settings) -> None:
    uri = s3.put("a.jpg", b"pixels")
    s3.released.clear()
    start = time.monotonic()
    failure = refusal(lambda: PhotoReader(settings.replace(max_download_seconds=0.3)).read(uri))
    assert failure.reason == "timed_out"
    assert time.monotonic() - start < 10
    s3.released.set()
    assert PhotoReader(settings).read(uri).data == b"pixels"


def test_a_batch_in_s3_has_the_features_of_local_files(s3: S3Server, settings: Settings, world: World) -> None:
    local = [world.photo(f"{n}.png", n) for n in range(6)]
    remote = [
        {**photo, "original_uri": s3.put(f"{n}.png", (world.root / photo["original_uri"]).read_bytes())}
        for n, photo in enumerate(local)
    ]
    s3.filesystem().rm("photos/2.png")
    s3.requests.clear()
    found, _ = world.run(world.batch(remote).document, settings)
    assert [features["status"] for features in found] == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert found[2]["errors"][0]["reason"] == "missing"
    assert sorted(s3.requests) == [f"GET /photos/{n}.png" for n in range(6)]
    expected, done = world.run(world.batch(local).document)
    assert done["decoded"] == 1  # the others come from the cache, by digest
    assert [f for n, f in enumerate(found) if n != 2] == [f for n, f in enumerate(expected) if n != 2]


def test_photos_of_a_store_that_was_away_are_retried(s3: S3Server, settings: Settings, world: World) -> None:
    photos = [world.photo(f"{n}.png", n) for n in range(4)]
    for n, photo in enumerate(photos):
        photo["original_uri"] = s3.put(f"{n}.png", (world.root / photo["original_uri"]).read_bytes())
    batch, store, outbox = world.batch(photos), ArtifactStore(settings.data_path), Outbox(settings.data_path)
    accept_without_dagster(batch, store)
    s3.down()
    try:
        with pytest.raises(StorageAwayError, match="4 io_error"):
            process_batch(batch, world.stages(settings.replace(download_attempts=2)), store, outbox)
    finally:
        s3.up()
    s3.answers[:] = [503] * 3
    one = settings.replace(download_attempts=1)
    assert process_batch(batch, world.stages(one), store, outbox).event["data"]["retryable"] == 3
    s3.requests.clear()
    done = process_batch(batch, world.stages(settings), store, outbox, retry_failed=True)
    assert done.event["data"]["retryable"] == 0
    assert len(s3.requests) == 3
    assert s3.filesystem().ls("photos", refresh=True) == [f"photos/{n}.png" for n in range(4)]
