"""A small, seeded sample of the fuzzers, which try thousands of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import image_files
from images import Trial as Images
from images import numbered
from manifests import Trial as Manifests
from manifests import run

from curation_features.testing import FakeBrisque

SEED = 20260101


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    return {name: data for name, data in image_files().items() if name.startswith(("cat ", "moon "))}


@pytest.mark.long
def test_whole_images_are_measured(tmp_path: Path, whole: dict[str, bytes]) -> None:
    trial = Images(tmp_path, FakeBrisque())
    refused = {name: outcome for name, data in whole.items() if (outcome := trial(data)) != "measured"}
    assert refused == {}


@pytest.mark.long
def test_damaged_images_are_measured_or_refused_with_a_reason(tmp_path: Path, whole: dict[str, bytes]) -> None:
    trial = Images(tmp_path, FakeBrisque())
    outcomes = {trial(numbered(SEED, index, whole)[1]) for index in range(120)}
    assert {"measured", "truncated", "unreadable"} <= outcomes


@pytest.mark.long
def test_damaged_manifests_are_accepted_waited_for_or_refused(tmp_path: Path) -> None:
    assert run(150, SEED, Manifests(tmp_path)).keys() == {"accepted", "refused", "waits"}
