"""Loading, compared with open_clip's `create_model_from_pretrained`: numbers, types and preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import CHECKPOINT, PREPROCESS, RESNET, TEXT, VIT, weights_in, write_checkpoint
from PIL import Image

from curation_features.clip import loading
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.loading import ClipModel, load_tokenizer
from curation_features.devices.selection import Device
from curation_features.errors import InvalidWeightsError, WeightsError
from curation_features.weights import ClipWeights, Copies

CPU = Device("cpu", "fp32")

SIGLIP = {
    "custom_text": True,
    "init_logit_bias": -10,
    "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
}
COCA = {
    "custom_text": True,
    "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
SIGLIP_TOWER = {"timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": None, "image_size": 64}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 160}

MODELS = {
    "ViT": (VIT, {}),
    "ViT with quick GELU": (VIT, {"quick_gelu": True}),
    "ResNet": (RESNET, {}),
    "timm ViT": (TIMM, {}),
    "timm ConvNeXt": (CONVNEXT, {"custom_text": True}),
    "SigLIP": (SIGLIP_TOWER, SIGLIP),
    "CoCa": ({**VIT, "output_tokens": True}, COCA),
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory) -> Path:
    """A checkpoint of each kind of model."""
    vision, config = MODELS[request.param]
    return write_checkpoint(tmp_path_factory.mktemp("model"), vision, **config)


def reference(folder: Path, precision: str = "fp32"):
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}", precision=precision)
    return model.eval(), transform


def inputs(model: ClipModel, transform, weights: ClipWeights) -> tuple[torch.Tensor, torch.Tensor]:
    """A photo and some tokens."""
    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ours, theirs = (make(Image.fromarray(rgb)) for make in (model.transform, transform))
    assert torch.equal(ours, theirs)
    length = weights.config["model_cfg"]["text_cfg"]["context_length"]
    return ours[None], torch.randint(1, 64, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_tensor_is_open_clips_own_and_so_are_the_vectors(folder, precision, monkeypatch):
    monkeypatch.setattr(loading, "_linear_layer", lambda precision: None)  # it packs weights
    theirs, transform = reference(folder, precision)
    model = ClipModel(weights_in(folder), Device("cpu", precision))
    model.place("image")
    ours = model.place("text")
    for found, expected in (
        (ours.named_parameters, theirs.named_parameters),
        (ours.named_buffers, theirs.named_buffers),
    ):
        expected = {name: value for name, value in expected() if not name.startswith("text_decoder.")}
        found = {name: value for name, value in found() if not name.startswith("text_decoder.")}
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name].dtype, found[name].device) == (value.dtype, value.device), name
            assert torch.equal(found[name], value), name
    image, tokens = inputs(model, transform, weights_in(folder))
    if precision == "fp32":
        with torch.inference_mode():
            torch.testing.assert_close(ours.encode_image(image), theirs.encode_image(image), atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), atol=1e-6, rtol=1e-5)
    assert model.logit_scale == pytest.approx(100, rel=1e-6)


def test_only_the_tower_that_is_needed_is_in_place(folder):
    model = ClipModel(weights_in(folder), CPU)
    model.place("image")
    with_storage = {name for name, value in model.model.named_parameters() if not value.is_meta}
    assert with_storage == {name for name, _ in model.model.named_parameters() if name.startswith("visual.")}
    model.place("text")
    left = {name for name, value in model.model.named_parameters() if value.is_meta}
    assert all(name.startswith("text_decoder.") for name in left)


def test_labels_need_no_image_tower_and_photos_no_text_tower(clip_checkpoint):
    engine = OpenClipEngine(weights_in(clip_checkpoint), CPU)
    (model,) = engine._models.values()
    assert engine.dimension == 32
    assert all(value.is_meta for value in model.model.parameters())
    engine.encode_texts(["a cat"])
    assert all(value.is_meta for value in model.model.visual.parameters())
    engine = OpenClipEngine(weights_in(clip_checkpoint), CPU)
    (model,) = engine._models.values()
    engine.encode_images(np.zeros((1, 3, 32, 32), np.float32))
    assert all(value.is_meta for value in model.model.transformer.parameters())


def is_mapped(tensor: torch.Tensor, path: Path) -> bool:
    """Whether a tensor is in memory to which this process has mapped a file."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    ranges = ([int(end, 16) for end in line[0].split("-")] for line in lines if line[-1] == str(path))
    return any(start <= tensor.data_ptr() < end for start, end in ranges)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc/self/maps")
@pytest.mark.parametrize("name", [CHECKPOINT, "open_clip_pytorch_model.bin"])
def test_parameters_are_the_files_own_bytes(clip_checkpoint, tmp_path, name):
    path = as_file(clip_checkpoint, tmp_path / name)
    model = ClipModel(weights_in(tmp_path, name), CPU)
    for tower in ("image", "text"):
        model.place(tower)
    assert all(is_mapped(value, path) for value in model.model.parameters())


