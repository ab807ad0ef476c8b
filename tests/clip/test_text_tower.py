"""The text tower without torch equals open_clip's, and so do its tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CHECKPOINT, TEXT, VIT, weights_in, write_checkpoint

from curation_features.clip import byte_pairs
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.text_tower import TextTower, can_read
from curation_features.devices.selection import select_device
from curation_features.errors import InvalidWeightsError
from curation_features.settings import Settings

open_clip = pytest.importorskip("open_clip")

TEXTS = ["two parrots", "", "Größe &amp; Café — 2½ m", "<end_of_text> x", "a very " * 60]


@pytest.mark.parametrize(
    "config",
    [{}, {"quick_gelu": True, "custom_text": True}, {"text_cfg": {**TEXT, "layers": 3, "heads": 4, "width": 64}}],
    ids=["plain", "quick", "deeper"],
)
def test_vectors_equal_those_of_open_clip(tmp_path: Path, config: dict[str, Any]) -> None:
    weights = weights_in(write_checkpoint(tmp_path, VIT, **config))
    assert can_read(weights)
    engine = OpenClipEngine(weights, select_device(Settings(root=tmp_path, device="cpu")))
    np.testing.assert_allclose(TextTower(weights).encode_texts(TEXTS), engine.encode_texts(TEXTS), atol=2e-6)


def test_tokens_equal_those_of_open_clip() -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    choose = random.Random(0)
    letters = "abc dE'sl  t\n019½é日ﬁİß&;<x—.!?🙂🏽\tǅ२" + "".join(map(chr, range(160, 12000, 41)))
    words = ["dog", "Golden", "don't", "they're", "<start_of_text>", "<END_OF_TEXT>", "3", "x9y", "naïve", "&amp;lt;"]
    texts = ["".join(choose.choices(letters, k=choose.randrange(50))) for _ in range(300)]
    texts += [" ".join(choose.choices(words, k=choose.randrange(9))) for _ in range(300)]
    for text, expected in zip(texts, tokenizer(texts).tolist(), strict=True):
        ids, is_long = byte_pairs.encode(text)
        assert [*ids, *[0] * (77 - len(ids))] == expected, text
        assert not is_long or len(ids) == 77


@pytest.mark.parametrize("text", [{"pool_type": "last"}, {"hf_model_name": "x"}, {"no_causal_mask": True}])
def test_another_architecture_is_left_to_open_clip(clip_checkpoint: Path, text: dict[str, Any]) -> None:
    weights = weights_in(clip_checkpoint)
    weights.config["model_cfg"]["text_cfg"].update(text)
    assert not can_read(weights)


def test_other_kinds_of_files_are_left_to_open_clip(clip_checkpoint: Path, tmp_path: Path) -> None:
    other = weights_in(clip_checkpoint, name=CHECKPOINT)
    (tmp_path / "model.pt").write_bytes(b"\x80\x02" * 100)
    assert not can_read(type(other)(other.source, tmp_path / "model.pt", other.sha256, other.config))


def test_a_checkpoint_with_other_shapes_is_refused(clip_checkpoint: Path) -> None:
    weights = weights_in(clip_checkpoint)
    weights.config["model_cfg"]["text_cfg"]["layers"] = 2
    with pytest.raises(InvalidWeightsError, match="does not fit"):
        TextTower(weights).encode_texts(["two parrots"])
