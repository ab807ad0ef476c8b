"""`curation-features backfill` against a fake webserver."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from devserver import free_port
from graphql import parse, validate

from curation_features.cli import main
from curation_features.cli.backfills import FIELDS
from curation_features.errors import CurationError
from curation_features.events.outbox import Outbox
from curation_features.manifest import batch_from
from curation_features.orchestration import backfill
from curation_features.orchestration.backfill import DagsterServer
from curation_features.storage.artifacts import ArtifactStore

LAUNCHED = 1_700_000_000.0


def progress(status: str, made: int = 0, failed: int = 0) -> dict[str, Any]:
    counts = [{"numPartitionsMaterialized": made, "numPartitionsFailed": failed}]
    data = {"assetBackfillStatuses": counts}
    return {"__typename": "PartitionBackfill", "status": status, "timestamp": LAUNCHED, "assetBackfillData": data}


class FakeDagster:
    """A fake of Dagster's webserver; `raw` replaces its response with any status and body."""

    def __init__(self) -> None:
        self.batch_ids = ["trip", "walk"]
        self.made_at: dict[str, float] = {}
        self.heartbeat: Callable[[], float | None] = time.time
        self.polls: list[Callable[[], Any]] = [lambda: progress("COMPLETED_SUCCESS", 5)]
        self.raw: tuple[int, bytes] | None = None
        self.launched: list[dict[str, Any]] = []
        self.requested: list[str] = []
        self.queries: set[str] = set()
        self.asked: list[list[str]] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requested.append(self.path)
                status, body = owner.raw or owner.answer(request["query"], request["variables"])
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, query: str, given: dict[str, Any]) -> tuple[int, bytes]:
        self.queries.add(query)
        self.asked += [given["partitions"]] if "partitions" in given else []
        answers: dict[str, Callable[[], Any]] = {
            "reloadRepositoryLocation": lambda: {"__typename": "WorkspaceLocationEntry", "locationOrLoadError": None},
            "latestMaterializationByPartition": lambda: {
                "__typename": "AssetNode",
                "latestMaterializationByPartition": [self.latest(name) for name in given["partitions"]],
            },
            "partitionKeys": lambda: {"__typename": "AssetNode", "partitionKeys": self.batch_ids},
            "daemonHealth": lambda: {
                "daemonHealth": {
                    "allDaemonStatuses": [
                        {"daemonType": "SENSOR", "lastHeartbeatTime": time.time()},
                        {"daemonType": "BACKFILL", "lastHeartbeatTime": self.heartbeat()},
                    ]
                }
            },
            "launchPartitionBackfill": lambda: self.launch(given["params"]),
            "partitionBackfillOrError": lambda: (self.polls.pop(0) if len(self.polls) > 1 else self.polls[0])(),
        }
        value = next(value() for field, value in answers.items() if field in query)
        return value if isinstance(value, tuple) else (200, json.dumps({"data": {"field": value}}).encode())

    def latest(self, batch_id: str) -> dict[str, str] | None:
        made = self.made_at.get(batch_id)
        return {"timestamp": str(int(made * 1000))} if made else None

    def launch(self, params: dict[str, Any]) -> dict[str, str]:
        self.launched.append(params)
        return {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"}


@pytest.fixture
def dagster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDagster]:
    monkeypatch.setattr(backfill, "_POLL_S", 0.01)
    fake = FakeDagster()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.mark.long
