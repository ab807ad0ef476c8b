"""Every submitted manifest is delivered under one token and archived, and nothing is lost, in spite of any fault."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from permissions import as_nobody

from curation_features.errors import ManifestError
from curation_features.inbox import folders
from curation_features.inbox.folders import Cursor, FileState, Inbox, TickResult, submit


def manifest(batch_id: str = "b1", **fields: Any) -> bytes:
    artifacts = [{"photo_id": "p", "std_uri": "p.jpg"}]
    return json.dumps({"batch_id": batch_id, "artifacts": artifacts, **fields}).encode()


class Drop:
    """A watched folder, its quarantine, and the cursor that a daemon keeps."""

    def __init__(self, root: Path, quarantine: Path | None = None) -> None:
        self.folder = root / "incoming"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.claimed = self.folder / ".claimed"
        self.quarantine = quarantine or root / "quarantine"
        self.inbox = Inbox([self.folder], self.quarantine)
        self.cursor = Cursor()

    def put(self, name: str, data: bytes = manifest(), time: float | None = None) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        if time is not None:
            os.utime(path, (time, time))
        return path

    def put_batches(self, *batch_ids: str) -> None:
        for batch_id in batch_ids:
            self.put(f"{batch_id}.json", manifest(batch_id))

    def take(self, **limits: Any) -> TickResult:
        """A tick, and a crash before its cursor is kept."""
        return self.inbox.take(Cursor.loads(self.cursor.dumps()), **limits)

    def tick(self, **limits: Any) -> TickResult:
        result = self.take(**limits)
        self.cursor = Cursor.loads(result.cursor.dumps())
        return result

    def age(self, seconds: int) -> None:
        """Change the cursor so that its incomplete files were first seen that many seconds earlier."""
        self.cursor.incomplete = {
            path: replace(state, since=state.since - seconds) for path, state in self.cursor.incomplete.items()
        }

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in the watched folder, or in a subfolder."""
        return sorted(path.name for path in (self.folder / folder).glob("[!.]*") if not path.is_dir())

    def reasons(self) -> dict[str, dict[str, str]]:
        """The reason file of each file in quarantine."""
        paths = {
            name: self.quarantine / f"{name.removesuffix('.json')}.reason.json" for name in self.inbox.quarantined()
        }
        return {name: json.loads(path.read_bytes()) for name, path in paths.items()}


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def delivered(result: TickResult) -> list[str]:
    return [delivery.batch.batch_id for delivery in result.deliveries]


def rejected(result: TickResult) -> list[str]:
    return [rejection.name for rejection in result.rejections]


def is_empty(result: TickResult) -> bool:
    return not (result.deliveries or result.rejections or result.problems or result.has_more) and (
        result.cursor == Cursor()
    )


# --- valid manifests --------------------------------------------------------------------------------------------------


def test_a_manifest_is_delivered_once_then_archived(drop: Drop) -> None:
    data = manifest()
    drop.put("trip.json", data)
    (delivery,) = drop.tick().deliveries
    assert (delivery.batch.batch_id, delivery.name, delivery.again) == ("b1", "trip.json", False)
    assert delivery.path.read_bytes() == data
    assert drop.names() == drop.names("accepted") == []

    assert drop.tick().deliveries == []
    compact = json.dumps(json.loads(data), separators=(",", ":")).encode()
    assert drop.names("accepted") == [f"b1-{hashlib.sha256(compact).hexdigest()[:12]}.json"]
    assert drop.names(".claimed") == []


def test_a_lost_cursor_repeats_deliveries_under_their_tokens(drop: Drop) -> None:
    drop.put_batches("a")
    first = drop.take()
    drop.put_batches("b")
    second = drop.take()
    assert delivered(second) == ["a", "b"]
    assert second.deliveries[0] == first.deliveries[0]
    assert second.deliveries == drop.tick().deliveries
    assert drop.tick().deliveries == []


