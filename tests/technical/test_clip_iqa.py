from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import piq
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import InvalidWeightsError
from curation_features.technical.clip_iqa import ClipIqa, clip_iqa_model, load_clip_iqa, prompt_tokens
from curation_features.weights import ClipWeights, Copies, Weights

SIDE = 64


@pytest.fixture(scope="module")
def model(rn50_archive) -> ClipIqa:
    return load_clip_iqa(Weights("test", rn50_archive, ""), device="cpu", side=SIDE)


@pytest.fixture
def photos(bundled) -> list[np.ndarray]:
    return [bundled(name) for name in ("astronaut", "coffee", "moon")]


def tokens_of_open_clip() -> torch.Tensor:
    return open_clip.tokenizer.SimpleTokenizer()(["Good photo.", "Bad photo."])


def test_prompts_are_what_open_clip_makes_of_them():
    assert torch.equal(prompt_tokens(), tokens_of_open_clip())


def test_prompts_are_those_of_piq(shared_data):
    assert torch.equal(prompt_tokens(), torch.load(shared_data / "clip" / "clipiqa_tokens.pt", weights_only=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load")  # piq reads TorchScript unguarded
def test_score_is_that_of_piq(model, photos, rn50_archive, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / ".cache" / "clip"
    cache.mkdir(parents=True)
    shutil.copy(rn50_archive, cache / "RN50.pt")
    torch.save(tokens_of_open_clip(), cache / "clipiqa_tokens.pt")
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    expected = piq.CLIPIQA(data_range=1.0)(torch.from_numpy(batch))[:, 0].numpy()
    assert model.score(batch) == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected) > 0.01


def test_a_batch_gives_what_single_photos_give(model, photos):
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    assert model.score(batch) == pytest.approx([model.score(one[None])[0] for one in batch], abs=1e-6)
    assert model.score(batch).dtype == np.float64
    assert model.score(batch[:0]).shape == (0,)


def test_preprocessing_is_pillows_bicubic_without_rounding(model, photos):
    for rgb in photos:
        channels = [Image.fromarray(rgb[..., c].astype(np.float32)) for c in range(3)]
        resized = np.stack([np.asarray(c.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for c in channels])
        assert model.preprocess(rgb) == pytest.approx(np.clip(resized / 255, 0, 1), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 11), (3, 2), (64, 64), (200, 31)])
def test_inputs_are_in_range_where_bicubic_overshoots(model, shape):
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[:, shape[1] // 2 :] = 255
    inputs = model.preprocess(rgb)
    assert inputs.shape == (3, SIDE, SIDE)
    assert inputs.dtype == np.float32
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    assert 0 <= model.score(inputs[None])[0] <= 1


def test_a_read_only_photo_is_accepted(model, photos):
    photos[0].flags.writeable = False
    assert np.isfinite(model.preprocess(photos[0])).all()


def test_photos_resized_on_a_device_have_the_same_scores(model, photos, monkeypatch):
    expected = model.score(np.stack([model.preprocess(photo) for photo in photos]))
    monkeypatch.setattr(model, "_transfer", HostToDevice("cpu"))
    there = stacked([model.preprocess(photo) for photo in photos])
    assert isinstance(there, torch.Tensor)
    assert np.array_equal(model.score(there), expected)


def test_nan_in_one_photo_stays_there(model, photos):
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    clean = model.score(batch)
    batch[1] = np.nan
    assert np.isnan(model.score(batch)[1])
    assert np.array_equal(model.score(batch)[[0, 2]], clean[[0, 2]])


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_missing_operator_falls_back_to_the_cpu(model, photos, rn50_archive, caplog):
    """torch's `meta` device computes nothing, and reading a result from it is not implemented."""
    fallen = load_clip_iqa(Weights("test", rn50_archive, ""), device="meta", side=model.side)
    assert any(message.startswith("CLIP-IQA falls back to cpu: ") for message in caplog.messages)
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    assert np.array_equal(fallen.score(batch), model.score(batch))


def save_script(module: torch.nn.Module, path) -> None:
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(module), str(path))


def change_state(archive, path, name: str, value: float, *more: str) -> None:
    """Save the archive again with constant tensors."""
    change(archive, path, lambda state: [state[name].fill_(value) for name in (name, *more)])


def change(archive, path, change_state) -> None:
    """Save the archive again with another state."""
    with warnings.catch_warnings(action="ignore"):
        module = torch.jit.load(str(archive))
        change_state(module.state_dict())
        torch.jit.save(module, str(path))


# --- the copy ---


@pytest.fixture
def weights(rn50_archive, tmp_path) -> Weights:
    """A copy of the archive, which a test may change."""
    path = tmp_path / "RN50.pt"
    shutil.copy(rn50_archive, path)
    return Weights("test", path, "a" * 64)


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    """Folder of the copies."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "curation-features" / "weights" / "prepared"


@pytest.fixture
def load(settings, prepared) -> Callable[[Weights], ClipIqa]:
    """Loads the model like a new process."""
    return lambda weights: load_clip_iqa(weights, device="cpu", side=SIDE, copies=Copies(settings))


def scores(model: ClipIqa, photos: list[np.ndarray]) -> list[float]:
    return model.score(np.stack([model.preprocess(rgb) for rgb in photos])).tolist()


def test_the_first_load_and_later_ones_give_the_same_scores(model, load, weights, photos, caplog):
    assert scores(load(weights), photos) == scores(model, photos)
    assert scores(load(weights), photos) == scores(model, photos)
    assert caplog.messages == []


def test_later_loads_need_neither_the_original_nor_a_text_tower(load, weights, prepared, photos, monkeypatch):
    first = scores(load(weights), photos)
    (copy,) = prepared.glob("*.safetensors")
    names = load_file(copy).keys()
    assert {"anchors", "logit_scale", "visual.layer4.0.bn3.running_var"} <= names
    assert [name for name in names if not name.startswith("visual.")] == ["anchors", "logit_scale"]
    weights.path.write_text("no longer an archive")
    monkeypatch.delattr("piq.feature_extractors.clip.Transformer")
    assert scores(load(weights), photos) == first


def test_the_model_computes_with_the_mapped_tensors(load, weights, monkeypatch):
    load(weights)
    mapped: dict[str, torch.Tensor] = {}

    def map_file(path):
        mapped.update(load_file(path))
        return mapped

    monkeypatch.setattr("safetensors.torch.load_file", map_file)
    model = load(weights)
    tower = {f"visual.{name}": tensor.data_ptr() for name, tensor in model._visual.state_dict().items()}
    used = {**tower, "anchors": model._anchors.data_ptr(), "logit_scale": model._logit_scale.data_ptr()}
    assert used == {name: tensor.data_ptr() for name, tensor in mapped.items()}
    assert not model._visual.training


@pytest.mark.long
def test_other_weights_have_another_copy(load, weights, rn50_archive, photos, prepared):
    first = scores(load(weights), photos)
    change(rn50_archive, weights.path, lambda state: state["visual.conv1.weight"].mul_(2))
    other = scores(load(replace(weights, sha256="b" * 64)), photos)
    assert other != first
    assert scores(load(weights), photos) == first
    assert len(list(prepared.glob("*.safetensors"))) == 2


def alter(change_tensors: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Write other tensors to a copy, with their digest."""

    def write(copy: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(copy).items()}
        change_tensors(tensors)
        save_file(tensors, copy)
        copy.with_suffix(".sha256").write_text(hashlib.sha256(copy.read_bytes()).hexdigest())

    return write


@pytest.mark.long
@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda copy: copy.write_bytes(copy.read_bytes()[:-4] + b"1234"), "was altered"),
        (alter(lambda t: t["visual.layer2.0.conv1.weight"].view(-1)[5:6].fill_(torch.inf)), "not finite"),
        (alter(lambda t: t["visual.bn1.running_var"].fill_(torch.nan)), "not finite, in visual.bn1.running_var"),
        (alter(lambda t: [tensor.zero_() for tensor in t.values()]), "nothing but zeros"),
        (alter(lambda t: t.pop("visual.bn2.running_mean")), "lacks bn2.running_mean"),
        (alter(lambda t: t.pop("visual.layer1.0.conv1.weight")), "does not hold CLIP's ResNet"),
        (alter(lambda t: t.update({"visual.conv1.weight": torch.ones(3, 3, 3, 3)})), "conv1.weight as"),
        (alter(lambda t: t.update({"visual.more": torch.ones(1)})), "holds more, which"),
        (alter(lambda t: t.pop("anchors")), "lacks 'anchors'"),
        (alter(lambda t: t["anchors"].mul_(2)), "not of unit norm"),
        (alter(lambda t: t.update(anchors=torch.eye(2))), r"anchors are \(2, 2\)"),
        (alter(lambda t: t["visual.bn1.weight"].fill_(3e38)), "gives nan for a plain gradient"),
    ],
    ids=[
        "bytes",
        "inf",
        "nan",
        "zeros",
        "buffer",
        "stem",
        "shape",
        "more",
        "no_anchors",
        "norm",
        "anchors",
        "self_test",
    ],
)
def test_a_wrong_copy_is_recomputed_with_a_warning(model, load, weights, photos, prepared, write, cause, caplog):
    load(weights)
    (copy,) = prepared.glob("*.safetensors")
    data = copy.read_bytes()
    write(copy)
    assert scores(load(weights), photos) == scores(model, photos)
    (message,) = caplog.messages
    assert re.search(cause, message)
    assert "is replaced" in message
    assert copy.read_bytes() == data


