"""A dataset is replaced as a whole, or stays as it was; nothing else is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from gathering import photo, rows_in, table_path, write
from libraries import KilledError, snapshot

from curation_features import Settings, gather_features
from curation_features.atomic_files import staged
from curation_features.dataset import targets
from curation_features.dataset.parts import PartsWriter
from curation_features.dataset.targets import FileTarget, FolderTarget
from curation_features.errors import InputError

STEPS = [
    *((PartsWriter, name) for name in ("add", "finish")),
    *((target, name) for target in (FileTarget, FolderTarget) for name in ("open", "write")),
    *((targets, name) for name in ("flush", "publish", "_exchange")),
]


@pytest.fixture
def project(settings: Settings) -> Settings:
    """Batch `a` of two photos, and a folder for datasets."""
    write(settings, "a", photo("a0"), photo("a1"))
    (settings.root / "out").mkdir()
    return settings


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in snapshot(folder).items() if not name.startswith(".")}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def killed_at(number: int, action: Callable[[], Any]) -> bool:
    """Kill an action before its step `number`, so that nothing is cleaned up; whether it was killed."""
    left = [number]

    def dying(step: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return step(*arguments, **options)

        return act

    with pytest.MonkeyPatch.context() as patched:
        for owner, name in STEPS:
            patched.setattr(owner, name, dying(getattr(owner, name)))
        patched.setattr(targets.shutil, "rmtree", lambda *_, **__: None)
        try:
            action()
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("name", ["all", "all.parquet"])
def test_a_killed_run_leaves_the_old_dataset(project, name: str) -> None:
    output = project.root / "out" / name
    gather_features(output, settings=project)
    old = visible(output.parent)
    write(project, "b", photo("b0"))
    states = []
    while killed_at(len(states), lambda: gather_features(output, settings=project)):
        states.append(visible(output.parent))
    assert len(rows_in(output if output.suffix else output / "features/*.parquet")) == 3
    assert len(states) > 4
    assert states[:-1] == [old] * (len(states) - 1)
    assert states[-1] in (old, visible(output.parent))  # after the exchange only the folder's entry is flushed


@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupted_run_leaves_nothing_else(project, monkeypatch, at_once: bool) -> None:
    """With an atomic exchange of folders, and with two renames."""
    output = project.root / "out" / "all"
    if not at_once:
        monkeypatch.setattr(targets, "_exchange_at_once", lambda *_: False)
    gather_features(output, settings=project)
    write(project, "b", photo("b0"))
    with monkeypatch.context() as patched:
        patched.setattr(PartsWriter, "finish", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            gather_features(output, settings=project)
    assert names(output.parent) == ["all"]
    assert len(rows_in(output / "features/*.parquet")) == 2
    gather_features(output, settings=project)
    assert names(output.parent) == ["all"]
    assert len(rows_in(output / "features/*.parquet")) == 3


def test_a_run_killed_between_two_renames_is_repaired(project, monkeypatch) -> None:
    output = project.root / "out" / "all"
    gather_features(output, settings=project)
    old = snapshot(output)
    output.rename(output.with_name(".all.replaced"))
    monkeypatch.setattr(PartsWriter, "finish", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        gather_features(output, settings=project)
    assert names(output.parent) == ["all"]
    assert snapshot(output) == old


def test_leftovers_of_killed_runs_are_deleted(project) -> None:
    output = project.root / "out" / "all"
    with staged(output) as temporary:
        of_dead_process = temporary.name.replace(f".{os.getpid()}.", ".999999999.")
        temporary.with_name(of_dead_process).mkdir()
        temporary.mkdir()
        gather_features(output, settings=project)
        assert sorted(names(output.parent)) == [temporary.name, "all"]
        temporary.rmdir()


# --- What may be replaced ---


def foreign_folder(output: Path) -> None:
    (output / "photos").mkdir(parents=True)
    (output / "photos" / "x.jpg").write_bytes(b"x")


def foreign_record(output: Path) -> None:
    output.mkdir()
    (output / "_dataset.json").write_text('{"kind": "other"}')


def dataset_with_notes(output: Path) -> None:
    output.mkdir()
    record = {"kind": "curation_features dataset", "files": {}, "failed": {}, "fingerprint": ""}
    (output / "_dataset.json").write_text(json.dumps(record))
    (output / "notes.txt").write_text("mine")


def foreign_file(output: Path) -> None:
    output.write_bytes(b"mine")


def foreign_table(output: Path) -> None:
    table = table_path(Settings(root=output.parents[1]), "a")
    output.write_bytes(table.read_bytes())


@pytest.mark.parametrize(
    ("name", "make", "named"),
    [
        ("all", foreign_folder, "is a folder that `gather` has not written"),
        ("all", foreign_record, "is a folder that `gather` has not written"),
        ("all", dataset_with_notes, r"has files that `gather` has not written \(notes.txt\)"),
        ("all", foreign_file, "is a file that `gather` has not written"),
        ("all.parquet", foreign_file, "is a file that `gather` has not written"),
        ("all.parquet", foreign_table, "is a file that `gather` has not written"),
        ("all.parquet", foreign_folder, "is a folder that `gather` has not written"),
        ("no/all", None, "make it first"),
        ("../data/features/all.parquet", None, "is for batches; name another place"),
        ("../data/features", None, "is for batches"),
    ],
)
def test_anything_but_a_dataset_stays(project, name: str, make, named: str) -> None:
    output = project.root / "out" / name
    if make:
        make(output)
    before = snapshot(project.root)
    with pytest.raises(InputError, match=named):
        gather_features(output, settings=project)
    assert snapshot(project.root) == before


def test_an_empty_folder_and_a_link_are_written_to(project) -> None:
    output, link = project.root / "out" / "all", project.root / "link"
    output.mkdir()
    link.symlink_to(output)
    assert gather_features(link, settings=project).output == output
    assert link.is_symlink()
    assert len(rows_in(link / "features/*.parquet")) == 2


# --- Nothing new ---


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.rglob("*.*")}


@pytest.mark.parametrize("name", ["all", "all.parquet"])
def test_an_unchanged_project_writes_nothing(project, name: str) -> None:
    output = project.root / "out" / name
    first = gather_features(output, settings=project)
    before = inodes(output.parent)
    again = gather_features(output, settings=project)
    assert inodes(output.parent) == before
    assert (first.unchanged, again.unchanged) == (False, True)
    assert (again.rows, again.versions, again.bytes, again.batches) == (
        first.rows, first.versions, first.bytes, first.batches,
    )  # fmt: skip
    assert not gather_features(output, settings=project, distinct=True).unchanged
    assert not gather_features(output, settings=project).unchanged
    os.utime(table_path(project, "a"))
    assert not gather_features(output, settings=project).unchanged


def test_a_dataset_with_missing_files_is_written_again(project) -> None:
    output = project.root / "out" / "all"
    gather_features(output, settings=project)
    (output / "features/part-00000.parquet").unlink()
    assert not gather_features(output, settings=project).unchanged
    assert len(rows_in(output / "features/*.parquet")) == 2


def test_a_failed_batch_is_read_again(project) -> None:
    write(project, "b", photo("b0"))
    path = table_path(project, "b")
    data, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # so that only the record knows of the damage
    output = project.root / "out" / "all"
    assert list(gather_features(output, settings=project).failed) == ["b"]
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = gather_features(output, settings=project)
    assert (again.unchanged, again.failed, again.rows) == (False, {}, 3)
    assert pq.read_metadata(output / "features/part-00000.parquet").num_rows == 3
