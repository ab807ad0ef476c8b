"""Photos that `ingest` cannot read: the reason is shown in every output of the pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from projects import Project, project_at

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
REASONS = {"cut.jpg": "truncated", "empty.jpg": "unreadable", "phone.jpg": "unsupported_format"}


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(90, 160, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with photos in a folder outside; three of the four are unreadable."""
    outside = tmp_path_factory.mktemp("camera")
    whole = photo(outside / "whole.jpg").read_bytes()
    (outside / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (outside / "empty.jpg").touch()
    (outside / "phone.jpg").write_bytes(HEIC)
    with project_at(tmp_path_factory.mktemp("project")) as found:
        assert found.command("ingest", str(outside), "--batch-id", "trip") == 0
        assert found.command("process", str(found.manifest_path("trip"))) == 0
        assert found.command("materialize", str(found.manifest_path("trip"))) == 0
        yield found


def features(project: Project, suffix: str) -> Path:
    return project.settings.data_path / "features" / f"trip.{suffix}"


@pytest.mark.long
def test_the_reason_is_in_json_and_table(project) -> None:
    document = json.loads(features(project, "json").read_bytes())
    found = {Path(a["original_uri"]).name: a["features"] for a in document["artifacts"]}
    assert found.pop("whole.jpg")["status"] == "ok"
    assert {name: [error["reason"] for error in record["errors"]] for name, record in found.items()} == {
        name: [reason] for name, reason in REASONS.items()
    }
    assert "photo_roots" not in str(found)
    rows = pq.read_table(features(project, "parquet")).to_pylist()
    in_table = {Path(row["original_uri"]).name: [error["reason"] for error in row["errors"]] for row in rows}
    assert in_table == {"whole.jpg": [], **{name: [reason] for name, reason in REASONS.items()}}


@pytest.mark.long
def test_the_reason_is_on_the_page_and_the_terminal(project) -> None:
    page, said = features(project, "html").read_text(), project.terminal.getvalue()
    assert "forbidden_path" not in said
    for reason in REASONS.values():
        assert f'["photo","{reason}",' in page.replace(" ", "")
        assert f"1 x photo: {reason}" in said


def test_the_reason_is_in_dagster(project) -> None:
    with project.instance() as instance:
        record, *_ = instance.fetch_materializations(dg.AssetKey("features"), limit=5).records
    metadata: Any = record.asset_materialization.metadata
    failed = {row.data["photo"]: row.data["reason"] for row in metadata["failed_photos"].records}
    assert failed == REASONS
    assert not re.search("forbidden_path|photo_roots", str([metadata[name] for name in ("errors", "failed_photos")]))
