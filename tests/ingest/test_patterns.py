"""Patterns with wildcards that no shell has expanded."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

import pytest

from curation_features.ingest.patterns import Expansion, fixed_part, is_pattern

FILES = "a.jpg b.JPG ab.jpg .h.jpg x/c.jpg x/y/d.jpg x/y/e.png x.z/f.jpg .i/g.jpg [1].jpg"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `FILES`."""
    for name in FILES.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expanded(pattern: str | Path, skipped: str = "") -> list[str]:
    errors: list[OSError] = []
    paths = Expansion(lambda _, name: name != skipped, errors.append).paths(Path(pattern))
    assert not errors
    return sorted({os.path.normpath(path) for path in paths})


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.jpg", "?.jpg", "[ab].jpg", "[!a]*.jpg", "*", ".*.jpg", "x/*.jpg", "x/*/*", "*/c.jpg", "*/*.jpg", "./x/*"),
        *("**/*.jpg", "**/y/*.jpg", "x/**/*.jpg", "**/d.jpg", "x*/**/?.jpg", "no*", "x/no*/*", "a.jpg/*", "*/../*.jpg"),
    ],
)
def test_matches_are_those_of_the_standard_library(folder: Path, pattern: str) -> None:
    for text in (pattern, str(folder / pattern)):
        expected = {os.path.normpath(path) for path in glob(text, recursive=True)}  # noqa: PTH207 (the reference)
        assert expanded(text) == sorted(expected)


def test_a_name_that_exists_precedes_the_pattern(folder: Path) -> None:
    (folder / "t[rip]").mkdir()
    (folder / "t[rip]" / "1.jpg").touch()
    (folder / "tr").mkdir()
    (folder / "tr" / "2.jpg").touch()
    assert (is_pattern(Path("[1].jpg")), is_pattern(Path("t[rip]"))) == (False, False)
    assert expanded("[1].jpg") == ["[1].jpg"]
    assert expanded("t[rip]/*.jpg") == ["t[rip]/1.jpg"]
    assert fixed_part(Path("t[rip]/*.jpg")) == Path("t[rip]")


def test_loops_of_links_end_and_skipped_folders_are_not_entered(folder: Path) -> None:
    (folder / "x" / "loop").symlink_to(folder)
    assert expanded("**/d.jpg", skipped="loop") == ["x/y/d.jpg"]
    assert expanded("*/loop/a.jpg", skipped="x") == []
    assert expanded("**/*.jpg", skipped="x") == ["[1].jpg", "a.jpg", "ab.jpg", "x.z/f.jpg"]


@pytest.mark.parametrize("pattern", ["*.jpg", "./*.jpg", "no/*", "**/a.jpg"])
def test_the_fixed_part_ends_before_the_first_wildcard(folder: Path, pattern: str) -> None:
    fixed = fixed_part(Path("x/y") / pattern)
    assert fixed == Path("x/y/no" if pattern.startswith("no") else "x/y")
    assert is_pattern(Path("x/y") / pattern)
    assert fixed_part(Path("x/y/d.jpg")) == Path("x/y/d.jpg")
