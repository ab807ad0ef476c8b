"""Drop folders: every manifest is delivered under one token and put away, and nothing is lost, whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation_features.inbox import folders
from curation_features.inbox.folders import Cursor, IncomingFolders, Sighting, Taken, submit

quickly = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def manifest(batch_id: str = "b1", **fields: Any) -> bytes:
    artifacts = [{"photo_id": "p", "std_uri": "p.jpg"}]
    return json.dumps({"batch_id": batch_id, "artifacts": artifacts, **fields}).encode()


class Drop:
    """A watched folder, its quarantine, and the cursor that a daemon keeps."""

    def __init__(self, root: Path, **limits: Any) -> None:
        self.folder = root / "incoming"
        self.quarantine = root / "quarantine"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folders = IncomingFolders([self.folder], self.quarantine, **limits)
        self.cursor = Cursor()

    def put(self, name: str, data: bytes = manifest()) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def take(self, **limits: Any) -> Taken:
        """A tick, and a crash before its cursor is kept."""
        return self.folders.take(Cursor.loads(self.cursor.dumps()), **limits)

    def tick(self, **limits: Any) -> Taken:
        taken = self.take(**limits)
        self.cursor = taken.cursor
        return taken

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in the watched folder, or in one inside it."""
        return sorted(path.name for path in (self.folder / folder).glob("[!.]*") if not path.is_dir())

    def reasons(self) -> dict[str, dict[str, str]]:
        """For each file in quarantine, what its reason file says."""
        return {name: json.loads(reason_of(self.quarantine / name).read_bytes()) for name in self.folders.quarantined()}


def reason_of(path: Path) -> Path:
    return path.with_name(f"{path.name[:-5]}.reason.json")


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def delivered(taken: Taken) -> list[str]:
    return [delivery.batch.batch_id for delivery in taken.deliveries]


# --- a valid manifest -------------------------------------------------------------------------------------------------


def test_a_manifest_is_delivered_once_and_put_away_when_the_cursor_has_come_back(drop: Drop) -> None:
    data = manifest()
    drop.put("trip.json", data)

    (delivery,) = drop.tick().deliveries
    assert (delivery.batch.batch_id, delivery.name, delivery.again) == ("b1", "trip.json", False)
    assert delivery.path.read_bytes() == data
    assert drop.names() == drop.names("accepted") == []

    assert drop.tick().deliveries == ()
    compact = json.dumps(json.loads(data), separators=(",", ":")).encode()
    assert drop.names("accepted") == [f"b1-{hashlib.sha256(compact).hexdigest()[:12]}.json"]
    assert drop.names(".claimed") == []


def test_what_a_lost_cursor_named_is_delivered_again_under_the_same_token(drop: Drop) -> None:
    drop.put("a.json", manifest("a"))
    first = drop.take()
    drop.put("b.json", manifest("b"))
    second = drop.take()
    assert delivered(second) == ["a", "b"]
    assert second.deliveries[0] == first.deliveries[0]
    assert second.deliveries == drop.tick().deliveries
    assert drop.tick().deliveries == ()


def test_nothing_grows_with_what_has_come_through(drop: Drop) -> None:
    for number in range(30):
        drop.put(f"{number}.json", manifest(f"b{number}"))
    drop.tick()
    taken = drop.tick()
    assert taken == Taken((), (), (), (), False, Cursor())
    assert sorted(path.name for path in drop.folder.iterdir()) == [".claimed", "accepted"]
    assert drop.names(".claimed") == []
    assert len(drop.names("accepted")) == 30


def test_one_batch_twice_is_delivered_twice_in_the_order_of_claiming(drop: Drop) -> None:
    for age, name in ((2, "z.json"), (1, "a.json"), (0, "m.json")):
        os.utime(drop.put(name, manifest(version=name)), (1e9 - age, 1e9 - age))
    for taken in (drop.take(), drop.take()):
        assert [delivery.batch.document["version"] for delivery in taken.deliveries] == ["z.json", "a.json", "m.json"]
        tokens = [delivery.token for delivery in taken.deliveries]
        assert tokens == sorted(set(tokens))


