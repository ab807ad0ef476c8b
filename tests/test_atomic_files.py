"""Files are replaced completely or not at all, and opened without blocking."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from curation_features.atomic_files import (
    cannot_write,
    link_bytes,
    open_regular,
    publish,
    replacing,
    staged,
    sweep,
    write_bytes,
)
from curation_features.errors import StoreError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("name", ["a.json", "x/y/a.json", "x" * 255, "é" * 127, "🏔" * 63], ids=len)
@pytest.mark.parametrize("durable", [True, False])
def test_the_new_content_replaces_the_old(tmp_path: Path, name: str, durable: bool) -> None:
    path = tmp_path / name  # in folders that do not exist yet, and with the longest names that a file may have
    write_bytes(path, b"old", durable=durable)
    with path.open("rb") as reader:
        write_bytes(path, b"new", durable=durable)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert names(path.parent) == [path.name]


def test_a_hard_link_takes_no_more_space(tmp_path: Path) -> None:
    source, path = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_bytes(b"pixels")
    path.touch()
    for _ in range(2):
        link_bytes(source, path)
        assert path.samefile(source)
        assert sorted(names(tmp_path)) == ["a.jpg", "b.jpg"]
    write_bytes(path, b"new")
    assert source.read_bytes() == b"pixels"


def test_without_hard_links_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    source, path = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_bytes(b"pixels")
    link_bytes(source, path)
    assert path.read_bytes() == b"pixels"
    assert not path.samefile(source)
    with pytest.raises(StoreError, match=r"c\.jpg: cannot be written"):
        link_bytes(tmp_path / "gone.jpg", tmp_path / "c.jpg")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_only_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def write_half(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(error), replacing(path) as temporary:
        write_half(temporary)
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing is written
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_a_durable_file_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    flushed: list[tuple[int, bytes]] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append((os.fstat(file).st_ino, path.read_bytes())))
    write_bytes(path, b"new", durable=True)
    assert flushed == [(path.stat().st_ino, b"old"), (tmp_path.stat().st_ino, b"new")]
    write_bytes(path, b"newer", durable=False)
    assert len(flushed) == 2


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replacing(path) as first, replacing(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.json"]


def test_a_path_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "folder" / "file" / "a.json"):
        with pytest.raises(OSError, match="folder"):
            write_bytes(path, b"new")
    assert names(tmp_path) == ["folder"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"may not mount a file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_only_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, bytes(1_000_000))
    assert path.read_bytes() == b"old"
    assert names(small_disk) == ["a.json"]


@pytest.mark.parametrize(
    ("names", "free", "inodes", "number", "reason"),
    [
        (600_000_000, 10**12, 10**6, errno.ENOSPC, "its folder has as many files"),
        (600_000_000, 10**12, 0, errno.ENOSPC, "free space or permissions"),
        (600_000_000, 10**6, 10**6, errno.ENOSPC, "free space or permissions"),
        (4096, 10**12, 10**6, errno.ENOSPC, "free space or permissions"),
        (600_000_000, 10**12, 10**6, errno.EACCES, "free space or permissions"),
    ],
)
def test_a_full_folder_is_not_called_a_full_disk(
    names: int, free: int, inodes: int, number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ext4 without `large_dir` reported it: ENOSPC, with space and inodes left, in a folder with a long list."""
    disk = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    monkeypatch.setattr(Path, "stat", lambda *_: SimpleNamespace(st_size=names))
    error = cannot_write(Path("/data/rankingInput/a.jpg"), OSError(number, os.strerror(number)))
    assert reason in str(error)


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    program = (
        "import os, pathlib, sys; from curation_features.atomic_files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as path: path.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    with subprocess.Popen([sys.executable, "-c", program, path]) as writer:
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie, as in containers without an init
        assert path.read_bytes() == b"old"
        assert list(tmp_path.glob("*.json")) == [path]
        assert len(names(tmp_path)) == 2
        if not Path("/proc/self/stat").exists():  # a zombie cannot be told from a process that runs
            writer.wait()
        sweep(tmp_path, tmp_path / "missing")
        assert names(tmp_path) == ["a.json"]
    assert writer.returncode == -signal.SIGKILL


def test_files_still_being_written_are_not_swept(tmp_path: Path) -> None:
    foreign, forgotten = tmp_path / ".a.0123abcd.1.0123abcd.tmp", tmp_path / ".b.0123abcd.1.0123abcd.tmp"
    hidden = tmp_path / ".x.tmp"
    for path in (foreign, forgotten, hidden):
        path.write_bytes(b"half")
    os.utime(forgotten, (0, 0))
    with replacing(tmp_path / "c.json") as temporary:
        temporary.write_bytes(b"half")
        sweep(tmp_path)
        assert sorted(names(tmp_path)) == sorted([foreign.name, hidden.name, temporary.name])


def test_files_are_published_together_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "b", tmp_path / "a"]
    for path in paths:
        path.write_bytes(b"old")
    flushed: list[list[bytes]] = []
    with monkeypatch.context() as patch, staged(paths[0]) as one, staged(paths[1]) as two:
        patch.setattr(os, "fsync", lambda _: flushed.append([path.read_bytes() for path in paths]))
        one.write_bytes(b"new")
        with pytest.raises(FileNotFoundError):
            publish((one, paths[0]), (two, paths[1]))
        assert [path.read_bytes() for path in paths] == [b"old", b"old"]
        two.write_bytes(b"new")
        publish((one, paths[0]), (two, paths[1]))
    assert flushed[-4:] == [[b"old", b"old"], [b"old", b"old"], [b"new", b"old"], [b"new", b"new"]]
    assert sorted(names(tmp_path)) == ["a", "b"]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"data"
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(OSError, match="is not a regular file") as caught:
            open_regular(path)
        assert caught.value.errno == errno.ENODEV
    with pytest.raises(OSError, match="link") as caught:
        open_regular(tmp_path / "link", follow_links=False)
    assert caught.value.errno == errno.ELOOP
