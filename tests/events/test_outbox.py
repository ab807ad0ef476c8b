"""`features.completed`: content, journal, and delivery in spite of faults."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from webhooks import Receiver

import curation_features.events.outbox
from curation_features.errors import EventError, SettingsError, StoreError
from curation_features.events.outbox import FileSink, FlushResult, Outbox, features_completed
from curation_features.events.webhook import WebhookSink
from curation_features.manifest import to_json
from curation_features.settings import Settings
from curation_features.storage.deletions import record_deletion

ROOT = Path("/srv/project")
STATUSES = {"ok": 7, "degraded": 2, "failed": 1}


def facts_of(batch_id: str = "trip", content: bytes = b"{}", **changes: Any) -> dict[str, Any]:
    facts = {
        "batch_id": batch_id,
        "manifest": "m" * 64,
        "digest": hashlib.sha256(content).hexdigest(),
        "features": ROOT / "data" / "features" / f"{batch_id}.json",
        "table": ROOT / "data" / "features" / f"{batch_id}.parquet",
        "embeddings": ROOT / "data" / "features" / "embeddings" / f"{batch_id}.parquet",
        "root": ROOT,
        "statuses": STATUSES,
        "version": {"technical": "t1", "clip": "c1", "signals": "s1"},
    }
    return {**facts, **changes}


def event_of(batch_id: str = "trip", content: bytes = b"{}", **changes: Any) -> dict[str, Any]:
    return features_completed(**facts_of(batch_id, content, **changes))


# --- The event ---


def test_the_event_is_a_cloudevent_of_the_result() -> None:
    event = event_of(content=b"features", table=Path("/mnt/out/trip.parquet"), root=Path("/srv/../srv/project"))
    digest = hashlib.sha256(b"features").hexdigest()
    data = event.pop("data")
    # The required attributes of CloudEvents 1.0, and two optional ones
    assert event == {
        "specversion": "1.0",
        "id": f"trip-{digest[:12]}",
        "source": "/curation_features",
        "type": "features.completed",
        "subject": "trip",
        "datacontenttype": "application/json",
    }
    assert data == {
        "batch_id": "trip",
        "manifest": "m" * 64,
        "features": digest,
        "features_uri": "./data/features/trip.json",
        "table_uri": "/mnt/out/trip.parquet",  # outside the project
        "embeddings_uri": "./data/features/embeddings/trip.parquet",
        "artifacts": 10,
        "statuses": STATUSES,
        "retryable": 0,
        "version": {"technical": "t1", "clip": "c1", "signals": "s1"},
        "sequence": 1,
        "supersedes": None,
    }


def test_id_and_bytes_follow_from_the_content_alone() -> None:
    again = event_of(statuses=dict(reversed(STATUSES.items())), version=dict(reversed(facts_of()["version"].items())))
    assert to_json(again) == to_json(event_of())
    assert len({event["id"] for event in (again, event_of(content=b"other"), event_of("trip2"))}) == 3


# --- The journal ---


def journal(data: Path) -> list[str]:
    return sorted(path.stem for path in data.glob("events/features.completed/*.json"))


def waiting(data: Path) -> list[str]:
    return [path.stem.removesuffix(".refused")[21:] for path in sorted(data.glob("events/pending/*.json"))]


def refused(data: Path) -> list[str]:
    return [path.name[21:] for path in sorted(data.glob("events/pending/*.refused.json"))]


def test_the_journal_holds_the_event_and_leaves_it_untouched(tmp_path: Path) -> None:
    event, sink = event_of(), FileSink(tmp_path)
    sink.deliver(event)
    path = tmp_path / "events" / "features.completed" / f"{event['id']}.json"
    assert json.loads(path.read_bytes()) == event
    written = path.stat()
    sink.deliver(event)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    path.write_bytes(b"{")
    sink.deliver(event)
    assert json.loads(path.read_bytes()) == event


def test_an_event_that_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"a file")
    with pytest.raises(StoreError, match="cannot be written"):
        Outbox(tmp_path).publish(event_of())


def test_without_a_sink_nothing_waits(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.publish(event_of()).parent == tmp_path / "events" / "features.completed"
    assert outbox.flush() == FlushResult(0, 0)
    assert [path.name for path in (tmp_path / "events").iterdir()] == ["features.completed"]


# --- The versions of a batch ---


def chain_of(event: dict[str, Any]) -> tuple[str, int, str | None]:
    return event["id"], event["data"]["sequence"], event["data"]["supersedes"]


def test_each_version_names_the_one_before_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    first, second, third = (outbox.announce(**facts_of(content=content)) for content in (b"1", b"2", b"3"))
    other = outbox.announce(**facts_of("other", b"1"))
    assert chain_of(first) == (event_of(content=b"1")["id"], 1, None)
    assert chain_of(second) == (event_of(content=b"2")["id"], 2, first["id"])
    assert chain_of(third) == (event_of(content=b"3")["id"], 3, second["id"])
    assert chain_of(other) == (event_of("other", b"1")["id"], 1, None)
    assert outbox.latest.get("trip") == third
    assert outbox.latest.get("other") == other


def test_the_same_version_again_is_the_same_event(receiver: Receiver, tmp_path: Path) -> None:
    outboxes = (outbox_to(receiver, tmp_path) for _ in range(3))  # like three processes
    first, second, third = (outbox.announce(**facts_of()) for outbox in outboxes)
    assert first == second == third
    assert receiver.taken() == journal(tmp_path) == [first["id"]]


def test_a_return_to_an_earlier_version_is_a_new_event(receiver: Receiver, tmp_path: Path) -> None:
    outbox = outbox_to(receiver, tmp_path)
    events = [outbox.announce(**facts_of(content=content)) for content in (b"a", b"b", b"a", b"b", b"b")]
    first, second, third, fourth, fifth = (event["id"] for event in events)
    assert (third, fourth) == (f"{first}-3", f"{second}-4")
    assert fifth == fourth
    assert receiver.taken() == [first, second, third, fourth]
    assert [chain_of(event)[1:] for event in events[:4]] == [(1, None), (2, first), (3, second), (4, third)]
    assert len({to_json(event) for event in events}) == 4
    for event in events:
        assert json.loads(outbox.journal.path(event).read_bytes()) == event


@pytest.mark.parametrize(
    "changes",
    [{"manifest": "n" * 64}, {"retryable": 1}, {"version": {"technical": "t2", "clip": "c1", "signals": "s1"}}],
)
def test_any_other_difference_is_a_new_version(tmp_path: Path, changes: dict[str, Any]) -> None:
    outbox = Outbox(tmp_path)
    first, second = outbox.announce(**facts_of()), outbox.announce(**facts_of(**changes))
    assert chain_of(second) == (f"{first['id']}-2", 2, first["id"])


def test_a_missing_newest_event_is_found_in_the_journal(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    events = [outbox.announce(**facts_of(content=content)) for content in (b"1", b"2")]
    for content in (b"1", b"2", b"3"):
        outbox.announce(**facts_of("trip-2", content))  # its file names begin like those of `trip`
    for damage in (b"{", b"[]", b'{"data": {"sequence": "2"}}', None):
        path = outbox.latest.path("trip")
        path.unlink() if damage is None else path.write_bytes(damage)
        assert outbox.announce(**facts_of(content=b"2")) == events[1]
        assert outbox.latest.get("trip") == events[1]


def test_a_batch_made_after_its_deletion_counts_on(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    record_deletion(tmp_path, batch_id="trip", sequence=7)
    record_deletion(tmp_path, batch_id="trip", sequence=None)
    record_deletion(tmp_path, batch_id="other", sequence=9)
    with (tmp_path / "deleted.jsonl").open("ab") as log:
        log.write(b'{"batch_id": "trip", "sequ')  # a kill
    assert chain_of(outbox.announce(**facts_of()))[1:] == (8, None)


def test_an_unrecorded_event_is_recorded_before_the_next(receiver: Receiver, tmp_path: Path) -> None:
    outbox = outbox_to(receiver, tmp_path)
    first = outbox.announce(**facts_of(content=b"1"))
    second = event_of(content=b"2", latest=first)
    outbox.latest.put(second)  # and then the process was killed
    third = outbox.announce(**facts_of(content=b"3"))
    assert chain_of(third)[1:] == (3, second["id"])
    assert receiver.taken() == [first["id"], second["id"], third["id"]]


def test_nothing_is_sent_before_its_number_is_recorded(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "latest").write_bytes(b"a file")
    with pytest.raises(StoreError, match="latest"):
        outbox_to(receiver, tmp_path).announce(**facts_of())
    assert (journal(tmp_path), receiver.posts) == ([], [])


# --- A webhook on the loopback interface ---


def outbox_to(receiver: Receiver, data: Path, attempts: int = 1, timeout_s: float = 30.0, **more: Any) -> Outbox:
    return Outbox(data, WebhookSink(receiver.url, timeout_s=timeout_s, attempts=attempts), **more)


def test_an_event_arrives_as_it_is_recorded(receiver: Receiver, tmp_path: Path) -> None:
    path = outbox_to(receiver, tmp_path).publish(event_of())
    [post] = receiver.posts
    assert post.body == path.read_bytes()
    assert post.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert "Authorization" not in post.headers
    assert json.loads(post.body.decode("utf-8")) == event_of()
    assert waiting(tmp_path) == []


def test_settings_name_the_webhook_and_its_token(receiver: Receiver, tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, event_webhook=receiver.url + "?v=1", event_webhook_token="t0ken")
    Outbox.from_settings(settings).publish(event_of())
    assert [(post.path, post.headers["Authorization"]) for post in receiver.posts] == [("/hook?v=1", "Bearer t0ken")]
    assert journal(settings.data_path) == [event_of()["id"]]
    Outbox.from_settings(Settings(root=tmp_path)).publish(event_of("other"))
    assert len(receiver.posts) == 1


def test_the_token_beats_a_netrc_entry_for_the_host(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    WebhookSink(receiver.url, "t0ken").deliver(event_of())
    assert receiver.posts[0].headers["Authorization"] == "Bearer t0ken"


def test_an_event_that_is_published_again_is_not_sent_again(receiver: Receiver, tmp_path: Path) -> None:
    for _ in range(2):
        outbox_to(receiver, tmp_path).publish(event_of())
    assert len(receiver.posts) == 1
    receiver.down()
    for _ in range(2):
        outbox_to(receiver, tmp_path).publish(event_of(content=b"new"))
    assert waiting(tmp_path) == [event_of(content=b"new")["id"]]


def test_two_server_errors_are_retried(receiver: Receiver) -> None:
    receiver.answers = [500, 500, 200]
    WebhookSink(receiver.url, attempts=3).deliver(event_of())
    assert [post.answered for post in receiver.posts] == [500, 500, 200]
    assert len({post.body for post in receiver.posts}) == 1


def test_events_wait_for_a_sink_that_is_down_and_come_in_order(receiver: Receiver, tmp_path: Path) -> None:
    events = [event_of(f"batch-{9 - n}") for n in range(4)]  # in reverse order by name
    ids = [event["id"] for event in events]
    outbox_to(receiver, tmp_path).publish(events[0])
    receiver.down()
    for event in events[1:3]:
        outbox_to(receiver, tmp_path).publish(event)
    assert receiver.taken() == ids[:1]
    assert waiting(tmp_path) == ids[1:3]
    receiver.up()
    outbox_to(receiver, tmp_path).publish(events[3])  # another process delivers them, too
    assert receiver.taken() == ids
    assert waiting(tmp_path) == []
    assert journal(tmp_path) == sorted(ids)


def test_a_refused_event_is_kept_and_blocks_no_other(receiver: Receiver, tmp_path: Path) -> None:
    bad, good = event_of("bad"), event_of("good")
    receiver.answers = [400]
    outbox_to(receiver, tmp_path).publish(bad)
    outbox_to(receiver, tmp_path).publish(good)  # another process does not offer the refused one again
    assert [post.id for post in receiver.posts] == [bad["id"], good["id"]]
    assert receiver.taken() == [good["id"]]
    assert refused(tmp_path) == [f"{bad['id']}.refused.json"]
    assert outbox_to(receiver, tmp_path).flush() == FlushResult(0, 1, "1 events were refused")
    receiver.answers = [400]
    again = outbox_to(receiver, tmp_path).flush(force=True)
    assert (again.delivered, again.pending) == (0, 1)
    assert "400" in again.problem
    assert refused(tmp_path) == [f"{bad['id']}.refused.json"]
    assert outbox_to(receiver, tmp_path).flush(force=True) == FlushResult(1, 0)
    assert waiting(tmp_path) == []


class Clock:
    """Time of the outboxes; passes only when the test sets it."""

    time_ns = staticmethod(time.time_ns)

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(curation_features.events.outbox, "time", clock)
    return clock


class Picky:
    """A sink that takes a second for an event, and refuses those of some batches."""

    def __init__(self, clock: Clock, *refuses: str) -> None:
        self.clock = clock
        self.refuses = refuses
        self.taken: list[str] = []

    def deliver(self, event: Any) -> None:
        self.clock.seconds += 1
        if event["subject"] in self.refuses:
            raise EventError("refused", retry=False)
        self.taken.append(event["subject"])


def test_refused_events_starve_neither_new_ones_nor_each_other(
    receiver: Receiver, tmp_path: Path, clock: Clock
) -> None:
    receiver.down()
    names = [f"batch-{number}" for number in range(5)]
    for name in names:
        outbox_to(receiver, tmp_path).publish(event_of(name))
    sink = Picky(clock, *names[:4])

    def tick() -> FlushResult:  # like the sensor, with time for one event
        return Outbox(tmp_path, sink).flush(force=True, seconds=1)

    assert [tick().pending for _ in names] == [5, 5, 5, 5, 4]
    assert sink.taken == names[4:]
    sink.refuses = tuple(names[:3])
    assert [tick().pending for _ in range(4)] == [4, 4, 4, 3]
    assert sink.taken == [names[4], names[3]]
    assert Outbox(tmp_path, sink).flush(force=True) == FlushResult(0, 3, "refused")
    assert len(refused(tmp_path)) == 3


def test_a_sink_that_is_down_is_left_alone_for_a_while(receiver: Receiver, tmp_path: Path, clock: Clock) -> None:
    receiver.answers = [500, 500]
    outbox = outbox_to(receiver, tmp_path, quiet_s=30)
    for n in range(5):
        outbox.publish(event_of(f"batch-{n}"))
    clock.seconds += 29
    assert "500" in outbox.flush().problem
    assert len(receiver.posts) == 1
    assert outbox.flush(force=True).pending == 5
    assert len(receiver.posts) == 2
    clock.seconds += 30
    assert outbox.flush() == FlushResult(5, 0)
    assert receiver.taken() == [event_of(f"batch-{n}")["id"] for n in range(5)]


def test_a_flush_ends_in_time_and_the_next_one_continues(tmp_path: Path, clock: Clock) -> None:
    """Its sink takes a second for each event."""
    outbox = Outbox(tmp_path, Picky(clock))
    with FileLock(outbox.pending / ".lock"):  # only one process delivers at a time, and the others do not wait
        for number in range(5):
            outbox.publish(event_of(f"batch-{number}"))
        assert outbox.flush() == FlushResult(0, 5, "another process is delivering")
    assert outbox.flush(seconds=2) == FlushResult(2, 3)
    assert Outbox(tmp_path).flush(force=True) == FlushResult(0, 3, "no webhook is configured")
    assert outbox.flush() == FlushResult(3, 0)


def test_events_keep_their_order_if_the_clock_is_set_back(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((2_000, 1_000, 1_000))
    monkeypatch.setattr(clock, "time_ns", lambda: next(times))
    sink = Picky(clock)
    outbox = Outbox(tmp_path, sink)
    with FileLock(outbox.pending / ".lock"):
        for name in ("c", "b", "a"):
            outbox.publish(event_of(name))
    assert outbox.flush() == FlushResult(3, 0)
    assert sink.taken == ["c", "b", "a"]


def test_the_log_has_a_line_per_flush_not_per_event(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver.down()
    outbox = outbox_to(receiver, tmp_path, attempts=2)
    for n in range(3):
        outbox.publish(event_of(f"batch-{n}"))
    receiver.up()
    receiver.answers = [400, 400]
    outbox.flush(force=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert "refused" in caplog.messages[1]
    assert caplog.messages[2].startswith("Delivered 1 events, 2 ")
    receiver.answers = [400, 400]
    outbox.flush(force=True)
    assert len(caplog.records) == 3  # refused before, not logged again


@pytest.mark.parametrize(
    "content", [b"", b'{"specversion": "1.0", "id": "x"', b"[1]", b"\xff", b"[" * 100_000], ids=len
)
def test_a_damaged_pending_file_is_set_aside(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    damaged = tmp_path / "events" / "pending" / f"{1:020d}-bad.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(content)
    outbox_to(receiver, tmp_path).publish(event_of())
    assert receiver.taken() == [event_of()["id"]]
    assert waiting(tmp_path) == []
    assert damaged.with_suffix(".damaged").read_bytes() == content
    assert "set aside" in caplog.text


def test_what_is_recorded_is_flushed_to_disk(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda file: flushed.add(os.fstat(file).st_ino))
    receiver.down()
    outbox_to(receiver, tmp_path).publish(event_of())
    files = list(tmp_path.glob("events/*/*.json"))
    assert len(files) == 2
    assert flushed >= {path.stat().st_ino for file in files for path in (file, file.parent)}


def test_a_pending_folder_without_a_lock_delays_the_event(receiver: Receiver, tmp_path: Path) -> None:
    lock = tmp_path / "events" / "pending" / ".lock"
    lock.mkdir(parents=True)
    outbox = outbox_to(receiver, tmp_path)
    outbox.publish(event_of())
    assert str(lock) in outbox.flush().problem
    lock.rmdir()
    assert outbox.flush(force=True) == FlushResult(1, 0)


PUBLISH = """
import json, sys
from pathlib import Path
from curation_features.events.outbox import Outbox
from curation_features.events.webhook import WebhookSink
outbox = Outbox(Path(sys.argv[1]), WebhookSink(sys.argv[2]))
for event in json.loads(sys.argv[3]):
    outbox.publish(event)
