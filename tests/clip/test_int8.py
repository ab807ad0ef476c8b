"""8-bit layers, compared with torch's float32 layers within the error of rounding to 7 and 8 bits."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from checkpoints import RESNET, VIT, weights_in, write_checkpoint

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.int8 import Int8Linear, Int8SelfAttention
from curation_features.clip.vocabulary import load_vocabulary
from curation_features.devices.selection import Device, select_device
from curation_features.errors import SettingsError
from curation_features.pipeline.plan import Models, make_plan
from curation_features.testing import FakeClipEngine
from curation_features.versions import part_version, text_version
from curation_features.weights import LazyModel

INT8 = Device("cpu", "int8")
WIDE = {**VIT, "width": 128, "layers": 4, "head_width": 32}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(random: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=random)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_off_by_no_more_than_its_rounding(random, bias):
    layer = torch.nn.Linear(64, 48, bias=bias)
    x = normal(random, 3, 5, 64)
    with torch.inference_mode():
        found, expected = Int8Linear(layer.weight, layer.bias)(x), layer(x)
        half_step_x = (max(x.max(), 0) - min(x.min(), 0)) / 127 / 2
        half_step_w = layer.weight.abs().amax(1) / 127 / 2
        # |xw - x'w'| <= |x - x'| |w| + |x'| |w - w'|, summed over the inputs
        bound = half_step_x * layer.weight.abs().sum(1) + (x.abs() + half_step_x).sum(-1, keepdim=True) * half_step_w
    assert found.shape == expected.shape
    assert (found - expected).abs().le(bound * 1.01).all()
    assert (found - expected).abs().max() > 0


def test_weights_may_differ_in_scale_by_channel(random):
    weight = normal(random, 8, 64) * torch.logspace(-4, 4, 8)[:, None]
    weight[3] = 0
    x = normal(random, 4, 64)
    with torch.inference_mode():
        found, expected = Int8Linear(weight, None)(x), x @ weight.T
    assert (found[:, 3] == 0).all()
    others = [0, 1, 2, 4, 5, 6, 7]
    cosines = torch.cosine_similarity(found[:, others], expected[:, others], dim=0)
    assert cosines.min() > 0.999


def test_large_values_of_one_sign_do_not_overflow():
    """With 8 bits of input, sums of two 16-bit products would."""
    layer = Int8Linear(torch.full((4, 64), 3.0), None)
    with torch.inference_mode():
        torch.testing.assert_close(layer(torch.full((2, 64), 5.0)), torch.full((2, 4), 64 * 15.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_torchs(random, masked):
    theirs = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()
    x = normal(random, 2, 7, 64)
    mask = torch.full((7, 7), -torch.inf).triu(1) if masked else None
    with torch.inference_mode():
        found, _ = Int8SelfAttention(theirs)(x, x, x, need_weights=False, attn_mask=mask)
        expected, _ = theirs(x, x, x, need_weights=False, attn_mask=mask)
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.99
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    with pytest.raises(RuntimeError, match="self-attention"):
        Int8SelfAttention(theirs)(x, x.clone(), x)


@pytest.mark.long
@pytest.mark.parametrize("vision", [WIDE, TIMM], ids=["open_clip", "timm"])
def test_images_are_close_and_texts_equal(tmp_path, vision, caplog):
    weights = weights_in(write_checkpoint(tmp_path, vision))
    exact, fast = (OpenClipEngine(weights, device) for device in (Device("cpu", "fp32"), INT8))
    images = [np.random.default_rng(seed).integers(0, 256, (90, 90, 3), dtype=np.uint8) for seed in range(6)]
    batch = np.stack([exact.preprocess(image) for image in images])
    found, expected = fast.encode_images(batch), exact.encode_images(batch)
    cosines = (found * expected).sum(1)
    assert cosines.min() > 0.99
    assert cosines.max() < 1 - 1e-7  # it is another computation
    assert fast.device == INT8
    np.testing.assert_array_equal(fast.encode_texts(["a cat"]), exact.encode_texts(["a cat"]))
    assert "falls back" not in caplog.text


def test_an_embedding_does_not_depend_on_its_batch(tmp_path):
    engine = OpenClipEngine(weights_in(write_checkpoint(tmp_path, WIDE)), INT8)
    batch = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    batch[1] *= 50
    together = engine.encode_images(batch)
    for index in range(3):
        assert np.array_equal(engine.encode_images(batch[index : index + 1])[0], together[index])


def test_a_convolutional_tower_stays_unchanged(tmp_path, caplog):
    weights = weights_in(write_checkpoint(tmp_path, RESNET))
    exact, fast = (OpenClipEngine(weights, device) for device in (Device("cpu", "fp32"), INT8))
    batch = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    with caplog.at_level(logging.WARNING):
        found = fast.encode_images(batch)
    assert np.array_equal(found, exact.encode_images(batch))
    [message] = caplog.messages
    assert "int8 has no effect" in message


def test_int8_is_for_the_cpu(settings):
    settings = settings.replace(precision="int8")
    assert select_device(settings, lambda name: name == "cpu") == INT8
    assert select_device(settings.replace(device="cpu"), lambda name: True) == INT8
    with pytest.raises(SettingsError, match="int8 runs only on the CPU, but the device is cuda"):
        select_device(settings, lambda name: name == "cuda")


def test_int8_recomputes_no_label_embeddings(settings):
    """Texts stay in float32, by settings or by device."""
    engine = FakeClipEngine()

    def encoded(**changes):
        before = engine.texts_encoded
        CLIPClassifier(settings.replace(**changes), engine=LazyModel.ready(engine, "fake")).label_embeddings()
        return engine.texts_encoded - before

    assert [encoded(), encoded(precision="int8")] == [300, 0]
    on_cpu = [encoded(device="cpu", precision=precision) for precision in ("fp32", "int8", "auto", "fp16", "int8")]
    assert on_cpu == [300, 0, 0, 300, 300]


def test_int8_changes_the_version_of_labels_not_of_texts(settings):
    settings = settings.replace(device="cpu")
    vocabulary, models = load_vocabulary(settings), Models(*[LazyModel.ready(None, "fake")] * 3)
    exact, fast = (
        make_plan(settings.replace(precision=precision), models, vocabulary, ("embedding", "labels")).versions
        for precision in ("fp32", "int8")
    )
    assert exact["embedding"] != fast["embedding"]
    assert exact["labels"] != fast["labels"]
    assert part_version("clip_iqa", settings.replace(precision="int8")) == part_version("clip_iqa", settings)
    assert text_version(settings.replace(precision="int8")) == text_version(settings)
