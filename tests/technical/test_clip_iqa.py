from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import piq
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from curation_features.devices.selection import Device
from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import InvalidWeightsError
from curation_features.technical.clip_iqa import ClipIqa, clip_iqa_model, load_clip_iqa, prompt_tokens
from curation_features.weights import Copies, Weights

SIDE = 64
CPU = Device("cpu", "fp32")


@pytest.fixture(scope="module")
def model(rn50_archive) -> ClipIqa:
    return load_clip_iqa(Weights("test", rn50_archive, ""), device=CPU, side=SIDE)


@pytest.fixture
def photos(bundled) -> list[np.ndarray]:
    return [bundled(name) for name in ("astronaut", "coffee", "moon")]


def tokens_of_open_clip() -> torch.Tensor:
    return open_clip.tokenizer.SimpleTokenizer()(["Good photo.", "Bad photo."])


def test_prompts_are_those_of_piq(shared_data):
    assert torch.equal(prompt_tokens(), torch.load(shared_data / "clip" / "clipiqa_tokens.pt", weights_only=True))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.load")  # piq reads TorchScript unguarded
def test_score_is_that_of_piq(model, photos, rn50_archive, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / ".cache" / "clip"
    cache.mkdir(parents=True)
    shutil.copy(rn50_archive, cache / "RN50.pt")
    torch.save(tokens_of_open_clip(), cache / "clipiqa_tokens.pt")
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    expected = piq.CLIPIQA(data_range=1.0)(torch.from_numpy(batch))[:, 0].numpy()
    assert model.score(batch) == pytest.approx(expected, abs=2e-6)  # ours folds normalisations
    assert np.ptp(expected) > 0.01


def test_a_score_depends_on_its_photo_alone(model, photos):
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    alone = np.concatenate([model.score(one[None]) for one in batch])
    assert alone.dtype == np.float64
    assert np.array_equal(model.score(batch), alone)
    batch[1] = np.nan
    assert np.array_equal(model.score(batch), [alone[0], np.nan, alone[2]], equal_nan=True)
    assert model.score(batch[:0]).shape == (0,)


def test_preprocessing_is_pillows_bicubic_without_rounding(model, photos):
    for rgb in photos:
        rgb.flags.writeable = False
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


def test_photos_resized_on_a_device_have_the_same_scores(model, photos, monkeypatch):
    expected = model.score(np.stack([model.preprocess(photo) for photo in photos]))
    monkeypatch.setattr(model, "_transfer", HostToDevice("cpu"))
    there = stacked([model.preprocess(photo) for photo in photos])
    assert isinstance(there, torch.Tensor)
    assert np.array_equal(model.score(there), expected)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_missing_operator_falls_back_to_the_cpu(model, photos, rn50_archive, caplog):
    """torch's `meta` device computes nothing, and reading a result from it is not implemented."""
    fallen = load_clip_iqa(Weights("test", rn50_archive, ""), device=Device("meta", "fp32"), side=model.side)
    assert any(message.startswith("CLIP-IQA falls back to cpu in fp32: ") for message in caplog.messages)
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    assert np.array_equal(fallen.score(batch), model.score(batch))


def save_script(module: torch.nn.Module, path) -> None:
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(module), str(path))


