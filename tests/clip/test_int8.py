"""8-bit layers, compared with torch's float32 layers within the error of rounding to 7 and 8 bits."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from checkpoints import RESNET, VIT, weights_in, write_checkpoint

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.int8 import Int8Linear
from curation_features.clip.vocabulary import load_vocabulary
from curation_features.devices.selection import Device
from curation_features.pipeline.plan import Models, make_plan
from curation_features.testing import FakeClipEngine
from curation_features.versions import text_version
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
    x = normal(random, 3, 5, 64) * torch.logspace(-3, 3, 5)[:, None] + torch.tensor([-50.0, 0, 50])[:, None, None]
    with torch.inference_mode():
        found, expected = Int8Linear(layer.weight, layer.bias)(x), layer(x)
        half_step_x = (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)) / 127 / 2
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


def test_a_row_does_not_depend_on_others(random):
    """With one range for all rows, a bright photo would blur the numbers of a dark one beside it."""
    layer = Int8Linear(normal(random, 32, 64), normal(random, 32))
    x = normal(random, 4, 64) * torch.tensor([1e-3, 1, 1e3, 0])[:, None]
    x[1, 3] = torch.nan
    with torch.inference_mode():
        together, alone = layer(x), torch.cat([layer(row[None]) for row in x])
    assert torch.equal(together[[0, 2, 3]], alone[[0, 2, 3]])
    assert together[1].isnan().all()


def test_large_values_of_one_sign_do_not_overflow():
    """With 8 bits of input, sums of two 16-bit products would."""
    layer = Int8Linear(torch.full((4, 64), 3.0), None)
    with torch.inference_mode():
        torch.testing.assert_close(layer(torch.full((2, 64), 5.0)), torch.full((2, 4), 64 * 15.0), rtol=1e-2, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("vision", [WIDE, TIMM], ids=["open_clip", "timm"])
def test_images_are_close_and_texts_equal(tmp_path, vision, caplog):
    weights = weights_in(write_checkpoint(tmp_path, vision))
    exact, fast = (OpenClipEngine(weights, device) for device in (Device("cpu", "fp32"), INT8))
    images = [np.random.default_rng(seed).integers(0, 256, (90, 90, 3), dtype=np.uint8) for seed in range(6)]
    batch = np.stack([exact.preprocess(image) for image in images])
    (found, norms), (expected, exact_norms) = fast.embed_images(batch), exact.embed_images(batch)
    np.testing.assert_allclose(norms, exact_norms, rtol=0.05)
    cosines = (found * expected).sum(1)
    assert cosines.min() > 0.99
    assert cosines.max() < 1 - 1e-7  # it is another computation
    assert fast.device == INT8
    np.testing.assert_array_equal(fast.encode_texts(["a cat"]), exact.encode_texts(["a cat"]))
    assert "falls back" not in caplog.text


def test_an_embedding_does_not_depend_on_its_batch(tmp_path):
    engine = OpenClipEngine(weights_in(write_checkpoint(tmp_path, WIDE)), INT8)
    batch = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    batch[1] = batch[0]  # a trial with equal photos would prove nothing
    batch[2] *= 50
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


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_version_of_all_but_texts_changes(settings, precision):
    settings = settings.replace(device="cpu")
    vocabulary, models = load_vocabulary(settings), Models(*[LazyModel.ready(None, "fake")] * 3)
    exact, fast = (
        make_plan(settings.replace(precision=one), models, vocabulary, ("clip_iqa", "embedding", "labels")).versions
        for one in ("fp32", precision)
    )
    assert all(exact[part] != fast[part] for part in ("clip_iqa", "embedding", "labels"))
    assert text_version(settings.replace(precision=precision)) == text_version(settings)


def test_int8_of_one_range_for_all_rows_is_another_version(settings):
    """Their vectors depended on the photo beside them."""
    earlier = settings.constants("embedding") | {"precision": "int8"}
    assert settings.replace(precision="int8").constants("embedding") != earlier
