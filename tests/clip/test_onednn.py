"""The choice between torch's BLAS and oneDNN, and vectors in fp32 and bf16 compared with open_clip's."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from checkpoints import VIT, weights_in, write_checkpoint

from curation_features.clip import loading, onednn
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.linear import SelfAttention
from curation_features.clip.onednn import Bf16Linear, PackedLinear, packed_linear
from curation_features.devices.selection import Device

WIDE = {**VIT, "width": 128, "layers": 4, "head_width": 32}


@pytest.fixture(autouse=True)
def _forget():
    packed_linear.cache_clear()
    yield
    packed_linear.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path, WIDE)


def prefer(monkeypatch, onednn_is_faster: bool) -> None:
    monkeypatch.setattr(onednn, "is_avx512_amd", lambda: onednn_is_faster)


def pictures(engine: OpenClipEngine, count: int) -> np.ndarray:
    """Inputs of random pictures, each with its own contrast."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 50 + 40 * index, (40, 50, 3)).astype(np.uint8) for index in range(count)]
    return np.stack([engine.preprocess(image) for image in images])


def reference(folder, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of images and of two texts, of different length, by open_clip."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.inference_mode():
        texts = model.eval().encode_text(open_clip.tokenize(["a cat", "a very old house by the sea"]), normalize=True)
        return model.encode_image(torch.from_numpy(inputs), normalize=True), texts


def raw_norms(folder, inputs) -> np.ndarray:
    """Norms of open_clip's image vectors before normalisation."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.inference_mode():
        return model.eval().encode_image(torch.from_numpy(inputs), normalize=False).norm(dim=1).numpy()


@pytest.mark.parametrize("is_faster", [True, False])
def test_fp32_vectors_are_open_clips_with_either(folder, monkeypatch, is_faster):
    prefer(monkeypatch, is_faster)
    engine = OpenClipEngine(weights_in(folder), Device("cpu", "fp32"))
    inputs = pictures(engine, 4)
    images, texts = reference(folder, inputs)
    vectors, norms = engine.embed_images(inputs)
    torch.testing.assert_close(torch.from_numpy(vectors), images, atol=2e-6, rtol=0)
    np.testing.assert_allclose(norms, raw_norms(folder, inputs), rtol=1e-5)
    found = torch.from_numpy(engine.encode_texts(["a cat", "a very old house by the sea"]))
    torch.testing.assert_close(found, texts, atol=2e-6, rtol=0)
    model = engine._load_tower("image", engine.device)
    for blocks in (model.visual.transformer, model.transformer):
        replaced = [isinstance(module, SelfAttention) for module in blocks.modules()]
        assert any(replaced) == is_faster


def test_bf16_vectors_are_close_and_texts_exact(folder):
    engine = OpenClipEngine(weights_in(folder), Device("cpu", "bf16"))
    inputs = pictures(engine, 4)
    images, texts = reference(folder, inputs)
    vectors, norms = engine.embed_images(inputs)
    found = torch.from_numpy(vectors)
    cosines = torch.cosine_similarity(found, images)
    assert cosines.min() > 0.9999
    np.testing.assert_allclose(norms, raw_norms(folder, inputs), rtol=0.01)
    assert (found - images).abs().max() > 1e-6  # it is another computation
    found = torch.from_numpy(engine.encode_texts(["a cat", "a very old house by the sea"]))
    torch.testing.assert_close(found, texts, atol=2e-6, rtol=0)
    visual = engine._load_tower("image", engine.device).visual
    layers = [module for module in visual.transformer.modules() if isinstance(module, Bf16Linear)]
    assert len(layers) == 4 * WIDE["layers"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_photo_has_the_same_bits_alone(folder, monkeypatch, precision):
    prefer(monkeypatch, True)
    engine = OpenClipEngine(weights_in(folder), Device("cpu", precision))
    inputs = pictures(engine, 5)
    inputs[1] = inputs[0]
    together = engine.embed_images(inputs)
    for index in range(5):
        alone = engine.embed_images(inputs[index : index + 1])
        assert (alone.vectors[0] == together.vectors[index]).all()
        assert alone.norms[0] == together.norms[index]


def missing(*arguments):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")


def refusing(*arguments):
    raise RuntimeError("mkldnn::_linear_pointwise() expected at most 5 argument(s) but received 6")


class Wrong(PackedLinear):
    def forward(self, x):
        return super().forward(x) * 1.001


class Broken(PackedLinear):
    def forward(self, x):
        return super().forward(x) * torch.nan


@pytest.mark.parametrize("operator", [missing, refusing, Wrong, Broken])
def test_a_changed_operator_is_not_used(folder, monkeypatch, operator):
    prefer(monkeypatch, True)
    monkeypatch.setattr(onednn, "PackedLinear", operator)
    assert packed_linear() is None
    assert loading._linear_layer("fp32") is None
    engine = OpenClipEngine(weights_in(folder), Device("cpu", "fp32"))
    inputs = pictures(engine, 2)
    torch.testing.assert_close(torch.from_numpy(engine.encode_images(inputs)), reference(folder, inputs)[0])


@pytest.mark.parametrize("is_amd", [True, False])
def test_the_processor_alone_decides(monkeypatch, is_amd):
    prefer(monkeypatch, is_amd)
    assert (packed_linear() is not None) == is_amd