def test_a_copy_that_cannot_be_written_is_a_warning(model, load, weights, photos, prepared, caplog):
    prepared.parent.mkdir(parents=True)
    prepared.write_text("a file in place of the folder")
    assert scores(load(weights), photos) == scores(model, photos)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_open_clip_checkpoint_gives_the_same_scores(model, load, rn50_checkpoint, photos):
    weights = ClipWeights("hf-hub:org/rn50", rn50_checkpoint, "c" * 64, {})
    assert scores(load(weights), photos) == scores(model, photos)
    assert scores(load(weights), photos) == scores(model, photos)


def test_the_model_of_a_project_keeps_its_copy(model, settings, weights, photos, prepared):
    settings = settings.replace(clip_iqa_weights=str(weights.path), clip_iqa_side=SIDE, device="cpu")
    assert scores(clip_iqa_model(settings).get(), photos) == scores(model, photos)
    (copy,) = prepared.glob("*.safetensors")
    assert hashlib.sha256(weights.path.read_bytes()).hexdigest() in copy.name
    made = copy.stat().st_mtime_ns
    assert scores(clip_iqa_model(settings).get(), photos) == scores(model, photos)
    assert copy.stat().st_mtime_ns == made


# --- wrong files ---


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda path, _: path.write_text("<!DOCTYPE html>"), "cannot be read"),
        (lambda path, _: None, "cannot be read"),
        (lambda path, archive: path.write_bytes(archive.read_bytes()[:-1000]), "cannot be read"),
        (lambda path, _: torch.save({"visual.conv1.weight": torch.ones(1)}, path), "cannot be read"),
        (lambda path, _: save_script(torch.nn.Linear(2, 2), path), "does not hold CLIP"),
        (
            lambda path, archive: change_state(archive, path, "visual.conv1.weight", torch.nan),
            "not finite, in visual.conv1",
        ),
        (
            lambda path, archive: change_state(archive, path, "ln_final.weight", torch.inf),
            "not finite, in ln_final.weight",
        ),
        (
            lambda path, archive: change_state(archive, path, "visual.bn1.weight", 3e38),
            "gives nan for a plain gradient",
        ),
        (lambda path, archive: change_state(archive, path, "logit_scale", 1e4), "not finite, in logit_scale"),
        (lambda path, archive: change_state(archive, path, "ln_final.weight", 0, "ln_final.bias"), "in anchors"),
    ],
    ids=["html", "missing", "truncated", "no_script", "other_model", "nan", "inf", "overflow", "scale", "anchors"],
)
def test_files_that_are_not_the_archive(load, prepared, tmp_path, rn50_archive, write, cause):
    path = tmp_path / "RN50.pt"
    write(path, rn50_archive)
    refused(load, path, cause)
    assert not list(prepared.glob("*.safetensors"))