def test_an_equal_manifest_that_was_accepted_before_is_replaced(drop: Drop) -> None:
    for name in ("a.json", "b.json"):
        drop.put(name)
        assert delivered(drop.tick()) == ["b1"]
        drop.tick()
    assert len(drop.names("accepted")) == 1


def test_that_a_delivery_is_to_run_again_survives_a_crash(drop: Drop) -> None:
    drop.put("a.json")
    (delivery,) = drop.take().deliveries
    marked = drop.folders.mark_again(delivery)
    assert marked == replace(delivery, again=True, path=marked.path)
    assert drop.folders.mark_again(marked) == marked
    assert drop.take().deliveries == (marked,)


def test_a_delivery_that_was_marked_after_its_cursor_was_made_is_put_away_by_it(drop: Drop) -> None:
    drop.put("a.json")
    drop.folders.mark_again(drop.tick().deliveries[0])
    assert drop.tick().deliveries == ()
    assert len(drop.names("accepted")) == 1


def test_every_step_is_on_disk_before_the_next_relies_on_it(drop: Drop, monkeypatch: Any) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))

    def flushed_by(action: Callable[[], object]) -> set[str]:
        flushed.clear()
        action()
        folders = [drop.folder, drop.folder / ".claimed", drop.folder / "accepted", drop.quarantine]
        return {folder.name for folder in folders if folder.exists() and folder.stat().st_ino in flushed}

    drop.put("a.json")
    assert flushed_by(drop.tick) == {"incoming", ".claimed"}
    assert flushed_by(lambda: drop.folders.mark_again(drop.folders.take(Cursor()).deliveries[0])) == {".claimed"}
    assert flushed_by(drop.tick) == {".claimed", "accepted"}
    assert flushed_by(drop.tick) == set()
    drop.put("bad.json", b"bad")
    assert flushed_by(drop.tick) == {"incoming", ".claimed", "quarantine"}


@pytest.mark.parametrize("name", [".hidden.json", "a.json.tmp", "a.txt", "json"])
def test_only_json_files_are_looked_at(drop: Drop, name: str) -> None:
    drop.put(name)
    (drop.folder / "folder.json").mkdir()
    taken = drop.tick()
    assert (delivered(taken), taken.rejections, taken.incomplete, taken.troubles) == ([], (), (), ())
    assert drop.names("") == ([] if name.startswith(".") else [name])


@pytest.mark.parametrize("stem", ["x" * 250, "é" * 125, "🏔" * 62, "a\nb", "=cmd", "\udcff", "a..json", " ", "a.new.b"])
def test_any_file_name_will_do(drop: Drop, stem: str) -> None:
    drop.put(f"{stem}.json")
    (delivery,) = drop.tick().deliveries
    assert delivery.name.isprintable()
    assert drop.take().deliveries == ()
    assert len(drop.names("accepted")) == 1


