"""`gather`: its output, exit codes and options."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
from gathering import photo, rewrite, rows_in, table_path, vectors_path, write

from curation_features.cli import main
from curation_features.settings import Settings


@pytest.fixture
def project(settings: Settings) -> Settings:
    """Finished batches `a` and `b`, with a photo in both, and one that is not finished."""
    write(settings, "a", photo("a0"), photo("both"))
    write(settings, "b", photo("both"), "gone", photo("b0"), clip="other")
    (settings.data_path / "manifests").mkdir()
    (settings.data_path / "manifests" / "c.json").write_text("{}")
    return settings


def run(settings: Settings, *arguments: str, code: int = 0) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        assert main(["--root", str(settings.root), "gather", str(settings.root / "all"), *arguments]) == code
    return output.getvalue()


def run_json(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(settings, *arguments, "--json", code=code))
    return found


def test_the_outcome_as_json_and_text(project) -> None:
    found = run_json(project, "--embeddings")
    files = list((project.root / "all").glob("*/*.parquet"))
    assert found.pop("seconds") >= 0
    assert found == {
        "output": str(project.root / "all"), "rows": 5, "batches": {"a": 2, "b": 3}, "embeddings": 4, "dimension": 4,
        "versions": {
            "technical": {"t": 5}, "clip": {"other": 3, "c": 2}, "signals": {"s": 5}, "groups": {"g": 5},
            "embedding": {"1-abc": 4},
        },
        "other_versions": {}, "copies": 0, "unfinished": ["c"], "failed": {}, "files": 2,
        "bytes": sum(file.stat().st_size for file in files), "unchanged": False,
    }  # fmt: skip
    lines = run(project, "--embeddings").splitlines()
    assert lines[:2] == [
        "2 versions of labels: other (3 rows), c (2 rows); compare only rows of one version",
        "skipped: c: not finished",
    ]
    assert lines[2].startswith(f"{project.root}/all: 5 rows of 2 batches, 4 embeddings of 4 numbers; 2 files, ")
    assert lines[2].endswith("; nothing has changed")


def test_a_damaged_batch_is_named_and_the_code_is_1(project, capsys) -> None:
    path = table_path(project, "b")
    path.write_bytes(b"PAR1")
    found = run_json(project, code=1)
    assert found["rows"] == 2
    assert found["error"]["kind"] == "store"
    assert str(path) in found["failed"]["b"] == found["error"]["message"]
    assert "skipped: b: damaged" in run(project, code=1)
    assert str(path) in capsys.readouterr().err


def test_options_reach_the_dataset(project) -> None:
    rewrite(vectors_path(project, "a"), version="2-x")
    options = ["--embeddings", "--float16", "--distinct", "--without", "artifact", "--without", "errors"]
    text = run(project, *options, "--version", "1-abc", "--rows-per-file", "1", "--mb-per-file", "3")
    assert "left out: embeddings of version 2-x, of 1 batch" in text
    assert "left out: 1 row of photos that an earlier row has" in text
    assert len(list((project.root / "all" / "features").iterdir())) == 4
    (columns,) = {len(row) for row in rows_in(project.root / "all/features/*.parquet")}
    assert len(rows_in(table_path(project, "a"))[0]) - 2 == columns
    record = json.loads((project.root / "all" / "_dataset.json").read_bytes())
    assert record["options"] == {
        "layout": "parquet", "embeddings": True, "float16": True, "version": "1-abc", "mixed": False, "distinct": True,
        "without": ["artifact", "errors"], "rows_per_file": 1, "bytes_per_file": 3_000_000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["aa"], "did you mean 'a'?"),
        (["c"], "batch 'c' has no finished features"),
        (["--float16"], "add --embeddings"),
        (["--rows-per-file", "0"], "whole number of 1 or more"),
        (["--layout", "csv"], "invalid choice"),
    ],
)
def test_wrong_usage_writes_nothing(project, arguments: list[str], named: str) -> None:
    assert named in run_json(project, *arguments, code=2)["error"]["message"]
    assert not (project.root / "all").exists()