def test_every_file_of_a_long_queue_is_delivered_once(drop: Drop) -> None:
    """Nothing remains of it in the cursor and the watched folder."""
    for number in range(250):
        drop.put(f"{number}.json", manifest(f"b{number}"))
    batches: list[str] = []
    while (result := drop.tick()).deliveries:
        batches += delivered(result)
        assert result.has_more == (len(batches) < 250)
    assert sorted(batches) == sorted(f"b{number}" for number in range(250))
    assert is_empty(result)
    assert sorted(path.name for path in drop.folder.iterdir()) == [".claimed", "accepted"]
    assert (len(drop.names("accepted")), drop.names(".claimed")) == (250, [])


def test_versions_of_a_batch_come_in_the_order_of_claiming(drop: Drop) -> None:
    for age, name in ((2, "z.json"), (1, "a.json"), (0, "m.json")):
        drop.put(name, manifest(version=name), 1e9 - age)
    for result in (drop.take(), drop.take()):
        assert [delivery.batch.document["version"] for delivery in result.deliveries] == ["z.json", "a.json", "m.json"]
        tokens = [delivery.token for delivery in result.deliveries]
        assert tokens == sorted(set(tokens))


def test_the_mark_to_run_again_survives_a_crash(drop: Drop) -> None:
    drop.put("a.json")
    (delivery,) = drop.tick().deliveries
    marked = drop.inbox.mark_again(delivery)
    assert marked == replace(delivery, again=True, path=marked.path)
    assert drop.inbox.mark_again(marked) == marked
    assert drop.inbox.take(Cursor()).deliveries == [marked]
    assert drop.tick().deliveries == []  # the cursor is older than the mark
    assert len(drop.names("accepted")) == 1


def test_every_step_is_on_disk_before_the_next_relies_on_it(drop: Drop, monkeypatch: Any) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))

    def flushed_by(action: Callable[[], object]) -> set[str]:
        flushed.clear()
        action()
        paths = [drop.folder, drop.claimed, drop.folder / "accepted", drop.quarantine]
        return {path.name for path in paths if path.exists() and path.stat().st_ino in flushed}

    drop.put("a.json")
    assert flushed_by(drop.tick) == {"incoming", ".claimed"}
    assert flushed_by(lambda: drop.inbox.mark_again(drop.inbox.take(Cursor()).deliveries[0])) == {".claimed"}
    assert flushed_by(drop.tick) == {".claimed", "accepted"}
    assert flushed_by(drop.tick) == set()
    drop.put("bad.json", b"bad")
    assert flushed_by(drop.tick) == {"incoming", ".claimed", "quarantine"}
    drop.put("refused.json")
    (delivery,) = drop.tick().deliveries
    assert flushed_by(lambda: drop.inbox.reject(delivery, ManifestError("", "busy"))) == {".claimed", "quarantine"}


@pytest.mark.parametrize("name", [".hidden.json", "a.json.tmp", "a.txt", "json"])
def test_only_json_files_are_taken(drop: Drop, name: str) -> None:
    drop.put(name)
    (drop.folder / "folder.json").mkdir()
    assert is_empty(drop.tick())
    assert (drop.folder / name).exists()


@pytest.mark.parametrize("stem", ["x" * 250, "🏔" * 62, "a\nb", "=cmd", "\udcff", "a..json", " ", "a.new.b"])
def test_any_file_name_is_accepted(drop: Drop, stem: str) -> None:
    """Equal manifests share a file of the archive; bad files of one name do not replace each other."""
    for _ in range(2):
        drop.put(f"{stem}.json")
        (delivery,) = drop.tick().deliveries
        assert delivery.name.isprintable()
        assert drop.tick().deliveries == []
    assert len(drop.names("accepted")) == 1
    for content in (b"bad", b"worse"):
        drop.put(f"{stem}.json", content)
        (rejection,) = drop.tick().rejections
        assert (rejection.path.read_bytes(), drop.reasons()[rejection.path.name]["file"]) == (content, rejection.name)
    assert len(drop.reasons()) == 2
    assert all(name.isprintable() and name.startswith(stem[0] if stem.isprintable() else "") for name in drop.reasons())


