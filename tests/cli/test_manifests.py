"""Commands take a batch by its id or by the path of one of its files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from libraries import Library

from curation_features.cli.manifests import batch_id_of, find_manifest
from curation_features.errors import ManifestError
from curation_features.settings import Settings


def write(path: Path, batch_id: str = "trip") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"batch_id": batch_id, "artifacts": []}))
    return path


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project; it is the current folder."""
    monkeypatch.chdir(settings.root)
    return settings.root


def test_an_id_is_the_manifest_that_was_ingested_else_accepted(here: Path, settings: Settings) -> None:
    accepted = write(here / "data/manifests/trip.json")
    assert find_manifest("trip", settings) == accepted
    ingested = write(here / "data/batches/trip.json")
    os.utime(accepted, (2e9, 2e9))  # which is newer does not count
    assert find_manifest("trip", settings) == ingested


@pytest.mark.parametrize("given", ["trip", "./trip", "sub/manifest.txt"])
def test_a_file_is_preferred_to_an_id(here: Path, settings: Settings, given: str) -> None:
    write(here / "data/batches/trip.json")
    write(here / given, "other")
    assert find_manifest(given, settings) == Path(given)


def test_a_folder_named_like_a_batch_is_not_a_manifest(here: Path, settings: Settings) -> None:
    (here / "trip").mkdir()
    ingested = write(here / "data/batches/trip.json")
    assert find_manifest("trip", settings) == ingested
    assert batch_id_of("trip", settings) == "trip"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tirp", "tirp: cannot be read: no such file, and no batch of this id in {data}/batches or {data}/manifests; "
                 "did you mean 'trip'?"),
        ("wlak", "did you mean 'walk'?"),
        ("old/tripp.json", "old/tripp.json: cannot be read: no such file; did you mean 'trip'?"),
        ("data/../trip", "data/../trip: cannot be read: no such file; did you mean 'trip'?"),
        ("unheard-of", "no batch of this id in {data}/batches or {data}/manifests"),
        ("x" * 5000, "cannot be read"),
        ("nul\0", "nul?: cannot be read"),
        ("line\n\x1b[2J", "line??[2J: cannot be read"),
        ("..", "..: cannot be read"),
        ("", "cannot be read"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_an_error_with_a_hint(here: Path, settings: Settings, given: str, said: str) -> None:
    write(here / "data/batches/trip.json")
    write(here / "data/manifests/walk.json", "walk")
    with pytest.raises(ManifestError) as caught:
        find_manifest(given, settings)
    message = str(caught.value)
    assert said.format(data=here / "data") in message
    assert message.isprintable()
    assert ("did you mean" in message) == ("did you mean" in said)


@pytest.mark.parametrize(
    "given",
    ["trip", "data/batches/trip.json", "data/manifests/trip.json", "data/features/trip.json", "mine.json",
     "data/features/trip.parquet", "data/features/trip.html", "data/features/embeddings/trip.parquet"],
)  # fmt: skip
def test_every_file_of_a_batch_gives_its_id(here: Path, settings: Settings, given: str) -> None:
    for folder in ("batches", "manifests", "features", "features/embeddings"):
        for suffix in ("json", "parquet", "html"):
            write(here / "data" / folder / f"trip.{suffix}", "not read")
    write(here / "mine.json")
    assert batch_id_of(given, settings) == "trip"


def test_a_file_that_is_not_a_manifest_is_refused(here: Path, settings: Settings) -> None:
    (here / "photo.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ManifestError, match=r"^photo\.jpg: is not UTF-8 text"):
        batch_id_of("photo.jpg", settings)


@pytest.mark.parametrize(("command", "made"), [("process", "features"), ("submit", "incoming")])
def test_commands_take_an_id_from_any_folder(library: Library, command: str, made: str) -> None:
    (library.data / "features" / "holiday.json").unlink()
    assert library.command(command, "holiday") == 0
    written = json.loads((library.data / made / "holiday.json").read_bytes())
    assert command == "process" or written == library.project.manifest("holiday")
    assert library.command(command, "holidya") == 2
    assert "holidya: cannot be read: no such file" in library.output
    assert "did you mean 'holiday'?" in library.output
