from __future__ import annotations

import re

import open_clip
import pytest

from curation_features.settings import DEFAULT_MODEL
from curation_features.weights.catalog import PUBLISHED_CLIPS
from curation_features.weights.sources import CHECKPOINT_FILES, model_source

DEFAULT = next(iter(PUBLISHED_CLIPS.values()))


def test_the_default_model_has_one_commit_and_one_digest(settings):
    source = model_source(settings)
    assert (source.published, source.revision) == (DEFAULT, DEFAULT.revision)
    assert DEFAULT.repo == DEFAULT_MODEL.removeprefix("hf-hub:")
    assert DEFAULT.sha256
    assert model_source(settings.replace(model="ViT-L-14/datacomp_xl_s13b_b90k")).published == DEFAULT


@pytest.mark.parametrize("clip", PUBLISHED_CLIPS.values(), ids=lambda clip: clip.repo)
def test_an_entry_is_complete_and_open_clip_knows_it(clip):
    listed = {open_clip.get_pretrained_cfg(*pair).get("hf_hub", "").rstrip("/") for pair in open_clip.list_pretrained()}
    assert clip.repo in listed
    assert re.fullmatch("[0-9a-f]{40}", clip.revision)
    assert re.fullmatch("[0-9a-f]{64}|", clip.sha256)
    assert clip.file in CHECKPOINT_FILES
    assert clip.licence
    assert clip.use
    assert 0.5 < clip.zero_shot < 0.9
    assert 100 < clip.megabytes < 2000


def test_a_given_revision_replaces_that_of_the_table(settings):
    source = model_source(settings.replace(model=f"{DEFAULT_MODEL}@main"))
    assert (source.revision, source.published) == ("main", None)


def test_gflop_of_the_default_follow_from_its_layers():
    """Multiplications of ViT-L/14 at 224 px, by hand: 24 layers, width 1024, 257 tokens, and the patches."""
    width, tokens, layers = 1024, 257, 24
    layer = 12 * width**2 * tokens + 2 * tokens**2 * width
    patches = 256 * 3 * 14 * 14 * width
    assert DEFAULT.gflop == pytest.approx(2 * (layers * layer + patches) / 1e9, rel=0.01)