def test_several_folders_are_one_queue(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "missing", "a")]
    for age, folder in enumerate(paths[:2]):
        os.utime(submit(manifest(folder.name), folder, "m.1"), (1e9 - age, 1e9 - age))
    both = Inbox([*paths, tmp_path / "b" / ".." / "a"], tmp_path / "quarantine")
    result = both.take(Cursor())
    assert [(delivery.batch.batch_id, delivery.name) for delivery in result.deliveries] == [
        ("b", "m.1.json"),
        ("a", "m.1.json"),
    ]
    assert result.problems == []
    both.take(result.cursor)
    assert [len(list((folder / "accepted").iterdir())) for folder in paths[:2]] == [1, 1]
    assert not paths[2].exists()


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_tokens_keep_their_order_when_the_clock_is_set_back(drop: Drop, monkeypatch: Any) -> None:
    clock = iter(range(10**18, 0, -(10**15)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    for name in ("c", "b", "a"):
        drop.put_batches(name)
        result = drop.take()
    assert delivered(result) == ["c", "b", "a"]
    assert [delivery.token for delivery in drop.take().deliveries] == [delivery.token for delivery in result.deliveries]


def test_equal_and_old_modification_times_hide_nothing(drop: Drop) -> None:
    batches = []
    for number in range(6):
        drop.put("same.json" if number % 2 else f"{number}.json", manifest(f"b{number}"), 1)
        batches += delivered(drop.tick())
    assert batches == [f"b{number}" for number in range(6)]


# --- half-written files -----------------------------------------------------------------------------------------------


def test_a_file_that_is_being_written_waits_for_its_end(drop: Drop) -> None:
    data = manifest("slow")
    drop.put_batches("whole")
    with (drop.folder / "slow.json").open("wb", buffering=0) as writer:
        for at in range(0, len(data), 7):
            result = drop.tick()
            assert result.incomplete == ["slow.json"]
            assert delivered(result) == (["whole"] if at == 0 else [])
            writer.write(data[at : at + 7])
        assert delivered(drop.tick()) == ["slow"]
    assert drop.tick().cursor == Cursor()


def test_a_half_written_file_that_is_deleted_is_forgotten(drop: Drop) -> None:
    path = drop.put("a.json", b"{")
    assert drop.tick().cursor.incomplete
    path.unlink()
    assert drop.tick().cursor == Cursor()


@pytest.mark.parametrize("cause", ["changed", "expired"])
def test_an_incomplete_file_is_read_again_when_needed(drop: Drop, cause: str) -> None:
    data = manifest()
    path = drop.put("a.json", data[:-1].ljust(len(data)))
    drop.tick()
    before = path.stat()
    with path.open("r+b") as file:  # same inode, size and time: the change is invisible
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert drop.tick().incomplete == ["a.json"]
    if cause == "expired":
        drop.age(3600)
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert delivered(drop.tick()) == ["b1"]


@pytest.mark.parametrize(("seconds", "waits"), [(3590, True), (3600, False), (10**9, False)])
def test_a_file_that_stays_incomplete_is_quarantined_at_last(drop: Drop, seconds: int, waits: bool) -> None:
    drop.put("half.json", manifest()[:20])
    assert drop.tick().cursor.incomplete
    drop.age(seconds)
    result = drop.tick()
    assert (result.incomplete, rejected(result)) == ((["half.json"], []) if waits else ([], ["half.json"]))
    assert all("incomplete and has not changed for 3600 s" in reason["reason"] for reason in drop.reasons().values())


def test_a_clock_that_is_set_back_restarts_the_wait(drop: Drop) -> None:
    """So does a change."""
    path = drop.put("half.json", manifest()[:20])
    drop.tick()
    drop.age(-(10**6))
    assert drop.tick().incomplete == ["half.json"]
    (state,) = drop.cursor.incomplete.values()
    assert state.since <= time.time()

    drop.age(10**6)
    path.write_bytes(manifest()[:21])
    for _ in range(2):
        assert drop.tick().incomplete == ["half.json"]


# --- files that are never valid ---------------------------------------------------------------------------------------


def link(path: Path) -> None:
    path.with_name("target").write_bytes(manifest())
    path.symlink_to("target")


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the whole path may be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (b"hello", "", "not valid JSON"),
        (manifest() + b"}", "", "not valid JSON"),
        (manifest(more=float("nan")), "more", "finite"),
        (b'{"batch_id": "b", "artifacts": [{"photo_id": "p"}]}', "artifacts[0]", "needs an image"),
        (manifest(more="x" * 10_000), "", "more than 10,000 bytes"),
        (link, "", "symbolic link"),
        (os.mkfifo, "", "FIFO"),
        (unix_socket, "", "socket"),
    ],
)
@pytest.mark.timeout(120)
def test_an_invalid_file_is_quarantined_with_a_reason(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, make: Any, field: str, reason: str
) -> None:
    """It does not block the others."""
    monkeypatch.setattr(folders, "_MAX_BYTES", 10_000)
    path = drop.folder / "bad.json"
    make(path) if callable(make) else path.write_bytes(make)
    drop.put_batches("good")
    result = drop.tick()
    assert delivered(result) == ["good"]
    (rejection,) = result.rejections
    assert (rejection.name, rejection.path) == ("bad.json", drop.quarantine / "bad.json")
    assert reason in rejection.reason
    (record,) = drop.reasons().values()
    assert (record["file"], record["field"], record["reason"]) == ("bad.json", field, rejection.reason)
    assert record["folder"] == str(drop.folder)
    assert not {"bad.json"} & {*drop.names(), *drop.names(".claimed")}
    assert drop.tick().rejections == []