def test_several_folders_are_one_queue(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "missing", "a")]
    for age, folder in enumerate(folders[:2]):
        os.utime(submit(manifest(folder.name), folder, "m"), (1e9 - age, 1e9 - age))
    both = IncomingFolders([*folders, tmp_path / "b" / ".." / "a"], tmp_path / "quarantine")
    taken = both.take(Cursor())
    assert (delivered(taken), taken.troubles) == (["b", "a"], ())
    both.take(taken.cursor)
    assert [len(list((folder / "accepted").iterdir())) for folder in folders[:2]] == [1, 1]
    assert not folders[2].exists()


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_tokens_keep_the_order_of_claiming_when_the_clock_is_set_back(drop: Drop, monkeypatch: Any) -> None:
    clock = iter(range(10**18, 0, -(10**15)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    for name in ("c", "b", "a"):
        drop.put(f"{name}.json", manifest(name))
        taken = drop.take()
    assert delivered(taken) == ["c", "b", "a"]
    assert [delivery.token for delivery in drop.take().deliveries] == [delivery.token for delivery in taken.deliveries]


def test_equal_and_old_modification_times_hide_nothing(drop: Drop) -> None:
    seen = []
    for number in range(6):
        os.utime(drop.put("same.json" if number % 2 else f"{number}.json", manifest(f"b{number}")), (1, 1))
        seen += delivered(drop.tick())
    assert seen == [f"b{number}" for number in range(6)]


# --- half-written files -----------------------------------------------------------------------------------------------


def test_a_file_that_is_being_written_waits_for_its_end(drop: Drop) -> None:
    data = manifest("slow")
    drop.put("whole.json", manifest("whole"))
    with (drop.folder / "slow.json").open("wb", buffering=0) as writer:
        for at in range(0, len(data), 7):
            taken = drop.tick()
            assert taken.incomplete == ("slow.json",)
            assert delivered(taken) == (["whole"] if at == 0 else [])
            writer.write(data[at : at + 7])
        assert delivered(drop.tick()) == ["slow"]
    assert drop.tick().cursor == Cursor()


def test_a_half_written_file_that_its_writer_removes_is_forgotten(drop: Drop) -> None:
    path = drop.put("a.json", b"{")
    assert drop.tick().cursor.incomplete
    path.unlink()
    assert drop.tick().cursor == Cursor()


def test_an_incomplete_file_is_not_read_again_until_it_changes(drop: Drop) -> None:
    data = manifest()
    path = drop.put("a.json", data[:-1].ljust(len(data)))
    drop.tick()
    before = path.stat()
    with path.open("r+b") as file:  # same inode and size, and the same time: no one can see the change
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert drop.tick().incomplete == ("a.json",)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert delivered(drop.tick()) == ["b1"]


def aged(cursor: Cursor, seconds: int) -> Cursor:
    """A cursor as if its files had been seen so many seconds earlier."""
    return replace(cursor, incomplete={k: replace(s, since=s.since - seconds) for k, s in cursor.incomplete.items()})


@pytest.mark.parametrize(("seconds", "waits"), [(3590, True), (3600, False), (10**9, False)])
def test_a_file_that_stays_incomplete_is_quarantined_at_last(drop: Drop, seconds: int, waits: bool) -> None:
    drop.put("half.json", manifest()[:20])
    assert drop.tick().cursor.incomplete
    drop.cursor = aged(drop.cursor, seconds)
    taken = drop.tick()
    assert taken.incomplete == (("half.json",) if waits else ())
    assert [rejection.name for rejection in taken.rejections] == ([] if waits else ["half.json"])
    assert all("incomplete and has not changed for 3600 s" in reason["reason"] for reason in drop.reasons().values())


def test_a_change_restarts_the_wait(drop: Drop) -> None:
    path = drop.put("half.json", manifest()[:20])
    drop.cursor = aged(drop.tick().cursor, 10**6)
    path.write_bytes(manifest()[:21])
    assert drop.tick().incomplete == ("half.json",)
    assert drop.tick().incomplete == ("half.json",)


def test_a_clock_that_is_set_back_restarts_the_wait(drop: Drop) -> None:
    drop.put("half.json", manifest()[:20])
    drop.cursor = aged(drop.tick().cursor, -(10**6))
    assert drop.tick().incomplete == ("half.json",)
    (sighting,) = drop.cursor.incomplete.values()
    assert sighting.since <= time.time()


def test_a_file_is_read_once_more_before_it_is_given_up(drop: Drop) -> None:
    data = manifest()
    path = drop.put("a.json", data[:-1].ljust(len(data)))
    drop.cursor = aged(drop.tick().cursor, 3600)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert delivered(drop.tick()) == ["b1"]


# --- what is never valid ----------------------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))
    path.with_name("target").write_bytes(manifest())


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("missing"))


def link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the whole path may be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"may not make a device here: {error}")


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "field", "reason"),
    [
        (content(b"hello"), "", "not valid JSON"),
        (content(manifest() + b"}"), "", "not valid JSON"),
        (content(b"\xff\xfe{\0"), "", "not UTF-8"),
        (content(manifest(more=float("nan"))), "more", "finite"),
        (content(b'{"batch_id": "b", "batch_id": "b", "artifacts": []}'), "batch_id", "more than once"),
        (content(manifest("../b")), "batch_id", "must be"),
        (content(b'{"batch_id": "b", "artifacts": [{"photo_id": "p"}]}'), "artifacts[0]", "needs an image"),
        (content(b"[]"), "", "must be a JSON object"),
        (content(manifest(specversion="2.0")), "specversion", "1.0"),
        (content(manifest(more="x" * 10_000)), "", "more than 10,000 bytes"),
        (link, "", "symbolic link"),
        (dangling_link, "", "symbolic link"),
        (link_to_a_folder, "", "symbolic link"),
        (fifo, "", "FIFO"),
        (unix_socket, "", "socket"),
        (device, "", "device"),
    ],
)
@pytest.mark.timeout(120)
def test_what_is_never_valid_is_quarantined_with_a_reason_and_holds_up_no_other(
    tmp_path: Path, make: Callable[[Path], object], field: str, reason: str
) -> None:
    drop = Drop(tmp_path, max_bytes=10_000)
    make(drop.folder / "bad.json")
    drop.put("good.json", manifest("good"))
    taken = drop.tick()
    assert delivered(taken) == ["good"]
    (rejection,) = taken.rejections
    assert (rejection.name, rejection.field, rejection.path) == ("bad.json", field, drop.quarantine / "bad.json")
    assert reason in rejection.reason
    (record,) = drop.reasons().values()
    assert (record["file"], record["field"], record["reason"]) == ("bad.json", field, rejection.reason)
    assert record["folder"] == str(drop.folder)
    assert not {"bad.json"} & {*drop.names(), *drop.names(".claimed")}
    assert drop.tick().rejections == ()