def test_every_query_is_one_that_dagster_understands(dagster: FakeDagster) -> None:
    from dagster_graphql.schema import create_schema

    dagster.polls = [lambda: progress("COMPLETED_FAILED")]
    assert main(["backfill", "--url", dagster.url]) == 1
    assert len(dagster.queries) == 6
    schema = create_schema().graphql_schema
    assert [validate(schema, parse(query)) for query in dagster.queries] == [[]] * 6


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_server_on_this_machine_is_reached_past_a_proxy(
    dagster: FakeDagster, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(proxy, f"http://127.0.0.1:{free_port()}")
    for url in (dagster.url, dagster.url.replace("127.0.0.1", "localhost")):
        assert DagsterServer(url).batch_ids() == ["trip", "walk"]
    assert backfill._is_loopback("http://[::1]:3000")


def test_another_server_is_reached_as_the_environment_says(
    dagster: FakeDagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", dagster.url)
    assert DagsterServer("http://dagster.example:3000/").batch_ids() == ["trip", "walk"]
    assert dagster.requested == ["http://dagster.example:3000/graphql"]


def test_a_repeated_name_counts_once(dagster: FakeDagster) -> None:
    dagster.polls = [lambda: progress("COMPLETED_SUCCESS", 1)]
    assert main(["backfill", "trip", "trip", "--assets", "features,features", "--url", dagster.url]) == 0
    assert dagster.launched == [{"partitionNames": ["trip"], "assetSelection": [{"path": ["features"]}]}]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project whose batches `trip` and `walk` are accepted and finished."""
    monkeypatch.chdir(tmp_path)
    for batch_id, retryable in (("trip", 0), ("walk", 2)):
        finish(tmp_path, batch_id, retryable)
    return tmp_path


def finish(root: Path, batch_id: str, retryable: int) -> None:
    store, batch = ArtifactStore(root / "data"), batch_from({"batch_id": batch_id, "artifacts": []})
    store.put_manifest(batch)
    paths = dict.fromkeys(("features", "table", "embeddings", "root"), root)
    Outbox(root / "data").announce(
        batch_id=batch_id, manifest=batch.digest, digest="0" * 64, statuses={"ok": 1, "degraded": 0, "failed": 0},
        version={"technical": "", "clip": "", "signals": ""}, retryable=retryable, **paths,
    )  # fmt: skip


def test_a_retry_covers_the_batches_with_photos_to_retry(
    dagster: FakeDagster, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dagster.polls = [lambda: progress("COMPLETED_SUCCESS", 5)]
    assert main(["backfill", "--retry-failed", "--url", dagster.url]) == 0
    [launched] = dagster.launched
    assert launched["partitionNames"] == ["walk"]
    assert launched["tags"] == [{"key": "curation_features/retry_failed", "value": "true"}]
    assert main(["backfill", "trip", "--retry-failed", "--json", "--url", dagster.url]) == 0
    assert len(dagster.launched) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["batches"] == 0


def test_a_retry_covers_batches_that_were_never_finished(dagster: FakeDagster, project: Path) -> None:
    changed = batch_from({"batch_id": "trip", "artifacts": [], "note": "newer"})
    ArtifactStore(project / "data").put_manifest(changed)
    dagster.polls = [lambda: progress("COMPLETED_SUCCESS", 10)]
    assert main(["backfill", "--retry-failed", "--url", dagster.url]) == 0
    assert dagster.launched[0]["partitionNames"] == ["trip", "walk"]


def test_batches_that_this_dagster_does_not_know_are_named(
    dagster: FakeDagster, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(project, "elsewhere", 0)
    dagster.polls = [lambda: progress("COMPLETED_SUCCESS", 10)]
    assert main(["backfill", "--json", "--url", dagster.url]) == 0
    output = capsys.readouterr()
    assert "elsewhere: not covered" in output.err
    assert json.loads(output.out)["not_covered"] == ["elsewhere"]
    assert dagster.launched[0]["partitionNames"] == ["trip", "walk"]


def test_a_batch_may_be_named_by_its_manifest(dagster: FakeDagster, tmp_path) -> None:
    (tmp_path / "mine.json").write_text('{"batch_id": "walk", "artifacts": []}')
    dagster.polls = [lambda: progress("COMPLETED_SUCCESS", 5)]
    assert main(["backfill", "walk", str(tmp_path / "mine.json"), "--url", dagster.url]) == 0
    assert [params["partitionNames"] for params in dagster.launched] == [["walk"]]


def test_an_unknown_batch_is_wrong_usage(dagster: FakeDagster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backfill", "trip", "nowhere", "--url", dagster.url]) == 2
    assert "no such batch: nowhere" in capsys.readouterr().err
    assert dagster.launched == []


@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize(
    "body", ["[]", "{}", "null", "<html>", '{"data": {}}', '{"data": {"a": null}}', '{"errors": [3]}', "\x00\xff"]
)
def test_another_server_is_not_taken_for_dagster(
    dagster: FakeDagster, capsys: pytest.CaptureFixture[str], status: int, body: str
) -> None:
    dagster.raw = (status, body.encode("latin-1"))
    assert main(["backfill", "--url", dagster.url]) == 1
    assert f"{dagster.url} is not a Dagster webserver (HTTP {status})" in capsys.readouterr().err


def test_errors_of_dagster_are_reported(dagster: FakeDagster, capsys: pytest.CaptureFixture[str]) -> None:
    dagster.raw = (400, b'{"errors": [{"message": "read-only mode"}]}')
    assert main(["backfill", "--url", dagster.url]) == 1
    assert "read-only mode" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nonsense", "http://[::1", "http://127.0.0.1:{port}"])
def test_a_missing_server_is_reported(capsys: pytest.CaptureFixture[str], url: str) -> None:
    url = url.replace("{port}", str(free_port()))
    assert main(["backfill", "--url", url]) == 1
    assert url in capsys.readouterr().err


@pytest.mark.parametrize("heartbeat", [None, 1_700_000_000.0])
def test_nothing_is_launched_without_a_daemon(
    dagster: FakeDagster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, heartbeat: float | None
) -> None:
    monkeypatch.setattr(backfill, "_DAEMON_START_S", 0.1)
    dagster.heartbeat = lambda: heartbeat
    assert main(["backfill", "--url", dagster.url]) == 1
    assert "make dev" in capsys.readouterr().err
    assert dagster.launched == []


@pytest.mark.parametrize("clock_ahead", [0, -600])
def test_a_daemon_that_starts_is_waited_for(dagster: FakeDagster, clock_ahead: float) -> None:
    beats = iter([1000.0, 1000.0])
    dagster.heartbeat = lambda: next(beats, time.time() + clock_ahead)
    assert main(["backfill", "--url", dagster.url]) == 1  # 5 of 10 are made
    assert len(dagster.launched) == 1


def broken() -> tuple[int, bytes]:
    return 502, b"Bad gateway"


def test_a_few_lost_polls_do_not_end_the_wait(dagster: FakeDagster) -> None:
    five = [broken] * 5
    dagster.polls = [*five, lambda: progress("REQUESTED"), *five, lambda: progress("COMPLETED_SUCCESS", 5)]
    assert main(["backfill", "trip", "--url", dagster.url]) == 0


def test_a_server_that_stays_away_ends_the_wait(dagster: FakeDagster) -> None:
    dagster.polls = [*[broken] * 6, lambda: progress("COMPLETED_SUCCESS", 5)]
    with pytest.raises(CurationError, match="HTTP 502"):
        DagsterServer(dagster.url).wait("abc", lambda _: None)


def test_batches_that_were_not_made_are_named(dagster: FakeDagster, capsys: pytest.CaptureFixture[str]) -> None:
    dagster.batch_ids = [f"b{number:02}" for number in range(15)]
    dagster.made_at = {"b00": LAUNCHED + 9, "b01": LAUNCHED - 9, "b14": LAUNCHED + 9}
    dagster.polls = [lambda: progress("COMPLETED_FAILED", 2, 13)]
    assert main(["backfill", "--assets", "features", "--url", dagster.url]) == 1
    shown = capsys.readouterr()
    assert "not made: b01, b02, b03, b04, b05, b06, b07, b08, b09, b10 and 3 more\n" in shown.err
    assert f"{dagster.url}/runs/b/abc" in shown.out
    assert main(["backfill", "--assets", "features", "--url", dagster.url, "--json"]) == 1
    fields = json.loads(capsys.readouterr().out)
    assert fields.keys() - {"error"} == FIELDS.keys()
    assert (fields["made"], fields["failed"], fields["error"]["exit_code"]) == (2, 13, 1)
    assert fields["not_made"] == [f"b{number:02}" for number in range(1, 14)]


def test_many_batches_are_asked_for_in_parts(dagster: FakeDagster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "_PARTITIONS_PER_QUERY", 2)
    dagster.made_at = {"a": LAUNCHED, "d": LAUNCHED}
    assert DagsterServer(dagster.url).not_made(list("abcde"), ["features"], LAUNCHED) == ["b", "c", "e"]
    assert dagster.asked == [["a", "b"], ["c", "d"], ["e"]]


def test_an_interrupted_wait_leaves_the_backfill_to_dagster(
    dagster: FakeDagster, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return progress("REQUESTED")

    dagster.polls = [interrupt, lambda: progress("REQUESTED")]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        assert main(["backfill", "--url", dagster.url]) == 130
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert re.search(rf"interrupted; .*{dagster.url}/runs/b/abc\n", capsys.readouterr().err)