def test_bad_files_named_like_reason_files_replace_none(drop: Drop) -> None:
    names = {"bad.json", "bad.reason.json", "bad.reason.reason.json"}
    for name in names:
        drop.put(name, name.encode())
    drop.tick()
    assert {(drop.quarantine / name).read_text() for name in drop.reasons()} == names
    assert {record["file"] for record in drop.reasons().values()} == names


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_the_quarantine_may_be_on_another_file_system(tmp_path: Path, other_disk: Path) -> None:
    drop = Drop(tmp_path, other_disk / "q")
    drop.put("bad.json", b"bad")
    os.mkfifo(drop.folder / "fifo.json")
    link(drop.folder / "link.json")
    assert len(drop.tick().rejections) == 3
    contents = {name: (drop.quarantine / name).read_bytes() for name in drop.reasons()}
    assert contents == {"bad.json": b"bad", "fifo.json": b"", "link.json": b""}
    assert drop.names(".claimed") == []


# --- a writer that changes a file during a tick -----------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]) -> None:
    """Change a file after it was read in place and before it is claimed."""
    claim = folders._claim

    def changed(file: Any, tick: Any) -> Any:
        change(file.path)
        return claim(file, tick)

    monkeypatch.setattr(folders, "_claim", changed)


def test_the_claimed_content_is_delivered(drop: Drop, monkeypatch: Any) -> None:
    path = drop.put("a.json", manifest("old"))
    meanwhile(monkeypatch, lambda _: submit(manifest("new"), drop.folder, "a"))
    result = drop.tick()
    assert delivered(result) == ["new"]
    assert result.deliveries[0].path.read_bytes() == manifest("new")
    assert not path.exists()


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_claimed_file_that_became_incomplete_waits(drop: Drop, monkeypatch: Any, is_finished: bool) -> None:
    path = drop.put("a.json")
    with path.open("r+b", buffering=0) as writer:
        meanwhile(monkeypatch, lambda _: writer.truncate(5))
        for _ in range(3):
            assert drop.tick().incomplete == ["a.json"]
            assert len(drop.names(".claimed")) == 1
        if is_finished:
            writer.write(manifest("late"))
        else:
            drop.age(3600)
    result = drop.tick()
    assert (delivered(result), rejected(result)) == ((["late"], []) if is_finished else ([], ["a.json"]))
    drop.tick()
    assert drop.names(".claimed") == []


def test_a_file_that_became_bad_or_was_deleted(drop: Drop, monkeypatch: Any) -> None:
    drop.put("a.json")
    with monkeypatch.context() as patched:
        meanwhile(patched, lambda path: path.write_bytes(b"bad"))
        assert rejected(drop.tick()) == ["a.json"]
    drop.put("a.json")
    meanwhile(monkeypatch, Path.unlink)
    assert is_empty(drop.tick())


