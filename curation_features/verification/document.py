"""The enriched batch, held against its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation_features.manifest import Batch
from curation_features.verification.matching import Key, Steps, differences, keys_of, non_finite, sequence_problems
from curation_features.verification.reading import parsed, reading
from curation_features.verification.record import feature_problems
from curation_features.verification.report import COMPLETE, FINITE, IN_RANGE, UNCHANGED, Report
from curation_features.verification.text import path_text, photo_text


def read_document(path: Path) -> Mapping[str, Any]:
    """The enriched batch. Raises `StoreError` where a consumer could not read it."""
    with reading(path):
        document = parsed(path.read_bytes().decode())
        if not isinstance(document, dict) or not isinstance(document.get("artifacts"), list):
            raise ValueError("is no JSON object with a list of artifacts")
        return document


def verify_document(batch: Batch, document: Mapping[str, Any], report: Report) -> dict[Key, Mapping[str, Any]]:
    """Check the JSON; returns the features that are as they should be."""
    sound: dict[Key, Mapping[str, Any]] = {}
    keys = keys_of(artifact.photo_id for artifact in batch.artifacts)
    manifest = dict(zip(keys, batch.document["artifacts"], strict=True))
    found = keys_of(
        artifact.get("photo_id") if isinstance(artifact, dict) else None for artifact in document["artifacts"]
    )
    for key, index, problem in sequence_problems(keys, found):
        report.add(COMPLETE, f"artifacts[{index}] ({photo_text(key)})", problem)
    for field, problem in differences({**batch.document, "artifacts": None}, {**document, "artifacts": None}):
        report.add(UNCHANGED, "top level", f"{field}{problem}")
    for position, (key, artifact) in enumerate(zip(found, document["artifacts"], strict=True)):
        if key not in manifest:
            continue
        place = f"artifacts[{position}] ({photo_text(key)})"
        for field, problem in differences(metadata_of(manifest[key]), metadata_of(artifact)):
            report.add(UNCHANGED, place, f"{field}{problem}")
        problems = list(feature_problems(artifact.get("features")))
        for problem in problems:
            report.add(IN_RANGE, place, problem)
        if not problems:
            sound[key] = artifact["features"]
    for steps in non_finite(document):
        report.add(FINITE, *_placed(steps, found))
    return sound


def _placed(steps: Steps, found: Sequence[Key]) -> tuple[str, str]:
    """Where a number that is not finite lies, and that it is one."""
    if len(steps) > 1 and steps[0] == "artifacts" and isinstance(steps[1], int):
        return f"artifacts[{steps[1]}] ({photo_text(found[steps[1]])})", f"{path_text(steps[2:])}is not finite"
    return "top level", f"{path_text(steps)}is not finite"


def metadata_of(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact without what this package adds."""
    return {name: value for name, value in artifact.items() if name != "features"}
