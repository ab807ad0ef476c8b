"""Decoder processes: a decoder that dies, hangs or takes too much costs its photo, and nothing else.

The processes are real. `TASKS` of a process are replaced by functions that die, stop or eat memory, so that no file has
to crash a decoder.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pictures import CAT_PIXELS, encoded, file_of

from curation_features.errors import PhotoError, ResourceError
from curation_features.photos.processes import pool as decoder_processes
from curation_features.photos.processes import worker
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.processes.pool import DecoderProcesses, Task
from curation_features.photos.thumbnail import ICON
from curation_features.settings import Settings

PHOTO = encoded(CAT_PIXELS, "PNG")
EVIL = """
import ctypes, os, signal, socket, time
import numpy as np
from curation_features.photos.processes import tasks

def evil(file, limits, arguments):
    name = file.data.decode()
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "exit":
        os._exit(3)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if name == "spin":
        while True:
            pass
    if name == "sleep":
        time.sleep(1000)
    if name == "memory":
        np.ones(1 << 33, dtype=np.uint8)
    if name == "open":
        open("/etc/hostname")
    if name == "write":
        open(arguments["path"], "w")
    if name == "connect":
        socket.create_connection(("127.0.0.1", arguments["port"]))
    if name == "reuse":
        os.close(0)
        os.open("/etc/hostname", os.O_RDONLY)
    if name == "large":
        limits.wait_for_turn()
        time.sleep(0.2)
    if name == "pixels":
        return {"pid": os.getpid()}, [np.full(arguments["length"], 7, np.uint8)]
    return {"pid": os.getpid()}, [b"good"]

tasks.TASKS["evil"] = evil

from curation_features.photos.processes import worker
answer = worker._answer
worker._answer = lambda task, *rest: task["arguments"].get("answer") or answer(task, *rest)
"""


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcesses]:
    """A pool whose processes also know the task `evil`."""
    monkeypatch.setattr(decoder_processes, "_CODE", EVIL + decoder_processes._CODE)
    pool = DecoderProcesses()
    yield pool
    pool.close()


def run(pool: DecoderProcesses, name: str, *, max_seconds: float = 60.0, max_pixels: int = 10**6, **arguments: object):
    return pool.run(Task("evil", file_of(name.encode()), arguments, max_pixels, max_seconds, 10**6))


def reason(pool: DecoderProcesses, name: str, **limits: float) -> str:
    with pytest.raises(PhotoError) as caught:
        run(pool, name, **limits)
    return caught.value.reason


@pytest.mark.long
@pytest.mark.parametrize(
    ("photo", "expected", "limits"),
    [
        ("crash", "unreadable", {}),
        ("exit", "unreadable", {}),
        ("killed", "too_large", {}),
        ("memory", "too_large", {}),
        ("stop", "too_slow", {"max_seconds": 0.1}),
        ("sleep", "too_slow", {"max_seconds": 0.1}),
        ("spin", "too_slow", {"max_seconds": 0.5}),
    ],
)
def test_a_decoder_that_fails_costs_its_photo(processes: DecoderProcesses, photo: str, expected: str, limits) -> None:
    before = run(processes, "good")
    assert reason(processes, photo, **limits) == expected
    assert run(processes, "good")[1] == before[1]


@pytest.mark.long
@pytest.mark.parametrize("photo", ["open", "reuse", "write", "connect"])
def test_a_process_can_neither_open_nor_connect(processes: DecoderProcesses, tmp_path: Path, photo: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        with pytest.raises(RuntimeError, match="Too many open files"):
            run(processes, photo, path=str(tmp_path / "written"), port=server.getsockname()[1])
        with pytest.raises(BlockingIOError):
            server.accept()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_process_is_reused_and_replaced_when_it_is_killed(processes: DecoderProcesses) -> None:
    first = run(processes, "good")[0]["pid"]
    assert run(processes, "good")[0]["pid"] == first
    os.kill(first, signal.SIGKILL)
    second = run(processes, "good")[0]["pid"]
    assert second != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)  # no zombie is left


@pytest.mark.long
def test_a_process_that_is_killed_within_a_task_is_replaced(processes: DecoderProcesses) -> None:
    """The photo is tried again: somebody else's `kill`, or memory that another photo corrupted, is not its fault."""
    pid = run(processes, "good")[0]["pid"]
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(PhotoError):
        run(processes, "sleep", max_seconds=0.2)
    assert time.monotonic() - started > 2  # the second process had its full time


@pytest.mark.long
@pytest.mark.parametrize(
    "answer",
    [
        {"nothing": 1},
        {"fields": [], "lengths": []},
        {"fields": {}, "lengths": [2_000_000]},
        {"fields": {}, "lengths": [-1]},
        {"fields": {}, "lengths": ["1"]},
        {"reason": "no such reason", "message": {}},
    ],
    ids=str,
)
def test_invalid_answers_cost_the_photo(processes: DecoderProcesses, answer: dict[str, object]) -> None:
    """A process that a hostile file has taken over may answer anything."""
    with pytest.raises(PhotoError) as caught:
        run(processes, "forge", answer=answer)
    assert caught.value.reason == "unreadable"
    assert run(processes, "good")[1] == [b"good"]


@pytest.mark.long
def test_a_large_result_returns_through_shared_memory(processes: DecoderProcesses) -> None:
    fields, (pixels,) = processes.run(Task("evil", file_of(b"pixels"), {"length": 30_000_000}, 10**6, 60.0, 30_000_000))
    assert np.frombuffer(pixels, np.uint8).sum() == 7 * 30_000_000
    assert fields["pid"]


@pytest.mark.long
def test_large_photos_are_decoded_one_at_a_time(processes: DecoderProcesses) -> None:
    with ThreadPoolExecutor(3) as threads:
        [*threads.map(lambda _: run(processes, "good"), range(3))]
        started = time.monotonic()
        [*threads.map(lambda _: run(processes, "large"), range(3))]
    assert time.monotonic() - started > 0.6


@pytest.mark.long
def test_an_idle_process_ends_and_is_replaced(processes: DecoderProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = "from curation_features.photos.processes import worker; worker.IDLE_SECONDS = 0.1\n"
    monkeypatch.setattr(decoder_processes, "_CODE", idle + decoder_processes._CODE)
    first = run(processes, "good")[0]["pid"]
    time.sleep(0.5)
    assert run(processes, "good")[0]["pid"] != first
    assert worker.IDLE_SECONDS == 60


@pytest.mark.long
@pytest.mark.parametrize("isolated", [True, False])
def test_both_ways_give_the_same(settings: Settings, isolated: bool) -> None:
    decoder = Decoder(settings.replace(isolate_decoders=isolated))
    photo = decoder.decode(file_of(PHOTO))
    np.testing.assert_array_equal(photo.rgb, CAT_PIXELS)
    assert (photo.info.format, photo.info.width, photo.info.height) == ("PNG", 64, 96)
    copies = decoder.make_copies(file_of(PHOTO))
    assert (copies.info, copies.standard, copies.standard_size) == (photo.info, b"", (64, 96))
    assert decoder.make_thumbnail(file_of(PHOTO), ICON) is not None
    assert decoder.make_thumbnail(file_of(b"nothing"), ICON) is None
    with pytest.raises(PhotoError, match="damaged at the start"):
        decoder.decode(file_of(b"nothing"))


def test_a_process_that_cannot_start_is_no_photos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_processes, "_CODE", "import a_module_that_is_not_there")
    with pytest.raises(ResourceError, match="isolate_decoders"):
        run(DecoderProcesses(), "good")