# --- system faults ----------------------------------------------------------------------------------------------------


def test_missing_permissions_affect_only_that_file_or_folder() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the other user
        root = Path(folder)
        drop, readonly = Drop(root), root / "readonly"
        closed = drop.put("a-closed.json", b"unreadable")
        closed.chmod(0)
        drop.put("open.json")
        submit(manifest(), readonly, "m")
        readonly.chmod(0o555)
        for path in (root, drop.folder):
            path.chmod(0o777)
        with as_nobody():
            result = Inbox([drop.folder, readonly], drop.quarantine).take(Cursor())
        assert ([delivery.name for delivery in result.deliveries], result.rejections) == (["open.json"], [])
        assert {problem.name for problem in result.problems} == {"a-closed.json", "readonly"}
        assert all("Permission denied" in problem.reason for problem in result.problems)
        assert closed.exists()


def test_a_file_that_cannot_be_archived_is_not_delivered_again(drop: Drop) -> None:
    obstacle = drop.folder / "accepted"
    drop.put_batches("a")
    drop.tick()
    obstacle.write_text("not a folder")
    drop.put_batches("b")
    drop.tick()
    for _ in range(2):
        drop.put_batches("c")
        result = drop.tick()
        assert delivered(result) == ["c"]
        assert {problem.path.parent.name for problem in result.problems} == {".claimed"}
    obstacle.unlink()
    assert drop.tick().problems == []
    assert [name[0] for name in drop.names("accepted")] == ["a", "b", "c"]
    assert drop.cursor == Cursor()


def test_a_folder_that_fails_keeps_its_part_of_the_cursor(tmp_path: Path) -> None:
    """It does not block the other folder."""
    paths = [tmp_path / "a", tmp_path / "b"]
    both = Inbox(paths, tmp_path / "quarantine")
    for folder in paths:
        submit(manifest(folder.name), folder, "m")
        submit(manifest(folder.name)[:9], folder, "half")
    first = both.take(Cursor())

    (tmp_path / "a").rename(tmp_path / "aside")
    (tmp_path / "a").write_text("not a folder")
    second = both.take(first.cursor)
    assert [problem.path for problem in second.problems] == [paths[0]]
    assert second.cursor.handed_over.items() < first.cursor.handed_over.items()
    assert second.cursor.incomplete == first.cursor.incomplete

    (tmp_path / "a").unlink()
    (tmp_path / "aside").rename(tmp_path / "a")
    third = both.take(second.cursor)
    assert (third.deliveries, third.problems, third.cursor.handed_over) == ([], [], {})
    assert third.cursor.incomplete == first.cursor.incomplete


def test_a_folder_that_another_process_has_locked_is_skipped(drop: Drop) -> None:
    drop.put_batches("a")
    drop.tick()
    drop.put_batches("b")
    with FileLock(drop.claimed / ".lock"):
        result = drop.tick()
        assert (result.deliveries, [problem.path for problem in result.problems]) == ([], [drop.folder])
    assert delivered(drop.tick()) == ["b"]


def test_a_locked_quarantine_is_tried_again(drop: Drop, monkeypatch: Any) -> None:
    monkeypatch.setattr(folders, "_QUARANTINE_LOCK_S", 0)
    drop.put("bad.json", b"bad")
    drop.quarantine.mkdir()
    with FileLock(drop.quarantine / ".lock"):
        result = drop.tick()
        assert (result.rejections, len(result.problems)) == ([], 1)
    assert len(drop.tick().rejections) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount a file system here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_quarantine_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    drop = Drop(tmp_path, small_disk)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1_000_000))
    drop.put("bad.json", b"bad")
    drop.put_batches("good")
    for _ in range(2):
        result = drop.take()
        assert (delivered(result), result.rejections, len(result.problems)) == (["good"], [], 1)
        assert "No space left" in str(result.problems[0])
    filler.unlink()
    assert len(drop.tick().rejections) == 1
    assert [*drop.reasons()] == ["bad.json"]


# --- limits of a tick -------------------------------------------------------------------------------------------------


