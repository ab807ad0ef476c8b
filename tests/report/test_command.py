"""The contact sheet on the command line: written by runs, and by `report`."""

from __future__ import annotations

import shutil
import webbrowser
from pathlib import Path

import pytest
from libraries import Library

from curation_features.cli.reports import FIELDS
from curation_features.events.outbox import Outbox


@pytest.fixture
def page(library: Library) -> Path:
    """The page of the finished batch `holiday`."""
    return library.data / "features" / "holiday.html"


@pytest.mark.long
def test_process_materialize_and_report_make_the_same_page(library, page) -> None:
    pages = [page.read_bytes()]
    for command in ("process", "materialize", "report"):
        page.unlink()
        assert library.command(command, "holiday") == 0
        assert str(page) in library.output.splitlines()
        pages.append(page.read_bytes())
    assert pages == pages[:1] * 4
    assert b"1.png" in pages[0]


def test_the_page_is_written_before_the_announcement(library, page, monkeypatch) -> None:
    there = []
    monkeypatch.setattr(Outbox, "publish", lambda *_: there.append(page.exists()))
    page.unlink()
    assert library.command("process", "holiday") == 0
    assert there == [True]


@pytest.mark.long
def test_a_setting_turns_pages_off(library, page, monkeypatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_CONTACT_SHEET", "false")
    page.unlink()
    assert library.command("process", "holiday") == 0
    assert ".html" not in library.output
    assert not page.exists()
    assert library.command("report", "holiday") == 0
    assert page.exists()


def test_a_failing_page_does_not_fail_the_run(library, page) -> None:
    for folder in ("features", "events"):
        shutil.rmtree(library.data / folder)
    page.mkdir(parents=True)
    assert library.command("process", "holiday") == 0
    assert [artifact["features"]["status"] for artifact in library.features("holiday")["artifacts"]] == ["ok"] * 3
    assert len(list((library.data / "events" / "features.completed").iterdir())) == 1


def test_a_run_to_another_file_makes_no_page(library, page) -> None:
    for old in page.parent.glob("*.html"):
        old.unlink()
    assert library.command("process", "holiday", "--output", str(library.root / "out.json")) == 0
    assert list(library.root.rglob("*.html")) == []


def test_report_replaces_the_page(library, page) -> None:
    whole = page.read_bytes()
    page.write_bytes(b"older" + whole[5:])
    fields = library.run_json("report", "holiday")
    assert page.read_bytes() == whole
    assert fields == {"batch_id": "holiday", "artifacts": 3, "files": {"page": str(page)}}
    assert fields.keys() == FIELDS.keys()


def test_report_writes_to_another_file(library, page) -> None:
    page.unlink()
    output = library.root / "pages" / "mine.html"
    assert library.command("report", "holiday", "--output", str(output)) == 2
    assert str(output.parent) in library.output
    output.parent.mkdir()
    assert library.command("report", "holiday", "--output", str(output)) == 0
    assert library.output == f"{output}\n"
    assert b'"../data/rankingInput/' in output.read_bytes()
    assert not page.exists()


@pytest.mark.parametrize("found", [True, False])
def test_report_opens_the_page(library, page, monkeypatch, found) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: opened.append(uri) or found)
    assert library.command("report", "holiday") == 0
    assert opened == []
    assert library.command("report", "holiday", "--open") == 0
    assert opened == [page.as_uri()]
    assert ("no browser" in library.output) != found


@pytest.mark.parametrize("name", ["batches/holiday.json", "features/holiday.json", "features/holiday.parquet"])
def test_report_takes_paths(library, page, name: str) -> None:
    page.unlink()
    assert library.command("report", str(library.data / name)) == 0
    assert page.exists()


@pytest.mark.parametrize(
    ("batch", "remedy"),
    [
        ("holidya", "did you mean 'holiday'?"),
        ("elsewhere", "curation-features process MANIFEST"),
        ("data/other/holiday.json", "did you mean 'holiday'?"),
        ("../features/holiday", "did you mean 'holiday'?"),
        ("\x1b[2J\n", "curation-features process MANIFEST"),
        ("", "curation-features process MANIFEST"),
    ],
)
def test_an_unfinished_batch_is_code_2_with_a_remedy(library, batch, remedy) -> None:
    assert library.command("report", batch) == 2
    [line] = library.output.splitlines()
    assert "no finished features" in line
    assert remedy in line
    assert "\x1b" not in line


def test_damaged_features_are_code_1(library, page) -> None:
    page.with_suffix(".parquet").write_bytes(b"no table")
    assert library.command("report", "holiday") == 1
    assert "holiday.parquet: cannot be read" in library.output