def script(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    """Save the archive with another state."""

    def write(path: Path, archive: Path) -> None:
        with warnings.catch_warnings(action="ignore"):
            module = torch.jit.load(str(archive))
            change(module.state_dict())
            torch.jit.save(module, str(path))

    return write


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    """Save the checkpoint with other tensors."""

    def write(path: Path, checkpoint: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(checkpoint).items()}
        change(state)
        save_file(state, path)

    return write


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
    return lambda weights: load_clip_iqa(weights, device=CPU, side=SIDE, copies=Copies(settings))


def scores(model: ClipIqa, photos: list[np.ndarray]) -> list[float]:
    return model.score(np.stack([model.preprocess(rgb) for rgb in photos])).tolist()


@pytest.mark.long
@pytest.mark.parametrize("file", ["rn50_archive", "rn50_checkpoint"])
def test_the_first_load_and_later_ones_give_the_same_scores(request, model, load, photos, caplog, file):
    weights = Weights("test", request.getfixturevalue(file), "c" * 64)
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


def test_the_model_copies_only_what_it_folds(load, weights, monkeypatch):
    load(weights)
    mapped: dict[str, torch.Tensor] = {}

    def map_file(path):
        mapped.update(load_file(path))
        return mapped

    monkeypatch.setattr("safetensors.torch.load_file", map_file)
    model = load(weights)
    tower = {f"visual.{name}": tensor.data_ptr() for name, tensor in model._visual.state_dict().items()}
    used = {**tower, "anchors": model._anchors.data_ptr(), "logit_scale": model._logit_scale.data_ptr()}
    others = {name: at for name, at in used.items() if not re.search(r"conv|downsample", name)}
    assert len(others) > 10
    assert others == {name: mapped[name].data_ptr() for name in others}
    assert not model._visual.training


def alter(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Write other tensors to a copy, with their digest."""

    def write(copy: Path) -> None:
        tensors(change)(copy, copy)
        copy.with_suffix(".sha256").write_text(hashlib.sha256(copy.read_bytes()).hexdigest())

    return write


@pytest.mark.long
@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda copy: copy.write_bytes(copy.read_bytes()[:-4] + b"1234"), "was altered"),
        (alter(lambda t: t["visual.bn1.running_var"].fill_(torch.nan)), "not finite, in visual.bn1.running_var"),
        (alter(lambda t: t.pop("visual.bn2.running_mean")), "lacks bn2.running_mean"),
        (alter(lambda t: t["visual.bn1.weight"].fill_(3e38)), "gives nan for a plain gradient"),
    ],
    ids=["bytes", "nan", "buffer", "self_test"],
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


@pytest.mark.long
def test_the_model_of_a_project_keeps_its_copy(model, settings, weights, photos, prepared):
    settings = settings.replace(clip_iqa_weights=str(weights.path), clip_iqa_side=SIDE, device="cpu")
    assert scores(clip_iqa_model(settings).get(), photos) == scores(model, photos)
    (copy,) = prepared.glob("*.safetensors")
    assert hashlib.sha256(weights.path.read_bytes()).hexdigest() in copy.name
    made = copy.stat().st_mtime_ns
    assert scores(clip_iqa_model(settings).get(), photos) == scores(model, photos)
    assert copy.stat().st_mtime_ns == made


# --- wrong files ---


WEB_PAGE = b"<!DOCTYPE html>"


@pytest.mark.long
@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda path, _: path.write_bytes(WEB_PAGE), "cannot be read"),
        (lambda path, _: None, "cannot be read"),
        (lambda path, archive: path.write_bytes(archive.read_bytes()[:-1000]), "cannot be read"),
        (lambda path, _: torch.save({"visual.conv1.weight": torch.ones(1)}, path), "cannot be read"),
        (lambda path, _: save_script(torch.nn.Linear(2, 2), path), "does not hold CLIP"),
        (script(lambda state: state["visual.conv1.weight"].fill_(torch.nan)), "not finite, in visual.conv1"),
        (script(lambda state: state["ln_final.weight"].fill_(torch.inf)), "not finite, in ln_final.weight"),
        (script(lambda state: state["visual.bn1.weight"].fill_(3e38)), "gives nan for a plain gradient"),
        (script(lambda state: state["logit_scale"].fill_(1e4)), "not finite, in logit_scale"),
        (script(lambda s: [s[f"ln_final.{name}"].fill_(0) for name in ("weight", "bias")]), "in anchors"),
    ],
    ids=["html", "missing", "truncated", "no_script", "other_model", "nan", "inf", "overflow", "scale", "anchors"],
)
def test_files_that_are_not_the_archive(load, prepared, tmp_path, rn50_archive, write, cause):
    write(tmp_path / "RN50.pt", rn50_archive)
    refuse(load, prepared, tmp_path / "RN50.pt", cause)


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda path, _: path.write_bytes(WEB_PAGE), "cannot be read as safetensors"),
        (lambda path, _: path.write_bytes(pickle.dumps({"visual.conv1.weight": 1})), "cannot be read as safetensors"),
        (lambda path, checkpoint: path.write_bytes(checkpoint.read_bytes()[:-1000]), "cannot be read as safetensors"),
        (lambda path, _: save_file({"visual.trunk.conv1.weight": torch.ones(1)}, path), "does not hold CLIP"),
        (tensors(lambda state: state.pop("ln_final.bias")), "does not fit CLIP RN50: .*ln_final.bias"),
        (tensors(lambda state: [tensor.zero_() for tensor in state.values()]), "nothing but zeros"),
    ],
    ids=["html", "pickle", "truncated", "other_model", "no_bias", "zeros"],
)
def test_files_that_are_not_the_checkpoint(load, prepared, tmp_path, rn50_checkpoint, write, cause):
    write(tmp_path / "model.safetensors", rn50_checkpoint)
    refuse(load, prepared, tmp_path / "model.safetensors", cause)


def refuse(load: Callable[[Weights], ClipIqa], prepared: Path, path: Path, cause: str) -> None:
    """Loading fails, without a copy; the error names the file, the cause and the remedy."""
    with pytest.raises(InvalidWeightsError, match=cause) as caught:
        load(Weights("test", path, "d" * 64))
    assert str(path) in caught.value.summary
    assert "\n" not in caught.value.summary
    assert "run `curation-features models pull`" in caught.value.remedy
    assert "CURATION_FEATURES_CLIP_IQA_WEIGHTS" in caught.value.remedy
    assert not list(prepared.glob("*.safetensors"))


def test_folding_normalisations_changes_rounding_only(rn50_archive):
    """Against piq's tower with its normalisations, and with statistics that matter."""
    from piq.feature_extractors.clip import ModifiedResNet

    from curation_features.technical.resnet import fold_batch_norms

    torch.manual_seed(0)
    tower = ModifiedResNet(layers=(1, 2, 1, 1), output_dim=32, heads=2, input_resolution=64, width=4).eval()
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                torch.nn.init.normal_(tensor)
            for tensor in (module.running_var, module.weight):
                torch.nn.init.uniform_(tensor, 0.1, 3)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = tower(x, pos_embedding=False)
        fold_batch_norms(tower)
        found = tower(x, pos_embedding=False)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, expected)


def test_bf16_scores_are_close_to_those_in_fp32(model, photos, rn50_archive):
    fast = load_clip_iqa(Weights("test", rn50_archive, ""), device=Device("cpu", "bf16"), side=SIDE)
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    assert fast.score(batch) == pytest.approx(model.score(batch), abs=1e-2)
    assert not np.array_equal(fast.score(batch), model.score(batch))