def test_a_tick_is_limited_and_incomplete_files_do_not_count(drop: Drop) -> None:
    for number in range(20):
        drop.put(f"half{number}.json", b"{", number)
    for number in range(5):
        drop.put(f"{number}.json", manifest(f"b{number}"), 100 + number)
        drop.put(f"{number}-bad.json", b"bad", 100 + number)
    counts: list[tuple[int, int, bool]] = []
    while not counts or counts[-1][2]:
        result = drop.tick(limit=4)
        assert len(result.incomplete) == 20
        counts.append((len(result.deliveries), len(result.rejections), result.has_more))
    assert counts == [(2, 2, True), (2, 2, True), (1, 1, False)]


def test_claimed_files_come_before_new_ones(drop: Drop) -> None:
    drop.put_batches("z")
    drop.take()
    drop.put("a.json", manifest("a"), 0)
    result = drop.tick(limit=1)
    assert (delivered(result), result.has_more) == (["z"], True)
    assert delivered(drop.tick(limit=1)) == ["a"]


def test_without_time_one_file_is_handled_and_none_forgotten(drop: Drop) -> None:
    drop.put("half.json", b"{", 200)
    drop.tick()
    incomplete = drop.cursor.incomplete
    for number in range(3):
        drop.put(f"{number}.json", manifest(f"b{number}"), number)
    ticks = [drop.tick(seconds=0) for _ in range(3)]
    assert [(delivered(tick), tick.has_more) for tick in ticks] == [(["b0"], True), (["b1"], True), (["b2"], False)]
    assert all(tick.cursor.incomplete == incomplete for tick in ticks)


# --- the cursor -------------------------------------------------------------------------------------------------------

KEPT = (
    '{"form":1,"handed_over":{"00000000000000000000-deadbeef":"b1-0123456789ab.json"},'
    '"incomplete":{"/\\udcff/half.json":{"inode":1,"size":2,"mtime_ns":3,"since":4}}}'
)


def test_the_form_of_a_cursor_stays() -> None:
    cursor = Cursor({"0" * 20 + "-deadbeef": "b1-0123456789ab.json"}, {"/\udcff/half.json": FileState(1, 2, 3, 4)})
    assert Cursor.loads(KEPT) == cursor
    assert cursor.dumps() == KEPT


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "null", "1760000000.0", "[" * 100_000, KEPT[:-1]),
        KEPT.replace('"form":1', '"form":2'),
        KEPT.replace('"form":1,', ""),
        KEPT.replace("b1-", "../b1-"),
        KEPT.replace("deadbeef", "x/../../"),
        KEPT.replace('"since":4', '"since":NaN'),
        KEPT.replace('"since":4', '"since":4,"more":5'),
        KEPT.replace('"b1-0123456789ab.json"', "[]"),
    ],
)
def test_a_damaged_cursor_or_one_of_another_form_is_empty(text: str | None) -> None:
    assert Cursor.loads(text) == Cursor()


# --- crashes and rivals -----------------------------------------------------------------------------------------------

KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
import pydantic_core  # an import opens files, too
from curation_features.inbox.folders import Cursor, Inbox

root, quarantines, cursor = Path(sys.argv[1]), Path(sys.argv[2]), Cursor.loads(sys.argv[3])
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "shutil.copyfile"}

def kill_at(step):
    def hook(event, arguments):  # called before the event takes place
        nonlocal step
        if event in CHANGES:
            step -= 1
            if step < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

step, killed = 0, True
while killed:
    world = root / str(step)
    shutil.copytree(root / "start", world, symlinks=True)
    child = os.fork()
    if not child:
        inbox = Inbox([world / "incoming"], quarantines / str(step))
        kill_at(step)
        result = inbox.take(cursor)
        os._exit(1 if result.problems else 0)
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    assert killed or not os.WEXITSTATUS(status)
    step += 1