def test_the_same_bad_file_again_gets_a_second_name(drop: Drop) -> None:
    paths = set()
    for _ in range(3):
        drop.put("bad.json", b"bad")
        (rejection,) = drop.tick().rejections
        paths.add(rejection.path.name)
        assert rejection.name == "bad.json"
    assert {*drop.reasons()} == paths
    assert len(paths) == 3
    assert [record["file"] for record in drop.reasons().values()] == ["bad.json"] * 3
    assert all((drop.quarantine / name).read_bytes() == b"bad" for name in paths)


def test_bad_files_that_are_named_like_reasons_do_not_replace_any(drop: Drop) -> None:
    for name in ("bad.json", "bad.reason.json", "bad.reason.reason.json"):
        drop.put(name, name.encode())
    drop.tick()
    assert {(drop.quarantine / name).read_text() for name in drop.reasons()} == {
        "bad.json",
        "bad.reason.json",
        "bad.reason.reason.json",
    }
    assert {record["file"] for record in drop.reasons().values()} == {
        "bad.json",
        "bad.reason.json",
        "bad.reason.reason.json",
    }


@pytest.mark.parametrize("stem", ["x" * 250, "é" * 125, "🏔" * 62, "a\nb", "\udcff"])
def test_a_bad_file_of_any_name_twice(drop: Drop, stem: str) -> None:
    for _ in range(2):
        drop.put(f"{stem}.json", b"bad")
        assert len(drop.tick().rejections) == 1
    assert len(drop.reasons()) == 2
    assert all(name.isprintable() and name.startswith(stem[0] if stem.isprintable() else "") for name in drop.reasons())


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_the_quarantine_may_be_on_another_file_system(drop: Drop, other_disk: Path) -> None:
    drop.quarantine = other_disk / "q"
    drop.folders = IncomingFolders([drop.folder], drop.quarantine)
    drop.put("bad.json", b"bad")
    fifo(drop.folder / "fifo.json")
    link(drop.folder / "link.json")
    assert len(drop.tick().rejections) == 3
    assert {*drop.reasons()} == {"bad.json", "fifo.json", "link.json"}
    assert [(drop.quarantine / name).read_bytes() for name in sorted(drop.reasons())] == [b"bad", b"", b""]
    assert drop.names(".claimed") == []


# --- a writer that is at work meanwhile -------------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]) -> None:
    """Do something to a file after it was looked at in place and before it is claimed."""
    claim = folders._claim

    def changed(file: Any, tick: Any) -> Any:
        change(file.path)
        return claim(file, tick)

    monkeypatch.setattr(folders, "_claim", changed)


