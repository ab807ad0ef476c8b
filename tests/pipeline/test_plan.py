"""Plans: versions depend on the weights on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from curation_features.errors import InvalidWeightsError, MissingWeightsError
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.plan import ALL_PARTS

CLIP, CLIP_IQA, BRISQUE = "clip/open_clip_model.safetensors", "RN50.pt", "brisque_svm_weights.pt"


@pytest.fixture
def own(settings, clip_checkpoint: Path, rn50_archive: Path, brisque_regressor: Path):
    """Settings with user-supplied weights in the project."""
    shutil.copytree(clip_checkpoint, settings.root / "clip")
    shutil.copy(rn50_archive, settings.root / CLIP_IQA)
    shutil.copy(brisque_regressor, settings.root / BRISQUE)
    return settings.replace(model="local-dir:clip", clip_iqa_weights=CLIP_IQA, brisque_weights=BRISQUE, device="cpu")


def alter(path: Path) -> None:
    """Change one byte in the middle of a file; it stays well formed."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (CLIP, {"embedding", "labels"}),
        ("clip/open_clip_config.json", {"embedding", "labels"}),
        (CLIP_IQA, {"clip_iqa"}),
        (BRISQUE, {"brisque"}),
    ],
)
def test_changed_weights_change_the_versions_of_their_parts(own, file, parts) -> None:
    before = FeatureStages(own).plan(ALL_PARTS).versions
    assert before.keys() == ALL_PARTS
    if file.endswith(".json"):
        (own.root / file).write_text((own.root / file).read_text() + " ")
    else:
        alter(own.root / file)
    after = FeatureStages(own).plan(ALL_PARTS).versions
    assert {part for part in ALL_PARTS if before[part] != after[part]} == parts


def test_several_missing_models_are_one_error(own) -> None:
    absent = own.replace(model="local-dir:nowhere", clip_iqa_weights="nowhere.pt", brisque_weights="no.pt")
    with pytest.raises(MissingWeightsError) as caught:
        FeatureStages(absent).plan(ALL_PARTS)
    message = str(caught.value)
    assert "3 models" in message
    for name in ("CLIP local-dir:nowhere", "CLIP-IQA's RN50", "BRISQUE's regressor"):
        assert message.count(name) == 1
    shutil.rmtree(own.root / "clip")
    (own.root / CLIP_IQA).write_bytes(b"<html>")
    with pytest.raises(InvalidWeightsError, match="2 models"):
        FeatureStages(own).plan(ALL_PARTS)


def test_a_common_remedy_is_named_once(settings, tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="2 models") as caught:
        FeatureStages(settings).plan(ALL_PARTS)
    assert str(caught.value).count("curation-features models pull") == 1