print(step)
"""


def worlds_after_a_kill(root: Path, quarantines: Path, cursor: Cursor) -> list[Drop]:
    """Copies of the folder `root/start`; in each one a `take` was killed at another system call."""
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(root), str(quarantines), cursor.dumps()]
    steps = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [Drop(root / str(step), quarantines / str(step)) for step in range(steps)]


@pytest.mark.long
@pytest.mark.parametrize("elsewhere", [False, True], ids=["one file system", "two file systems"])
def test_a_take_killed_anywhere_loses_and_doubles_nothing(
    tmp_path: Path, elsewhere: bool, request: pytest.FixtureRequest
) -> None:
    start = Drop(tmp_path / "start")
    start.put_batches("a", "b")
    start.put("bad.json", b"bad")
    start.put("half.json", b"{")
    quarantines = request.getfixturevalue("other_disk") if elsewhere else tmp_path / "quarantines"

    worlds = worlds_after_a_kill(tmp_path, quarantines, Cursor())
    assert len(worlds) > 10
    for world in worlds:
        first = world.take()
        assert (sorted(delivered(first)), first.incomplete, first.problems) == (["a", "b"], ["half.json"], [])
        second = world.tick()
        assert {delivery.token for delivery in second.deliveries} == {delivery.token for delivery in first.deliveries}
        assert world.tick().deliveries == []
        assert [name[0] for name in world.names("accepted")] == ["a", "b"]
        assert {name: record["file"] for name, record in world.reasons().items()} == {"bad.json": "bad.json"}
        assert (world.quarantine / "bad.json").read_bytes() == b"bad"
        assert len(list(world.quarantine.glob("[!.]*"))) == 2
        assert (world.names(), world.names(".claimed")) == (["half.json"], [])


@pytest.mark.long
def test_a_take_killed_while_it_archives_repeats_no_delivery(tmp_path: Path) -> None:
    start = Drop(tmp_path / "start")
    start.put_batches("a", "b")
    cursor = start.take().cursor
    worlds = worlds_after_a_kill(tmp_path, tmp_path / "quarantines", cursor)
    assert len(worlds) > 4
    for world in worlds:
        world.cursor = cursor
        result = world.tick()
        assert (result.deliveries, result.cursor) == ([], Cursor())
        assert [name[0] for name in world.names("accepted")] == ["a", "b"]


RIVAL = """
import sys, time
from pathlib import Path
from curation_features.inbox.folders import Cursor, Inbox

root, cursor = Path(sys.argv[1]), Cursor()
inbox = Inbox([root / "incoming"], root / "quarantine")
print("ready", flush=True)
sys.stdin.readline()
idle = 0
while idle < 5:
    result = inbox.take(cursor, limit=7)
    for delivery in result.deliveries:
        print(delivery.token, delivery.batch.batch_id)
    cursor = result.cursor
    idle = 0 if result.deliveries or result.rejections or result.problems else idle + 1
    time.sleep(0.001)
"""


@pytest.mark.long
def test_two_processes_at_once_claim_every_file_once(drop: Drop) -> None:
    drop.put_batches(*(f"b{number}" for number in range(150)))
    for number in range(15):
        drop.put(f"bad{number}.json", b"bad")
    command = [sys.executable, "-c", RIVAL, str(drop.folder.parent)]
    rivals = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [rival.stdout.readline() for rival in rivals if rival.stdout] == ["ready\n"] * 2
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("\n")
        rival.stdin.flush()
    printed = [rival.communicate(timeout=240)[0] for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0]

    tokens: dict[str, set[str]] = {}
    for line in "".join(printed).splitlines():
        token, batch_id = line.split()
        tokens.setdefault(batch_id, set()).add(token)
    assert {*tokens} == {f"b{number}" for number in range(150)}
    assert all(len(every) == 1 for every in tokens.values())
    assert (len(drop.names("accepted")), len(drop.reasons())) == (150, 15)


# --- submitting -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_half_submitted_manifest_is_invisible(drop: Drop) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from curation_features.inbox.folders import submit
sys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == "os.rename" else None)
submit(b"{}", Path(sys.argv[1]), "a")
"""
    killed = subprocess.run([sys.executable, "-c", program, str(drop.folder)])
    assert killed.returncode == -signal.SIGKILL
    assert [path.stat().st_size for path in drop.folder.iterdir()] == [2]
    assert is_empty(drop.tick())


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "/a", "a\0"])
def test_a_name_that_the_inbox_would_ignore_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        submit(manifest(), tmp_path, name)