"""


def publishing(receiver: Receiver, data: Path, *events: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PUBLISH, data, receiver.url, json.dumps(events)])


@pytest.mark.long
def test_processes_that_publish_at_once_deliver_each_event_once(receiver: Receiver, tmp_path: Path) -> None:
    events = [event_of(f"batch-{n}") for n in range(20)]
    running = [publishing(receiver, tmp_path, *events[half::2]) for half in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    outbox_to(receiver, tmp_path).flush()
    assert sorted(receiver.taken()) == sorted(event["id"] for event in events)


# --- Crashes ---

KILLED_AT_EACH_STEP = """
# A child publishes and is killed before its nth step: an open, rename, deletion or connection.
import json, os, signal, sys
from pathlib import Path
import requests
from curation_features.events.outbox import Outbox
from curation_features.events.webhook import WebhookSink

base, url, event = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def publish(n):
    data, steps = base / str(n), 0

    def step(name, args):
        nonlocal steps
        if name not in ("open", "os.rename", "os.remove", "socket.connect"):
            return
        if name == "socket.connect" or str(data) in str(args[0]):
            if steps == n:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    outbox = Outbox(data, WebhookSink(url))
    paths = {name: Path(event[name]) for name in ("features", "table", "embeddings", "root")}
    facts = {**event, **paths, "batch_id": f"{n}-trip"}
    outbox.announce(**{**facts, "digest": "0" * 64})
    sys.addaudithook(step)
    outbox.announce(**facts)

