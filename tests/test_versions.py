"""Versions: each input changes the parts that depend on it, and no other."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from curation_features import versions
from curation_features.schema import FINGERPRINT, SIGNAL_PARTS
from curation_features.settings import SPECS, Settings
from curation_features.versions import PARTS, part_version


def all_versions(settings: Settings, model: str = "m") -> dict[str, str]:
    return {part: part_version(part, settings, model) for part in PARTS}


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {part for part in PARTS if one[part] != other[part]}


CHANGES = {
    "preview_side": (256, {"sharpness", "exposure", "noise"}),
    "sharpness_scale": (1.0, {"sharpness"}),
    "clip_low": (1, {"exposure"}),
    "clip_high": (250, {"exposure"}),
    "noise_sigma_max": (0.5, {"noise"}),
    "clip_iqa_side": (224, {"clip_iqa"}),
    "brisque_side": (512, {"brisque"}),
    "model": ("local-dir:x", {"embedding"}),
    "precision": ("fp16", {"embedding"}),
    "temperature": (1.0, {"labels"}),
}


def test_every_setting_that_affects_a_part_is_tried_here() -> None:
    affecting = {spec.name for spec in SPECS.values() if PARTS.keys() & {*spec.metadata["affects"]}}
    assert affecting == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_the_parts_that_it_decides(settings: Settings, name: str) -> None:
    value, parts = CHANGES[name]
    assert changed(all_versions(settings), all_versions(settings.replace(**{name: value}))) == parts


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "fp16"), ("mps", "fp16")])
def test_an_automatic_precision_is_that_of_its_device(settings: Settings, device: str, precision: str) -> None:
    told = settings.replace(device=device, precision=precision)
    assert all_versions(settings.replace(device=device)) == all_versions(told)


@pytest.mark.parametrize(
    ("library", "parts"),
    [
        ("pillow", set(PARTS) - {"labels"}),
        ("opencv-python", {"sharpness", "exposure", "noise", "brisque", "clip_iqa", FINGERPRINT, *SIGNAL_PARTS}),
        ("piq", {"brisque", "clip_iqa"}),
        ("torch", {"brisque", "clip_iqa", "embedding"}),
        ("open_clip_torch", {"embedding"}),
    ],
)
def test_a_library_release_changes_what_it_computes(settings, monkeypatch, library, parts) -> None:
    before = all_versions(settings)
    release = versions._read_release
    monkeypatch.setattr(versions, "_read_release", lambda name: "99.0" if name == library else release(name))
    assert changed(before, all_versions(settings)) == parts


def test_the_libraries_are_installed_under_these_names() -> None:
    assert all(versions._read_release(name) for names in versions.LIBRARIES.values() for name in names)


def test_other_weights_and_algorithms_are_other_versions(settings, monkeypatch) -> None:
    before = all_versions(settings)
    assert changed(before, all_versions(settings, "n")) == set(PARTS)
    monkeypatch.setattr(versions, "ALGORITHMS", {**versions.ALGORITHMS, "noise": 2})
    assert changed(before, all_versions(settings)) == {"noise"}


def test_both_builds_of_opencv_give_one_version(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    both = []
    for absent in ("opencv-python", "opencv-python-headless"):

        def version(name: str, absent: str = absent) -> str:
            if name == absent:
                raise PackageNotFoundError(name)
            return "5.0.0"

        monkeypatch.setattr(versions, "version", version)
        versions._read_release.cache_clear()
        both.append(all_versions(settings))
    versions._read_release.cache_clear()
    assert both[0] == both[1]
