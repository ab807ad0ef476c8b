"""The command `ingest`: what it takes, what it says, and what it never does without being told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from curation_features.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one and the project's root."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 24), 20 + seed).convert("RGB").save(path)
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `ingest --json` prints; it must succeed."""
    capsys.readouterr()
    assert main(["ingest", *arguments, "--json"]) == 0
    fields: dict[str, Any] = json.loads(capsys.readouterr().out)
    return fields


def uris(fields: dict[str, Any]) -> list[str]:
    manifest = json.loads(Path(fields["files"]["manifest"]).read_bytes())
    return [artifact["original_uri"] for artifact in manifest["artifacts"]]


# What is passed over --------------------------------------------------------------------------------------------------


def test_formats_that_are_not_read_are_named(folder: Path, capsys) -> None:
    photo(folder / "photos" / "a.jpg")
    for name in ("b.HEIC", "c.heic", "d.dng"):
        (folder / "photos" / name).touch()
    assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
    shown = capsys.readouterr().out
    assert "not read: 2 .heic files (HEIC; export as JPEG), such as photos/b.HEIC" in shown
    assert "not read: 1 .dng file (camera raw; export as JPEG), such as photos/d.dng" in shown
    assert "1 photos in batch trip" in shown
    fields = told(capsys, "photos", "--batch-id", "trip")
    assert fields["skipped"] == [
        {"suffix": ".heic", "format": "HEIC", "files": 2, "examples": ["photos/b.HEIC", "photos/c.heic"]},
        {"suffix": ".dng", "format": "camera raw", "files": 1, "examples": ["photos/d.dng"]},
    ]


def test_a_folder_of_such_formats_only_is_refused_by_name(folder: Path, capsys) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "b.HEIC").touch()
    assert main(["ingest", "photos"]) == 2
    error = capsys.readouterr().err
    assert "photos: no photo here is of a format that is read; not read: 1 .heic file (HEIC" in error
    assert not (folder / "data").exists()


def test_what_is_left_out_is_named(folder: Path, capsys) -> None:
    photo(folder / "photos" / "a.jpg")
    photo(folder / "photos" / "@eaDir" / "a.jpg" / "SYNOPHOTO_THUMB_XL.jpg")
    photo(folder / "elsewhere" / "b.jpg")
    (folder / "photos" / "link").symlink_to(folder / "elsewhere")
    assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
    shown = capsys.readouterr().out
    assert "left out: photos/@eaDir (thumbnails and waste of other programs)" in shown
    assert "left out: photos/link (links to folders, which are not followed)" in shown
    fields = told(capsys, "photos", "--batch-id", "trip")
    assert fields["left_out"] == [
        {"kind": "other_programs", "entries": 1, "examples": ["photos/@eaDir"]},
        {"kind": "linked_folders", "entries": 1, "examples": ["photos/link"]},
    ]
    assert (fields["photos"], fields["skipped"], fields["unreadable_folders"]) == (1, [], [])


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, capsys, monkeypatch) -> None:
    from curation_features import discovery

    photos = (photo(folder / "photos" / "a.jpg"),)
    found = discovery.Found(photos, unreadable=((folder / "photos" / "closed", "Permission denied"),))
    monkeypatch.setattr(discovery, "scan", lambda *_: found)  # permissions do not bind root
    fields = told(capsys, "photos", "--batch-id", "trip")
    assert fields["unreadable_folders"] == [{"path": f"{folder}/photos/closed", "reason": "Permission denied"}]
    assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
    assert f"cannot be listed, and is left out: {folder}/photos/closed: Permission denied" in capsys.readouterr().out


def test_the_project_is_not_fed_with_what_it_has_made(folder: Path, capsys) -> None:
    for n in range(3):
        photo(folder / f"{n}.png", n)
    counts = [told(capsys, ".", "--batch-id", "trip")["photos"] for _ in range(3)]
    assert counts == [3, 3, 3]
    assert len(list((folder / "data" / "rankingInput").iterdir())) == 6  # which it has made
    assert told(capsys, "--samples", "--batch-id", "samples")["photos"] == 10
    assert told(capsys, ".", "--batch-id", "trip")["photos"] == 3


def test_the_project_is_not_fed_from_a_data_folder_elsewhere(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_DATA_DIR", str(folder / "deep" / "down"))
    photo(folder / "a.png")
    fields = [told(capsys, str(folder), "--batch-id", "trip") for _ in range(2)]
    assert [found["photos"] for found in fields] == [1, 1]
    assert fields[1]["left_out"] == [{"kind": "own_files", "entries": 1, "examples": [f"{folder}/deep/down"]}]


# What is taken --------------------------------------------------------------------------------------------------------


def test_folders_and_files_are_taken_together(folder: Path, capsys) -> None:
    photos = [photo(folder / name, n) for n, name in enumerate(("a/1.png", "b/2.png", "b/3.png", "c/4.png"))]
    fields = told(capsys, "a", str(photos[2]), "c/4.png", "--batch-id", "trip")
    assert uris(fields) == ["./a/1.png", "./b/3.png", "./c/4.png"]


def test_the_home_folder_is_known_without_a_shell(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    photo(folder / "home" / "Pictures" / "a.png")
    assert uris(told(capsys, "~/Pictures", "--batch-id", "trip")) == ["./home/Pictures/a.png"]
    photo(folder / "~nobody-is-called-so" / "b.png")
    assert uris(told(capsys, "~nobody-is-called-so", "--batch-id", "tilde")) == ["./~nobody-is-called-so/b.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the arguments PATH --samples is required"),
        (["photos", "--samples"], "argument --samples: not allowed with argument PATH"),
        (["photos", "--nonsense", "x"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_usage_shows_the_usage_of_ingest(folder: Path, capsys, arguments: list[str], said: str) -> None:
    assert main(["ingest", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"curation-features: {said}")
    assert "usage: curation-features ingest" in error
