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
from pictures import encoded
from projects import Project, project_at

PHOTOSHOP = b"8BPS\0\1" + bytes(64)
REASONS = {"cut.jpg": "truncated", "empty.jpg": "unreadable", "edited.jpg": "unsupported_format"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with photos in a folder outside; three of the four are unreadable."""
    outside = tmp_path_factory.mktemp("camera")
    whole = encoded(np.random.default_rng(0).integers(90, 160, (48, 64, 3), dtype=np.uint8))
    files = {"whole.jpg": whole, "cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "edited.jpg": PHOTOSHOP}
    for name, data in files.items():
        (outside / name).write_bytes(data)
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
    in_json = [{**artifact, **artifact["features"]} for artifact in document["artifacts"]]
    for rows in (in_json, pq.read_table(features(project, "parquet")).to_pylist()):
        found = {Path(row["original_uri"]).name: [error["reason"] for error in row["errors"]] for row in rows}
        assert found == {"whole.jpg": [], **{name: [reason] for name, reason in REASONS.items()}}
    assert "photo_roots" not in str(in_json)


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