def test_what_was_claimed_is_delivered_and_not_what_was_seen_before(drop: Drop, monkeypatch: Any) -> None:
    path = drop.put("a.json", manifest("old"))
    meanwhile(monkeypatch, lambda _: submit(manifest("new"), drop.folder, "a"))
    taken = drop.tick()
    assert delivered(taken) == ["new"]
    assert taken.deliveries[0].path.read_bytes() == manifest("new")
    assert not path.exists()


def test_a_file_that_became_incomplete_waits_where_it_lies(drop: Drop, monkeypatch: Any) -> None:
    path = drop.put("a.json")
    with path.open("r+b", buffering=0) as writer:
        meanwhile(monkeypatch, lambda _: writer.truncate(5))
        for _ in range(3):
            assert drop.tick().incomplete == ("a.json",)
            assert len(drop.names(".claimed")) == 1
        writer.write(manifest("late"))
    assert delivered(drop.tick()) == ["late"]
    drop.tick()
    assert drop.names(".claimed") == []


def test_a_claimed_file_that_stays_incomplete_is_quarantined_at_last(drop: Drop, monkeypatch: Any) -> None:
    drop.put("a.json")
    meanwhile(monkeypatch, lambda path: os.truncate(path, 5))
    drop.tick()
    drop.tick()
    drop.cursor = aged(drop.cursor, 3600)
    assert [rejection.name for rejection in drop.tick().rejections] == ["a.json"]
    assert [*drop.reasons()] == ["a.json"]


def test_a_file_that_became_bad_is_quarantined(drop: Drop, monkeypatch: Any) -> None:
    drop.put("a.json")
    meanwhile(monkeypatch, lambda path: path.write_bytes(b"bad"))
    assert [rejection.name for rejection in drop.tick().rejections] == ["a.json"]


def test_a_file_that_is_gone_is_no_trouble(drop: Drop, monkeypatch: Any) -> None:
    drop.put("a.json")
    meanwhile(monkeypatch, Path.unlink)
    assert drop.tick() == Taken((), (), (), (), False, Cursor())


@pytest.mark.parametrize("swap", [fifo, link], ids=["fifo", "link"])
@pytest.mark.timeout(120)
def test_a_file_that_turns_into_something_else_while_it_is_opened(drop: Drop, monkeypatch: Any, swap: Any) -> None:
    path = drop.put("a.json")
    lstat = Path.lstat

    def swapped(self: Path) -> os.stat_result:
        found = lstat(self)
        self.unlink()
        swap(self)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", swapped)
        taken = drop.tick()
    assert (taken.deliveries, path.is_symlink() or path.is_fifo()) == ((), True)
    assert [rejection.name for rejection in drop.tick().rejections] == ["a.json"]


# --- a system in trouble ----------------------------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
from pathlib import Path
from curation_features.inbox.folders import Cursor, IncomingFolders

root = Path(sys.argv[1])
folders = IncomingFolders([root / "incoming", root / "readonly"], root / "quarantine")
if os.getuid() == 0:
    os.setuid(65534)  # permissions do not bind root
