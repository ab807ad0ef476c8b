from __future__ import annotations

import shutil
import warnings

import numpy as np
import open_clip
import piq
import pytest
import torch
from PIL import Image

from curation_features.errors import InvalidWeightsError
from curation_features.models import Weights
from curation_features.technical.clip_iqa import ClipIqa, load_clip_iqa, prompt_tokens

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


def test_preprocessing_is_pillows_antialiased_bicubic_without_its_rounding(model, photos):
    for rgb in photos:
        channels = [Image.fromarray(rgb[..., c].astype(np.float32)) for c in range(3)]
        resized = np.stack([np.asarray(c.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for c in channels])
        assert model.preprocess(rgb) == pytest.approx(np.clip(resized / 255, 0, 1), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 11), (3, 2), (64, 64), (200, 31)])
def test_inputs_are_floats_in_range_even_where_bicubic_overshoots(model, shape):
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[:, shape[1] // 2 :] = 255
    inputs = model.preprocess(rgb)
    assert inputs.shape == (3, SIDE, SIDE)
    assert inputs.dtype == np.float32
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    assert 0 <= model.score(inputs[None])[0] <= 1


def test_a_read_only_photo_is_no_trouble(model, photos):
    photos[0].flags.writeable = False
    assert np.isfinite(model.preprocess(photos[0])).all()


def test_nan_in_one_photo_stays_there(model, photos):
    batch = np.stack([model.preprocess(rgb) for rgb in photos])
    clean = model.score(batch)
    batch[1] = np.nan
    assert np.isnan(model.score(batch)[1])
    assert np.array_equal(model.score(batch)[[0, 2]], clean[[0, 2]])


def save_script(module: torch.nn.Module, path) -> None:
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(module), str(path))


def change(archive, path, change_state) -> None:
    """Save the archive again with another state."""
    with warnings.catch_warnings(action="ignore"):
        module = torch.jit.load(str(archive))
        change_state(module.state_dict())
        torch.jit.save(module, str(path))


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda path, _: path.write_text("<!DOCTYPE html>"), "cannot be read"),
        (lambda path, _: None, "cannot be read"),
        (lambda path, archive: path.write_bytes(archive.read_bytes()[:-1000]), "cannot be read"),
        (lambda path, _: torch.save({"visual.conv1.weight": torch.ones(1)}, path), "cannot be read"),
        (lambda path, _: save_script(torch.nn.Linear(2, 2), path), "does not hold CLIP"),
        (
            lambda path, archive: change(archive, path, lambda state: state["visual.conv1.weight"].fill_(torch.nan)),
            "not finite, in visual.conv1.weight",
        ),
    ],
    ids=["html", "missing", "truncated", "no_script", "other_model", "nan"],
)
def test_files_that_are_not_the_archive(tmp_path, rn50_archive, write, cause):
    path = tmp_path / "RN50.pt"
    write(path, rn50_archive)
    with pytest.raises(InvalidWeightsError, match=cause) as caught:
        load_clip_iqa(Weights("test", path, ""), device="cpu", side=SIDE)
    assert str(path) in str(caught.value)
    assert "run again with a connection" in str(caught.value)