def change_checkpoint(
    path: Path, checkpoint: Path, change_tensors: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    """Save the checkpoint again with other tensors."""
    tensors = load_file(checkpoint)
    change_tensors(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda path, _: path.write_text("<!DOCTYPE html>"), "cannot be read as safetensors"),
        (lambda path, _: path.write_bytes(pickle.dumps({"visual.conv1.weight": 1})), "cannot be read as safetensors"),
        (lambda path, checkpoint: path.write_bytes(checkpoint.read_bytes()[:-1000]), "cannot be read as safetensors"),
        (lambda path, _: save_file({"visual.trunk.conv1.weight": torch.ones(1)}, path), "does not hold CLIP"),
        (
            lambda path, checkpoint: change_checkpoint(path, checkpoint, lambda t: t.pop("ln_final.bias")),
            "does not fit CLIP RN50: .*ln_final.bias",
        ),
        (
            lambda path, checkpoint: change_checkpoint(
                path, checkpoint, lambda t: t["visual.bn1.bias"].fill_(torch.nan)
            ),
            "not finite, in visual.bn1.bias",
        ),
        (
            lambda path, checkpoint: change_checkpoint(path, checkpoint, lambda t: [x.zero_() for x in t.values()]),
            "nothing but zeros",
        ),
    ],
    ids=["html", "pickle", "truncated", "other_model", "no_bias", "nan", "zeros"],
)
def test_files_that_are_not_the_checkpoint(load, prepared, tmp_path, rn50_checkpoint, write, cause):
    path = tmp_path / "open_clip_model.safetensors"
    write(path, rn50_checkpoint)
    refused(load, path, cause)
    assert not list(prepared.glob("*.safetensors"))


def refused(load: Callable[[Weights], ClipIqa], path: Path, cause: str) -> None:
    """Loading fails; the error names the file, the cause and the remedy."""
    with pytest.raises(InvalidWeightsError, match=cause) as caught:
        load(Weights("test", path, "d" * 64))
    assert str(path) in caught.value.summary
    assert "\n" not in caught.value.summary
    assert "run `curation-features models pull`" in caught.value.remedy
    assert "CURATION_FEATURES_CLIP_IQA_WEIGHTS" in caught.value.remedy