taken = folders.take(Cursor())
print([delivery.name for delivery in taken.deliveries], taken.rejections, [str(t) for t in taken.troubles])
"""


def test_missing_permissions_are_troubles_of_that_file_and_that_folder() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the other user
        root = Path(folder)
        root.chmod(0o777)
        drop = Drop(root)
        closed = drop.put("a-closed.json", b"who knows")
        closed.chmod(0)
        drop.put("open.json")
        submit(manifest(), root / "readonly", "m")
        drop.folder.chmod(0o777)
        (root / "readonly").chmod(0o555)
        command = [sys.executable, "-c", AS_NOBODY, folder]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2]
        )
        assert done.stdout.startswith("['open.json'] ()")
        assert done.stdout.count("Permission denied") == 2
        assert "'a-closed.json'" in done.stdout
        assert "'readonly'" in done.stdout
        assert closed.exists()


def test_what_cannot_be_put_away_is_not_delivered_again(drop: Drop) -> None:
    for name in ("a", "b"):
        drop.put(f"{name}.json", manifest(name))
        drop.tick()
        in_the_way = drop.folder / "accepted"
        if name == "a":
            in_the_way.write_text("no folder")
    for _ in range(2):
        drop.put("c.json", manifest("c"))
        taken = drop.tick()
        assert delivered(taken) == ["c"]
        assert {trouble.path.parent.name for trouble in taken.troubles} == {".claimed"}
    in_the_way.unlink()
    assert drop.tick().troubles == ()
    assert [name[0] for name in drop.names("accepted")] == ["a", "b", "c"]
    assert drop.cursor == Cursor()


def test_a_folder_in_trouble_holds_up_no_other_and_what_the_cursor_says_of_it_is_kept(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    both = IncomingFolders(folders, tmp_path / "quarantine")
    for folder in folders:
        submit(manifest(folder.name), folder, "m")
        submit(manifest(folder.name)[:9], folder, "half")
    first = both.take(Cursor())

    (tmp_path / "a").rename(tmp_path / "aside")
    (tmp_path / "a").write_text("no folder")
    second = both.take(first.cursor)
    assert [trouble.path for trouble in second.troubles] == [folders[0]]
    assert second.cursor.handed_over.items() < first.cursor.handed_over.items()
    assert second.cursor.incomplete == first.cursor.incomplete

    (tmp_path / "a").unlink()
    (tmp_path / "aside").rename(tmp_path / "a")
    third = both.take(second.cursor)
    assert (third.deliveries, third.troubles, third.cursor.handed_over) == ((), (), {})
    assert third.cursor.incomplete == first.cursor.incomplete


def test_a_folder_that_another_process_is_emptying_is_left_to_it(drop: Drop) -> None:
    drop.put("a.json", manifest("a"))
    drop.tick()
    drop.put("b.json", manifest("b"))
    with FileLock(drop.folder / ".claimed" / ".lock"):
        taken = drop.tick()
        assert (taken.deliveries, [trouble.path for trouble in taken.troubles]) == ((), [drop.folder])
    assert delivered(drop.tick()) == ["b"]


def test_names_in_a_quarantine_that_others_use_are_chosen_one_at_a_time(drop: Drop, monkeypatch: Any) -> None:
    monkeypatch.setattr(folders, "_QUARANTINE_LOCK_S", 0)
    drop.put("bad.json", b"bad")
    drop.quarantine.mkdir()
    with FileLock(drop.quarantine / ".lock"):
        taken = drop.tick()
        assert (taken.rejections, len(taken.troubles)) == ((), 1)
    assert len(drop.tick().rejections) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount a file system here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_quarantine_loses_nothing(drop: Drop, small_disk: Path) -> None:
    drop.quarantine = small_disk
    drop.folders = IncomingFolders([drop.folder], small_disk)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1_000_000))
    drop.put("bad.json", b"bad")
    drop.put("good.json", manifest("good"))
    for _ in range(2):
        taken = drop.take()
        assert (delivered(taken), taken.rejections, len(taken.troubles)) == (["good"], (), 1)
        assert "No space left" in str(taken.troubles[0])
    filler.unlink()
    assert len(drop.tick().rejections) == 1
    assert [*drop.reasons()] == ["bad.json"]


# --- bounded work -----------------------------------------------------------------------------------------------------


def test_work_is_limited_and_what_waits_does_not_count(drop: Drop) -> None:
    for number in range(20):
        os.utime(drop.put(f"half{number}.json", b"{"), (number, number))
    for number in range(5):
        os.utime(drop.put(f"{number}.json", manifest(f"b{number}")), (100 + number, 100 + number))
        os.utime(drop.put(f"{number}-bad.json", b"bad"), (100 + number, 100 + number))
    counts = []
    while not counts or counts[-1][2]:
        taken = drop.tick(limit=4)
        assert len(taken.incomplete) == 20
        counts.append((len(taken.deliveries), len(taken.rejections), taken.more))
    assert counts == [(2, 2, True), (2, 2, True), (1, 1, False)]


def test_what_was_claimed_comes_before_what_is_new(drop: Drop) -> None:
    drop.put("z.json", manifest("z"))
    drop.take()
    os.utime(drop.put("a.json", manifest("a")), (0, 0))
    taken = drop.tick(limit=1)
    assert (delivered(taken), taken.more) == (["z"], True)
    assert delivered(drop.tick(limit=1)) == ["a"]


def test_without_time_one_file_is_still_handled_and_no_sighting_is_forgotten(drop: Drop) -> None:
    os.utime(drop.put("half.json", b"{"), (200, 200))
    drop.tick()
    seen = drop.cursor.incomplete
    for number in range(3):
        os.utime(drop.put(f"{number}.json", manifest(f"b{number}")), (number, number))
    ticks = [drop.tick(seconds=0) for _ in range(3)]
    assert [(delivered(taken), taken.more) for taken in ticks] == [(["b0"], True), (["b1"], True), (["b2"], False)]
    assert all(taken.cursor.incomplete == seen for taken in ticks)


def test_every_file_of_a_long_queue_is_delivered_once(drop: Drop) -> None:
    for number in range(250):
        drop.put(f"{number}.json", manifest(f"b{number}"))
    batches = []
    while (taken := drop.tick()).deliveries:
        batches += delivered(taken)
        assert taken.more == (len(batches) < 250)
    assert sorted(batches) == sorted(f"b{number}" for number in range(250))
    assert len(drop.names("accepted")) == 250


# --- the cursor -------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 2**63)
SIGHTINGS = st.builds(Sighting, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
TOKENS = st.from_regex(r"[0-9]{20}-[0-9a-f]{8}", fullmatch=True)
ACCEPTED = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}-[0-9a-f]{12}\.json", fullmatch=True)
CURSORS = st.builds(
    Cursor,
    st.dictionaries(TOKENS, ACCEPTED, max_size=3),
    st.dictionaries(st.text() | st.just("/\udcff"), SIGHTINGS, max_size=3),
)


@quickly
@given(CURSORS)
def test_a_cursor_survives_being_written(cursor: Cursor) -> None:
    text = cursor.dumps()
    assert text.isascii()
    assert Cursor.loads(text) == cursor


KEPT = Cursor({"0" * 20 + "-deadbeef": "b1-0123456789ab.json"}, {"/x/half.json": Sighting(1, 2, 3, 4)}).dumps()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "null",
        "[]",
        "1760000000.0",
        "[" * 100_000,
        KEPT[:-1],
        KEPT.replace('"form":1', '"form":2'),
        KEPT.replace('"form":1,', ""),
        KEPT.replace("b1-", "../b1-"),
        KEPT.replace("deadbeef", "x/../../"),
        KEPT.replace('"since":4', '"since":NaN'),
        KEPT.replace('"since":4', '"since":4,"more":5'),
        KEPT.replace('"handed_over":{', '"handed_over":{"a":1,'),
        KEPT.replace('"b1-0123456789ab.json"', "[]"),
        json.dumps({"form": 1, "handed_over": [], "incomplete": 3}),
        json.dumps({"form": 1, "handed_over": {}, "incomplete": {"a": [1]}}),
    ],
)
def test_a_damaged_cursor_or_one_of_another_form_is_empty(text: str | None) -> None:
    assert Cursor.loads(KEPT) != Cursor()
    assert Cursor.loads(text) == Cursor()


# --- crashes and rivals -----------------------------------------------------------------------------------------------

KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
from curation_features.inbox.folders import Cursor, IncomingFolders

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
        folders = IncomingFolders([world / "incoming"], quarantines / str(step))
        kill_at(step)
        taken = folders.take(cursor)
        os._exit(1 if taken.troubles else 0)
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    assert killed or not os.WEXITSTATUS(status)
    step += 1
print(step)
"""


