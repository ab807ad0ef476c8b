"""Compare the enriched batch with its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation_features.manifest import Batch, parse_json
from curation_features.verification.matching import (
    Key,
    PhotosOfFile,
    find_difference,
    find_non_finite,
    format_path,
    keys_of,
)
from curation_features.verification.record import feature_problems
from curation_features.verification.report import FINITE, IN_RANGE, UNCHANGED, Report, reading


def read_document(path: Path) -> Mapping[str, Any]:
    """Read the enriched batch. Raises `StoreError` if a consumer could not read it."""
    with reading(path):
        document = parse_json(path.read_bytes().decode())
        if not isinstance(document, dict) or not isinstance(document.get("artifacts"), list):
            raise ValueError("is not a JSON object with a list of artifacts")
        return document


def verify_document(batch: Batch, document: Mapping[str, Any], report: Report) -> dict[Key, Mapping[str, Any]]:
    """Check the JSON, and return the valid feature records."""
    valid: dict[Key, Mapping[str, Any]] = {}
    keys = keys_of(artifact.photo_id for artifact in batch.artifacts)
    accepted = dict(zip(keys, batch.document["artifacts"], strict=True))
    top = {**document, "artifacts": None}
    if problem := find_difference({**batch.document, "artifacts": None}, top):
        report.add(UNCHANGED, "top level", problem)
    for steps in find_non_finite(top):
        report.add(FINITE, "top level", f"{format_path(steps)}is not finite")
    photos = PhotosOfFile("artifacts[{}]", report)
    for artifact in document["artifacts"]:
        key = photos.add(artifact.get("photo_id") if isinstance(artifact, dict) else None)
        for steps in find_non_finite(artifact):
            photos.report(FINITE, f"{format_path(steps)}is not finite")
        if key not in accepted:
            continue
        if problem := find_difference(metadata_of(accepted[key]), metadata_of(artifact)):
            photos.report(UNCHANGED, problem)
        problems = feature_problems(artifact.get("features"))
        for problem in problems:
            photos.report(IN_RANGE, problem)
        if not problems:
            valid[key] = artifact["features"]
    photos.check_order(keys)
    return valid


def metadata_of(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact without `features`."""
    return {name: value for name, value in artifact.items() if name != "features"}