def as_file(folder: Path, path: Path, **options: bool) -> Path:
    """A checkpoint under another name, and in the format that goes with it."""
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        path.write_bytes((folder / CHECKPOINT).read_bytes())
    else:
        torch.save({"state_dict": load_file(folder / CHECKPOINT)}, path, **options)
    (path.parent / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    return path


@pytest.fixture
def copies(settings, tmp_path, monkeypatch) -> Copies:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return Copies(settings)


def test_a_checkpoint_that_cannot_be_mapped_has_a_copy_that_can(clip_checkpoint, tmp_path, copies):
    path = as_file(clip_checkpoint, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    expected = ClipModel(weights_in(clip_checkpoint), CPU).place("text").state_dict()
    ClipModel(weights_in(tmp_path, "old.bin"), CPU, copies)
    (copy,) = (tmp_path / "assets").rglob("*.safetensors")
    path.write_bytes(b"")  # not read again
    model = ClipModel(weights_in(tmp_path, "old.bin"), CPU, copies).place("text")
    assert is_mapped(model.ln_final.weight, copy)
    assert torch.equal(model.ln_final.weight, expected["ln_final.weight"])


def test_a_pickle_that_would_run_code_is_refused(tmp_path, clip_checkpoint, copies):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    for zipped in (True, False):
        path = as_file(clip_checkpoint, tmp_path / "open_clip_pytorch_model.bin")
        torch.save({"logit_scale": Hostile()}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InvalidWeightsError, match=r"cannot be used: .*eights"):
            OpenClipEngine(weights_in(tmp_path, path.name), CPU, copies)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("ln_final.bias"), "it lacks ln_final.bias"),
        (lambda state: state.update(extra=torch.ones(2)), "it holds extra, which the model has not"),
        (
            lambda state: state.update({"visual.proj": torch.ones(32, 8)}),
            r"it has visual.proj as \(32, 8\) instead of \(32, 32\)",
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if "visual" in name],
            "it lacks visual.*, and 1[0-9] more",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_by_its_tensors(clip_checkpoint, tmp_path, change, message):
    from safetensors.torch import load_file, save_file

    path = as_file(clip_checkpoint, tmp_path / CHECKPOINT)
    state = load_file(clip_checkpoint / CHECKPOINT)
    change(state)
    save_file(state, path)
    with pytest.raises(InvalidWeightsError, match=f"{path}.*cannot be used: {message}.*models pull"):
        OpenClipEngine(weights_in(tmp_path), CPU)


# --- tokenizers ---


@pytest.fixture
def tokenizer_folder(tmp_path) -> Path:
    """A SigLIP whose tokenizer knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = {**SIGLIP["text_cfg"], "hf_tokenizer_name": "org/words", "tokenizer_kwargs": {"clean": "canonicalize"}}
    folder = write_checkpoint(tmp_path / "siglip", SIGLIP_TOWER, **{**SIGLIP, "text_cfg": text})
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "photo": 3, "of": 4, "cat": 5}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def with_tokenizer(folder: Path) -> ClipWeights:
    found = weights_in(folder)
    return ClipWeights(found.source, found.path, found.sha256, found.config, folder)


@pytest.mark.long
def test_tokens_are_those_of_open_clips_tokenizer(tokenizer_folder, clip_checkpoint):
    import open_clip

    prompts = ["A photo of a cat!", "a photo of"]
    for weights in (with_tokenizer(tokenizer_folder), weights_in(clip_checkpoint)):
        expected = open_clip.get_tokenizer(weights.source)(prompts)
        assert torch.equal(load_tokenizer(weights)(prompts), expected)


@pytest.mark.long
def test_a_tokenizer_of_transformers_serves_an_engine(tokenizer_folder):
    model, _ = reference(tokenizer_folder)
    import open_clip

    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f"local-dir:{tokenizer_folder}")(["a photo of a cat"])
        expected = model.encode_text(tokens, normalize=True).numpy()
    engine = OpenClipEngine(with_tokenizer(tokenizer_folder), CPU)
    np.testing.assert_allclose(engine.encode_texts(["a photo of a cat"]), expected, atol=1e-6)


def test_truncation_by_a_transformers_tokenizer_is_reported(tokenizer_folder):
    engine = OpenClipEngine(with_tokenizer(tokenizer_folder), CPU)
    length = SIGLIP["text_cfg"]["context_length"]
    tokens, is_cut = engine.tokenize(["a cat", " ".join(["cat"] * length), " ".join(["cat"] * (length + 1))])
    assert tokens.shape == (3, length)
    assert is_cut.tolist() == [False, False, True]


@pytest.mark.long
def test_an_unreadable_tokenizer_is_an_error(tokenizer_folder, monkeypatch):
    engine = OpenClipEngine(with_tokenizer(tokenizer_folder), CPU)
    (tokenizer_folder / "tokenizer.json").write_text("<html>")
    with pytest.raises(InvalidWeightsError, match=str(tokenizer_folder)):
        engine.encode_texts(["a cat"])
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    engine = OpenClipEngine(with_tokenizer(tokenizer_folder), CPU)
    with pytest.raises(WeightsError, match=r"pip install 'curation-features\[transformers\]'"):
        engine.encode_texts(["a cat"])


def test_preprocessing_follows_the_checkpoints_own(tmp_path):
    folder = write_checkpoint(tmp_path / "squash", VIT)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {**PREPROCESS, "resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    _, transform = reference(folder)
    inputs(ClipModel(weights_in(folder), CPU), transform, weights_in(folder))