def worlds_after_a_kill(root: Path, quarantines: Path, cursor: Cursor) -> list[Drop]:
    """Copies of the folder `root/start`, in each of which a `take` was killed at another of its system calls."""
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(root), str(quarantines), cursor.dumps()]
    steps = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    worlds = [Drop(root / str(step)) for step in range(steps)]
    for step, world in enumerate(worlds):
        world.quarantine = quarantines / str(step)
        world.folders = IncomingFolders([world.folder], world.quarantine)
    return worlds


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one file system", "two file systems"])
def test_a_take_that_is_killed_anywhere_loses_and_doubles_nothing(
    tmp_path: Path, elsewhere: bool, request: pytest.FixtureRequest
) -> None:
    start = Drop(tmp_path / "start")
    for name in ("a", "b"):
        start.put(f"{name}.json", manifest(name))
    start.put("bad.json", b"bad")
    start.put("half.json", b"{")
    quarantines = request.getfixturevalue("other_disk") if elsewhere else tmp_path / "quarantines"

    worlds = worlds_after_a_kill(tmp_path, quarantines, Cursor())
    assert len(worlds) > 10
    for world in worlds:
        left = world.take()
        assert (sorted(delivered(left)), left.incomplete, left.troubles) == (["a", "b"], ("half.json",), ())
        again = world.tick()
        assert {delivery.token for delivery in again.deliveries} == {delivery.token for delivery in left.deliveries}
        assert world.tick().deliveries == ()
        assert [name[0] for name in world.names("accepted")] == ["a", "b"]
        assert {name: record["file"] for name, record in world.reasons().items()} == {"bad.json": "bad.json"}
        assert (world.quarantine / "bad.json").read_bytes() == b"bad"
        assert len(list(world.quarantine.glob("[!.]*"))) == 2
        assert (world.names(), world.names(".claimed")) == (["half.json"], [])


