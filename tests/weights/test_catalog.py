from __future__ import annotations

import re
from dataclasses import replace

import pytest

from curation_features.settings import DEFAULT_MODEL
from curation_features.weights import sources
from curation_features.weights.catalog import PUBLISHED_CLIPS
from curation_features.weights.sources import CHECKPOINT_FILES, model_source


def test_the_default_model_is_first_and_is_one_commit_and_one_digest(settings):
    source = model_source(settings)
    assert source.published == next(iter(PUBLISHED_CLIPS.values()))
    assert source.published.repo == DEFAULT_MODEL.removeprefix("hf-hub:")
    assert source.revision == source.published.revision
    assert source.published.sha256


@pytest.mark.parametrize("clip", PUBLISHED_CLIPS.values(), ids=lambda clip: clip.repo)
def test_every_entry_is_whole_and_is_a_repository_that_open_clip_knows(clip):
    import open_clip

    listed = {open_clip.get_pretrained_cfg(*pair).get("hf_hub", "").rstrip("/") for pair in open_clip.list_pretrained()}
    assert clip.repo in listed
    assert re.fullmatch("[0-9a-f]{40}", clip.revision)
    assert re.fullmatch("[0-9a-f]{64}|", clip.sha256)
    assert clip.file in CHECKPOINT_FILES
    assert clip.licence
    assert clip.use
    assert 0.5 < clip.zero_shot < 0.9
    assert 100 < clip.megabytes < 2000


def test_a_revision_of_ones_own_beats_the_tables(settings):
    source = model_source(settings.replace(model=f"{DEFAULT_MODEL}@main"))
    assert (source.revision, source.published) == ("main", None)


def test_a_name_and_tag_of_a_published_repository_is_the_same_commit(settings):
    source = model_source(settings.replace(model="ViT-L-14/datacomp_xl_s13b_b90k"))
    assert source.published == model_source(settings).published


def test_gflop_of_the_default_is_what_its_layers_need():
    """Multiplications of ViT-L/14 at 224 px, by hand: 24 layers, width 1024, 257 tokens, and the patches."""
    width, tokens, layers = 1024, 257, 24
    layer = 12 * width**2 * tokens + 2 * tokens**2 * width
    patches = 256 * 3 * 14 * 14 * width
    total = 2 * (layers * layer + patches) / 1e9
    assert next(iter(PUBLISHED_CLIPS.values())).gflop == pytest.approx(total, rel=0.01)


def test_the_table_can_be_extended_by_an_entry(settings, monkeypatch):
    entry = replace(next(iter(PUBLISHED_CLIPS.values())), repo="org/model", revision="a" * 40)
    monkeypatch.setattr(sources, "PUBLISHED_CLIPS", {"org/model": entry})
    assert model_source(settings.replace(model="hf-hub:org/model")).revision == "a" * 40
    assert model_source(settings.replace(model="hf-hub:org/other")).revision == "main"
