"""The command `ingest`: its arguments, its output, and the data it protects."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import snapshot
from PIL import Image
from projects import project_at

from curation_features.cli import main
from curation_features.ingest import discovery

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder: the current directory and the project's root."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
    return path


def ingested(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run `ingest --json` successfully and return its output."""
    capsys.readouterr()
    assert main(["ingest", *arguments, "--json"]) == 0
    fields: dict[str, Any] = json.loads(capsys.readouterr().out)
    return fields


def uris(fields: dict[str, Any]) -> list[str]:
    manifest = json.loads(Path(fields["files"]["manifest"]).read_bytes())
    return [artifact["original_uri"] for artifact in manifest["artifacts"]]


# Skipped files -------------------------------------------------------------------------------------------------------


def test_skipped_files_and_folders_are_named(folder: Path, capsys) -> None:
    photo(folder / "photos" / "a.jpg")
    for name in ("b.PSD", "c.psd", "d.jp2"):
        (folder / "photos" / name).touch()
    photo(folder / "photos" / "@eaDir" / "a.jpg" / "SYNOPHOTO_THUMB_XL.jpg")
    (folder / "photos" / "link").symlink_to(folder)
    assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
    shown = capsys.readouterr().out
    for words in ("2 .psd files", "photos/b.PSD", "1 .jp2 file", "photos/@eaDir", "photos/link", "1 photo in batch"):
        assert words in shown
    fields = ingested(capsys, "photos", "--batch-id", "trip")
    assert (fields["photos"], fields["unreadable_folders"]) == (1, [])
    assert fields["skipped"] == [
        {"suffix": ".psd", "format": "Photoshop", "files": 2, "examples": ["photos/b.PSD", "photos/c.psd"]},
        {"suffix": ".jp2", "format": "JPEG 2000", "files": 1, "examples": ["photos/d.jp2"]},
    ]
    assert fields["left_out"] == [
        {"kind": "other_programs", "entries": 1, "examples": ["photos/@eaDir"]},
        {"kind": "linked_folders", "entries": 1, "examples": ["photos/link"]},
    ]