def test_a_take_that_is_killed_while_it_puts_files_away_delivers_none_of_them_again(tmp_path: Path) -> None:
    start = Drop(tmp_path / "start")
    for name in ("a", "b"):
        start.put(f"{name}.json", manifest(name))
    cursor = start.take().cursor
    worlds = worlds_after_a_kill(tmp_path, tmp_path / "quarantines", cursor)
    assert len(worlds) > 4
    for world in worlds:
        world.cursor = cursor
        taken = world.tick()
        assert (taken.deliveries, taken.cursor) == ((), Cursor())
        assert [name[0] for name in world.names("accepted")] == ["a", "b"]


RIVAL = """
import sys, time
from pathlib import Path
from curation_features.inbox.folders import Cursor, IncomingFolders

root, cursor = Path(sys.argv[1]), Cursor()
folders = IncomingFolders([root / "incoming"], root / "quarantine")
print("ready", flush=True)
sys.stdin.readline()
idle = 0
while idle < 5:
    taken = folders.take(cursor, limit=7)
    for delivery in taken.deliveries:
        print(delivery.token, delivery.batch.batch_id)
    cursor = taken.cursor
    idle = 0 if taken.deliveries or taken.rejections or taken.troubles else idle + 1
    time.sleep(0.001)
"""


def test_two_processes_at_once_claim_every_file_once(drop: Drop) -> None:
    for number in range(150):
        drop.put(f"{number}.json", manifest(f"b{number}"))
        if number % 10 == 0:
            drop.put(f"bad{number}.json", b"bad")
    command = [sys.executable, "-c", RIVAL, str(drop.folder.parent)]
    rivals = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
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
    assert len(drop.names("accepted")) == 150
    assert len(drop.reasons()) == 15


# --- submitting -------------------------------------------------------------------------------------------------------


def test_what_is_submitted_is_delivered(drop: Drop) -> None:
    assert submit(manifest(), drop.folder, "trip.1") == drop.folder / "trip.1.json"
    assert [delivery.name for delivery in drop.tick().deliveries] == ["trip.1.json"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_what_is_being_submitted_is_not_seen(drop: Drop) -> None:
    program = """
        import os, signal, sys
        from pathlib import Path
        from curation_features.inbox.folders import submit
        sys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == "os.rename" else None)
        submit(b"{}", Path(sys.argv[1]), "a")
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(drop.folder)])
    assert killed.returncode == -signal.SIGKILL
    assert [path.stat().st_size for path in drop.folder.iterdir()] == [2]
    assert drop.tick() == Taken((), (), (), (), False, Cursor())


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "/a", "a\0"])
def test_a_name_that_would_not_be_looked_at_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        submit(manifest(), tmp_path, name)