n = 0
while True:
    child = os.fork()
    if child == 0:
        publish(n)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    n += 1
print(n)
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("answer", [204, 400])
def test_no_event_is_lost_whenever_the_process_is_killed(receiver: Receiver, tmp_path: Path, answer: int) -> None:
    receiver.answers = [answer] * 200
    facts = json.dumps(facts_of(), default=str)
    run = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, tmp_path, receiver.url, facts], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    steps = int(run.stdout)
    assert steps >= 10  # open and rename of three files; a lock, a read, a connection
    receiver.answers = []
    for n in range(steps):
        facts = {**facts_of(), "batch_id": f"{n}-trip"}
        first = features_completed(**{**facts, "digest": "0" * 64})
        killed = features_completed(**facts, latest=first)
        data = tmp_path / str(n)
        for event in (first, killed):  # no half-written file
            path = FileSink(data).path(event)
            assert not path.exists() or path.read_bytes() == to_json(event)
        assert outbox_to(receiver, data).announce(**facts) == killed
        outbox_to(receiver, data).flush(force=True)
        assert Outbox(data).latest.get(f"{n}-trip") == killed
        assert killed["id"] in receiver.taken()
        assert journal(data) == sorted([first["id"], killed["id"]])
        assert waiting(data) == []
        bodies = [post.body for post in receiver.posts if post.id == killed["id"]]
        assert 1 <= len(bodies) <= 2
        assert set(bodies) == {to_json(killed)}