def test_a_folder_of_such_formats_only_is_refused_by_name(folder: Path, capsys) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "b.PSD").touch()
    assert main(["ingest", "photos"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("curation-features: photos: no photos")
    assert "1 .psd file" in error
    assert not (folder / "data").exists()


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, capsys, monkeypatch) -> None:
    photos = (photo(folder / "photos" / "a.jpg"),)
    result = discovery.Found(photos, unreadable=((folder / "photos" / "closed", "Permission denied"),))
    monkeypatch.setattr(discovery, "scan", lambda *_: result)  # root ignores permissions
    fields = ingested(capsys, "photos", "--batch-id", "trip")
    assert fields["unreadable_folders"] == [{"path": f"{folder}/photos/closed", "reason": "Permission denied"}]
    assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
    assert f"{folder}/photos/closed: Permission denied" in capsys.readouterr().out


def test_the_projects_own_images_are_not_ingested(folder: Path, capsys) -> None:
    for n in range(3):
        photo(folder / f"{n}.png", n)
    counts = [ingested(capsys, ".", "--batch-id", "trip")["photos"] for _ in range(3)]
    assert counts == [3, 3, 3]
    assert len(list((folder / "data" / "rankingInput").iterdir())) == 6  # created by ingest
    samples = ingested(capsys, "--samples")
    assert (samples["batch_id"], samples["photos"]) == ("first-run", 10)
    assert ingested(capsys, ".", "--batch-id", "trip")["photos"] == 3


def test_images_in_another_data_folder_are_not_ingested(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_DATA_DIR", str(folder / "deep" / "down"))
    photo(folder / "a.png")
    fields = [ingested(capsys, str(folder), "--batch-id", "trip") for _ in range(2)]
    assert [found["photos"] for found in fields] == [1, 1]
    assert fields[1]["left_out"] == [{"kind": "own_files", "entries": 1, "examples": [f"{folder}/deep/down"]}]


# Arguments -----------------------------------------------------------------------------------------------------------


def test_folders_and_files_are_taken_together(folder: Path, capsys) -> None:
    photos = [photo(folder / name, n) for n, name in enumerate(("a/1.png", "b/2.png", "b/3.png", "c/4.png"))]
    fields = ingested(capsys, "a", str(photos[2]), "c/4.png", "--batch-id", "trip")
    assert uris(fields) == ["./a/1.png", "./b/3.png", "./c/4.png"]


def test_a_quoted_pattern_is_expanded(folder: Path, capsys) -> None:
    for n, name in enumerate(("trip/1.jpg", "trip/[1].jpg", "trip/2.png", "trip/more/3.jpg", "other/4.jpg")):
        photo(folder / name, n)
    fields = ingested(capsys, "trip/*.jpg", "o*")
    assert (fields["batch_id"], uris(fields)) == (folder.name, ["./other/4.jpg", "./trip/1.jpg", "./trip/[1].jpg"])
    fields = ingested(capsys, "trip/[1].jpg")
    assert (fields["batch_id"], uris(fields)) == ("trip", ["./trip/[1].jpg"])
    assert main(["ingest", "trip/*.tif"]) == 2
    assert "trip/*.tif: matches no file or folder" in capsys.readouterr().err


def test_companions_are_counted(folder: Path, capsys) -> None:
    for n, name in enumerate(("IMG_1.JPG", "IMG_2.jpg", "IMG_3.jpg")):
        photo(folder / "trip" / name, n)
    for name in ("IMG_1.CR3", "IMG_1.xmp", "IMG_1.JPG.xmp", "IMG_2.xmp", "film.mov", "IMG_9.aae"):
        (folder / "trip" / name).touch()
    assert main(["ingest", "trip"]) == 0
    shown = capsys.readouterr().out
    assert "3 photos, 1 with a raw file, 2 with a sidecar in batch trip: " in shown
    assert "skipped: trip/IMG_9.aae, trip/film.mov (sidecars and videos without a photo)" in shown
    fields = ingested(capsys, "trip")
    assert (fields["photos"], fields["skipped"]) == (3, [])
    assert fields["companions"] == {"raw": 1, "sidecar": 2, "video": 0}
    assert fields["left_out"] == [{"kind": "unpaired", "entries": 2, "examples": ["trip/IMG_9.aae", "trip/film.mov"]}]


def test_the_home_folder_is_known_without_a_shell(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    photo(folder / "home" / "Pictures" / "a.png")
    assert uris(ingested(capsys, "~/Pictures", "--batch-id", "trip")) == ["./home/Pictures/a.png"]
    photo(folder / "~nobody-is-called-so" / "b.png")
    assert uris(ingested(capsys, "~nobody-is-called-so", "--batch-id", "tilde")) == ["./~nobody-is-called-so/b.png"]


# An existing batch ---------------------------------------------------------------------------------------------------


def changes(fields: dict[str, Any]) -> tuple[int, int, int]:
    return fields["replaced"], fields["added"], fields["gone"]


@pytest.fixture
def walk(folder: Path, capsys) -> Path:
    """A batch `walk` of the photos in folder `one`, one of them unreadable; folder `two` also has the second."""
    for n in range(2):
        photo(folder / "one" / f"{n}.png", n)
    for n in range(3):
        photo(folder / "two" / f"{n}.png", 1 + n)
    (folder / "one" / "2.png").write_bytes(b"no photo")
    assert changes(ingested(capsys, "one", "--batch-id", "walk")) == (0, 3, 0)
    return folder


def test_a_batch_is_not_replaced_by_other_photos_unasked(walk: Path, capsys) -> None:
    before = snapshot(walk)
    assert main(["ingest", "two", "--batch-id", "walk"]) == 2
    error = capsys.readouterr().err
    for words in ("'walk' has 3 photos, 2 of them", "('./one/0.png', './one/2.png')", "--replace", "--batch-id"):
        assert words in error
    assert snapshot(walk) == before
    assert main(["ingest", "two", "--batch-id", "walk", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "input"


def test_a_batch_is_replaced_on_request(walk: Path, capsys) -> None:
    assert main(["ingest", "two", "--batch-id", "walk", "--replace"]) == 0
    assert "replaces batch 'walk' (3 photos): 2 removed, 2 added" in capsys.readouterr().out
    assert changes(ingested(capsys, "one", "--batch-id", "walk", "--replace")) == (3, 2, 2)


def test_photos_are_added_to_a_batch_without_a_question(walk: Path, capsys) -> None:
    photo(walk / "one" / "3.png", 3)
    assert main(["ingest", "one", "--batch-id", "walk"]) == 0
    assert "adds 1 photo to batch 'walk' (3 before)" in capsys.readouterr().out
    photo(walk / "one" / "4.png", 4)
    assert changes(ingested(capsys, "one", "--batch-id", "walk")) == (4, 1, 0)
    assert changes(ingested(capsys, "one", "--batch-id", "walk")) == (5, 0, 0)


def test_a_moved_or_repaired_photo_is_not_gone(walk: Path, capsys) -> None:
    (walk / "one" / "0.png").rename(walk / "one" / "moved.png")
    photo(walk / "one" / "2.png", 2)
    assert changes(ingested(capsys, "one", "--batch-id", "walk")) == (3, 0, 0)


def test_a_photo_that_is_edited_is_another_one(walk: Path, capsys) -> None:
    photo(walk / "one" / "0.png", 9)
    assert main(["ingest", "one", "--batch-id", "walk"]) == 2
    assert "1 of them changed or missing here ('./one/0.png')" in capsys.readouterr().err
    assert changes(ingested(capsys, "one", "--batch-id", "walk", "--replace")) == (3, 1, 1)


@pytest.mark.parametrize("place", ["manifests", "features"])
def test_the_newest_manifest_of_a_batch_counts(walk: Path, capsys, place: str) -> None:
    """A service may have delivered a manifest after `ingest`."""
    document = json.loads((walk / "data" / "batches" / "walk.json").read_bytes())
    document["artifacts"].append({"photo_id": "x", "original_uri": "s3://bucket/x.jpg", "std_uri": "x.jpg"})
    path = walk / "data" / place / "walk.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    later = (walk / "data" / "batches" / "walk.json").stat().st_mtime + 10
    os.utime(path, (later, later))
    assert main(["ingest", "one", "--batch-id", "walk"]) == 2
    assert "'walk' has 4 photos, 1 of them changed or missing here ('s3://bucket/x.jpg')" in capsys.readouterr().err
    os.utime(path, (later - 20, later - 20))
    assert changes(ingested(capsys, "one", "--batch-id", "walk")) == (3, 0, 0)


def test_a_batch_that_cannot_be_read_is_not_replaced_unasked(walk: Path, capsys) -> None:
    (walk / "data" / "batches" / "walk.json").write_bytes(b"{")
    assert main(["ingest", "one", "--batch-id", "walk"]) == 2
    error = capsys.readouterr().err
    assert "walk.json: is not valid JSON" in error
    assert changes(ingested(capsys, "one", "--batch-id", "walk", "--replace")) == (0, 3, 0)


def test_an_id_that_differs_in_case_only_is_refused(walk: Path, capsys) -> None:
    before = snapshot(walk)
    assert main(["ingest", "one", "--batch-id", "Walk", "--replace"]) == 2
    assert "batch_id: 'Walk' differs from the batch 'walk' in case only" in capsys.readouterr().err
    assert snapshot(walk) == before


# The id ---------------------------------------------------------------------------------------------------------------


def test_a_batch_is_called_after_its_folder(folder: Path, capsys, monkeypatch) -> None:
    photo(folder / "my photos" / "a" / "1.png")
    photo(folder / "my photos" / "b" / "2.png")
    monkeypatch.chdir(folder / "my photos")
    ids = [
        ingested(capsys, "--root", str(folder), *paths)["batch_id"]
        for paths in (["."], ["a", "b"], ["a/1.png", "b/2.png"], [str(folder / "my photos")], ["a/1.png"])
    ]
    assert ids[:4] == ["my-photos"] * 4
    assert ids[4] == "a"


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ([], ["--samples"]),
        (["PHOTOS=my photos"], ["my photos"]),
        (["PHOTOS=~/x", "BATCH=trip", "REPLACE=1"], ["~/x", "--batch-id", "trip", "--replace"]),
    ],
)
def test_make_run_is_one_command(variables: list[str], arguments: list[str]) -> None:
    command = ["make", "-n", "-o", ".venv/.installed", "run", "VENV=.venv", *variables]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout.replace("\\\n", "")) == [
        ".venv/bin/curation-features", "run", *arguments, "--allow-degraded",
    ]  # fmt: skip


@pytest.mark.long
def test_run_makes_a_batch_and_measures_it(tmp_path: Path, capsys) -> None:
    photo(tmp_path / "my photos" / "a.png")
    (tmp_path / "my photos" / "b.psd").touch()
    (tmp_path / "project").mkdir()
    with project_at(tmp_path / "project") as project:
        assert project.command("run", str(tmp_path / "my photos")) == 0
        said = project.terminal.getvalue()
        assert said.index("not read: 1 .psd file") < said.index("1 photo in batch my-photos: 1 ok")
        photo(tmp_path / "my photos" / "c.png", 1)
        assert main(["--root", str(project.root), "run", str(tmp_path / "my photos"), "--json"]) == 0
        data = project.settings.data_path
    fields = json.loads(capsys.readouterr().out)
    assert (fields["batch_id"], fields["artifacts"], fields["statuses"]["ok"]) == ("my-photos", 2, 2)
    assert (changes(fields), fields["skipped"][0]["suffix"]) == ((1, 1, 0), ".psd")
    assert len(fields["run_id"]) == 36
    assert fields["files"] == {
        "manifest": f"{data}/batches/my-photos.json",
        "features": f"{data}/features/my-photos.json",
        "table": f"{data}/features/my-photos.parquet",
        "embeddings": f"{data}/features/embeddings/my-photos.parquet",
        "page": f"{data}/features/my-photos.html",
    }
