"""Temporarily missing photo storage is not a success: nothing is announced, and the photos are retried."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from curation_features.build import build_assets
from curation_features.cli import main
from curation_features.errors import PhotoError, StorageAwayError, StoreError
from curation_features.events.outbox import Outbox
from curation_features.photos.reader import PhotoReader
from curation_features.processing import accept_without_dagster, process_batch
from curation_features.schema import ASSETS
from curation_features.settings import Settings
from curation_features.storage.adoptions import Adoptions
from curation_features.storage.artifacts import ArtifactStore


class Project:
    """A batch whose photos can be moved away."""

    def __init__(self, world) -> None:
        self.world = world
        self.store = ArtifactStore(world.settings.data_path)
        self.outbox = Outbox(world.settings.data_path)
        self.batch = world.batch([world.photo(f"{n}.png", n) for n in range(4)])
        self.away = world.root / "elsewhere"
        self.away.mkdir()

    def path(self, number: int) -> Path:
        return self.world.root / self.batch.artifacts[number].image_uri

    def hide(self, *numbers: int) -> None:
        for number in numbers:
            shutil.move(self.path(number), self.away / str(number))

    def show(self, *numbers: int) -> None:
        for number in numbers:
            shutil.move(self.away / str(number), self.path(number))

    def process(self, **options):
        accept_without_dagster(self.batch, self.store)
        return process_batch(self.batch, self.world.stages(), self.store, self.outbox, **options)

    def statuses(self) -> list[str]:
        document = json.loads(self.store.feature_paths("batch_1")[0].read_bytes())
        return [artifact["features"]["status"] for artifact in document["artifacts"]]

    def files(self) -> dict[str, bytes]:
        folders = [self.world.settings.data_path / name for name in ("features", "stages", "events")]
        return {str(path): path.read_bytes() for f in folders for path in sorted(f.rglob("*")) if path.is_file()}


@pytest.fixture
def project(world) -> Project:
    return Project(world)


def test_a_batch_without_a_readable_photo_fails(project) -> None:
    project.hide(0, 1, 2, 3)
    with pytest.raises(StorageAwayError, match=r"'batch_1': none of its 4 photos can be read \(4 missing\).*mounted"):
        project.process()
    assert project.files() == {}
    project.show(0, 1, 2, 3)
    assert project.process().event["data"]["sequence"] == 1
    assert project.statuses() == ["ok"] * 4
    finished = project.files()
    project.hide(0, 1, 2, 3)
    with pytest.raises(StorageAwayError):
        project.process()
    assert project.files() == finished


def test_damaged_photos_are_not_missing_storage(project) -> None:
    for number in range(4):
        project.path(number).write_bytes(b"no photo")
    assert project.process().event["data"]["retryable"] == 0
    project.hide(0, 1, 2)
    event = project.process().event  # three are missing, one is damaged
    assert (event["data"]["statuses"]["failed"], event["data"]["retryable"]) == (4, 3)


def test_an_empty_batch_is_finished(project) -> None:
    project.batch = project.world.batch([])
    assert project.process().event["data"]["artifacts"] == 0


def test_a_retry_reads_only_the_photos_that_failed(project, monkeypatch) -> None:
    project.hide(1, 3)
    project.path(2).write_bytes(b"no photo")
    project.process()
    project.show(1)
    read, real = [], PhotoReader._read_local
    monkeypatch.setattr(PhotoReader, "_read_local", lambda self, uri: read.append(uri) or real(self, uri))
    monkeypatch.setattr("curation_features.finish.refresh", lambda *_: None)  # the contact sheet reads photos, too
    done = project.world.done_by(lambda: project.process(retry_failed=True))
    assert read == [project.batch.artifacts[number].image_uri for number in (1, 3)]
    assert done == {"decoded": 1, "clip_images": 1, "clip_iqa": 1, "brisque": 1}
    assert project.statuses() == ["ok", "ok", "failed", "failed"]
    latest = project.outbox.latest.get("batch_1")["data"]
    assert (latest["retryable"], latest["sequence"]) == (1, 2)


@pytest.mark.long
def test_a_retry_equals_a_whole_run(project) -> None:
    project.hide(0, 2)
    project.process()
    project.show(0, 2)
    project.process(retry_failed=True)
    retried = project.files()
    for folder in ("features", "stages", "events", "cache"):
        shutil.rmtree(project.world.settings.data_path / folder)
    project.hide(0, 2)  # for the same events
    project.process()
    project.show(0, 2)
    project.process()
    assert project.files() == retried


def test_a_retry_of_an_unfinished_batch_processes_all(project) -> None:
    project.process(retry_failed=True)
    assert project.statuses() == ["ok"] * 4


def test_a_retry_after_a_change_of_settings_says_so(project) -> None:
    project.hide(1)
    project.process()
    stages = project.world.stages(project.world.settings.replace(noise_sigma_max=0.1))
    with pytest.raises(StoreError, match=r"other settings or models.*--retry-failed"):
        list(build_assets(project.batch, ASSETS, stages, project.store, retry_failed=True))


def test_two_ids_of_one_missing_photo_are_both_retried(project) -> None:
    one = dict(project.batch.document["artifacts"][1])
    project.batch = project.world.batch([*project.batch.document["artifacts"], {**one, "photo_id": "twin"}, one])
    project.hide(1)
    assert project.process().event["data"]["retryable"] == 3
    project.show(1)
    assert project.process(retry_failed=True).event["data"]["retryable"] == 0


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EIO, "io_error"),
        (errno.ENOTCONN, "io_error"),
        (errno.ESTALE, "io_error"),
        (errno.EHOSTDOWN, "io_error"),
        (errno.ETIMEDOUT, "timed_out"),
        (errno.EACCES, "permission_denied"),
        (errno.ENOENT, "missing"),
    ],
)
def test_a_file_system_that_fails_says_why(project, monkeypatch, number: int, reason: str) -> None:
    def fail(path, *args, real=os.open, **options):
        if os.fsdecode(path).endswith("0.png"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(PhotoError, match="cannot be read") as failure:
        PhotoReader(project.world.settings).read(project.batch.artifacts[0].image_uri)
    assert failure.value.reason == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("slow"), "timed_out"),
        (ConnectionRefusedError("no"), "io_error"),
        (OSError("the endpoint is away"), "io_error"),
        (RuntimeError("of a backend"), "io_error"),
        (FileNotFoundError("gone"), "missing"),
        (PermissionError("not yours"), "permission_denied"),
    ],
)
def test_a_remote_storage_that_fails_says_why(tmp_path, monkeypatch, error: Exception, reason: str) -> None:
    import fsspec

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", fail)
    settings = Settings(root=tmp_path, photo_roots=("memory://bucket",), download_attempts=1)
    with pytest.raises(PhotoError) as failure:
        PhotoReader(settings).read("memory://bucket/a.jpg")
    assert failure.value.reason == reason


@pytest.mark.long
def test_the_command_fails_and_keeps_what_was_there(project, capsys, monkeypatch) -> None:
    root = project.world.root
    (root / "batch.json").write_text(json.dumps(project.batch.document))
    monkeypatch.chdir(root)
    monkeypatch.setenv("CURATION_FEATURES_ON_MISSING_WEIGHTS", "degrade")
    project.hide(0, 1, 2, 3)
    for options in ([], ["--output", "out.json"]):
        assert main(["process", "batch.json", "--json", *options]) == 1
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["kind"] == "storage_away"
        assert "4 missing" in error["message"]
    assert not (root / "out.json").exists()
    assert not (root / "data" / "events").exists()
    assert Adoptions(root / "data").waiting() == ["batch_1"]  # accepted, so that a backfill processes it
    project.show(0, 1, 2)
    assert main(["process", "batch.json", "--json", "--retry-failed"]) == 0
    assert json.loads(capsys.readouterr().out)["statuses"] == {"ok": 0, "degraded": 3, "failed": 1}
    project.show(3)
    assert main(["process", "batch.json", "--json", "--retry-failed"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["statuses"]["degraded"], found["cached"]) == (4, 3)
    assert main(["process", "batch.json", "--retry-failed", "--output", "-"]) == 2