def test_a_killed_delivery_does_not_keep_the_lock(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [receiver.hang]
    process = publishing(receiver, tmp_path, event_of())
    receiver.wait_for(posts=1)
    process.kill()
    process.wait()
    assert outbox_to(receiver, tmp_path).flush() == FlushResult(1, 0)
    assert receiver.taken() == [event_of()["id"]]


# --- Secrets ---

SECRETS = ("us3r", "passw0rd", "qu3ry", "fr4gment", "p4th", "t0ken")


def full_text(error: BaseException | None) -> str:
    """All texts of an error: its own, its parts, and those of its causes."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize(
    ("answer", "retry"),
    [
        *(("port", True), ("hang", True), ("drop", True)),
        *((status, True) for status in (408, 425, 429, 500, 503, 599)),
        *((status, False) for status in (301, 302, 303, 307, 308, 400, 401, 404, 410, 422)),
    ],
)
def test_a_failure_is_transient_or_final_and_shows_no_secret(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: str | int, retry: bool
) -> None:
    """Redirects are not followed, and `Retry-After`, an hour, is ignored."""
    caplog.set_level(logging.DEBUG)
    url = f"http://us3r:passw0rd@127.0.0.1:{receiver.port}/p4th?key=qu3ry#fr4gment"
    receiver.answers = [answer if isinstance(answer, int) else getattr(receiver, answer, 500)] * 6
    if answer == "port":
        receiver.down()
    sink = WebhookSink(url, "t0ken", timeout_s=0.3 if answer == "hang" else 30.0, attempts=2)
    with pytest.raises(EventError, match=str(answer) if isinstance(answer, int) else "no response") as failure:
        sink.deliver(event_of())
    assert failure.value.retry == retry
    if answer != "port":
        receiver.wait_for(posts=1 + retry)
        assert len(receiver.posts) == 1 + retry
    assert receiver.others == []
    flushed = Outbox(tmp_path, sink).publish(event_of()) and Outbox(tmp_path, sink).flush()
    text = full_text(failure.value) + repr(sink) + repr(flushed) + caplog.text
    assert f"http://127.0.0.1:{receiver.port}" in text
    assert [secret for secret in SECRETS if secret in text] == []
    assert [record.name for record in caplog.records if record.name.startswith("urllib3")] == []


def test_the_log_of_other_requests_is_unchanged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    import requests

    caplog.set_level(logging.DEBUG)
    WebhookSink(receiver.url).deliver(event_of())
    requests.post(receiver.url, b'{"id": "other"}', timeout=60)
    assert any(record.name == "urllib3.connectionpool" for record in caplog.records)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/p4th",
        "file:///p4th",
        "host/p4th",
        "//host/p4th",
        "http:///p4th",
        "http://us3r:passw0rd@:80/",
        "http://host:passw0rd/",
        "http://us3r:pass\nw0rd@host/",
        "http://host/p4th qu3ry",
        "http://.us3r../p4th",
        "http://[::1/p4th",
        "javascript:p4th",
    ],
)
def test_only_urls_that_can_be_posted_to_are_accepted(url: str) -> None:
    with pytest.raises(SettingsError, match="event_webhook: ") as failure:
        WebhookSink(url)
    assert [secret for secret in SECRETS if secret in full_text(failure.value)] == []


@pytest.mark.parametrize("token", ["t0ken\n", "t0ken t0ken", "t0kén"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(SettingsError, match="event_webhook_token: ") as failure:
        WebhookSink("http://host/", token)
    assert "t0k" not in full_text(failure.value)
