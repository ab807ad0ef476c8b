from __future__ import annotations

import hashlib
import math
import pickle
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import piq
import pytest
import torch

from curation_features.devices.transfer import HostToDevice
from curation_features.errors import InvalidWeightsError, UndefinedMetricError
from curation_features.signals.preview import preview
from curation_features.technical.brisque import batched as batched_module
from curation_features.technical.brisque.batched import BatchedBrisque, batched_brisque
from curation_features.technical.brisque.index import brisque_measurement
from curation_features.technical.brisque.loading import load_brisque, read_regressor
from curation_features.technical.brisque.mscn import MscnSums, ProductSums
from curation_features.weights import Weights, brisque_file

REPOSITORY = Path(__file__).resolve().parents[3]
GOLDEN = {
    "astronaut": 2.8585,
    "camera": -7.3088,
    "coffee": 30.0660,
    "chelsea": 3.0884,
    "rocket": 10.5644,
    "moon": 13.2682,
}


@pytest.fixture
def index_of_piq(brisque_pair, tmp_path, monkeypatch):
    """The unpatched `piq.brisque` in float64, with its weights in torch's hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(brisque_pair, tmp_path / "hub" / "checkpoints" / "brisque_svm_weights.pt")

    def index(rgb: np.ndarray) -> float:
        image = torch.tensor(rgb).permute(2, 0, 1)[None].double()
        return float(piq.brisque(image, data_range=255, reduction="none"))

    return index


@pytest.mark.parametrize(("name", "index"), GOLDEN.items())
def test_golden_values(bundled, brisque, name, index):
    assert brisque.score(bundled(name)) == pytest.approx(index, abs=6e-5)


@pytest.mark.long
def test_index_is_that_of_piq_on_photos(real_photos, brisque, index_of_piq):
    photos = {name: preview(rgb, 512) for name, rgb in real_photos.items()}
    ours = {name: brisque.score(rgb) for name, rgb in photos.items()}
    assert ours == pytest.approx({name: index_of_piq(rgb) for name, rgb in photos.items()}, abs=1e-5)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)


def sky(level: int) -> np.ndarray:
    rgb = np.full((200, 320, 3), level, np.uint8)
    rgb[50:100, 50:90] = noise(50, 40)
    return rgb


def step(low: int, high: int) -> np.ndarray:
    rgb = np.full((40, 32, 3), low, np.uint8)
    rgb[:, 16:] = high
    return rgb


DOT, LINE = np.zeros((32, 32, 3), np.uint8), np.zeros((40, 32, 3), np.uint8)
DOT[16, 16] = LINE[20] = 255


@pytest.mark.parametrize("rgb", [*map(sky, (77, 200, 251)), step(0, 200), step(77, 200), step(99, 100), DOT, LINE])
def test_rounding_in_even_areas_is_that_of_piq(brisque, index_of_piq, rgb):
    try:
        expected = index_of_piq(rgb)
    except AssertionError:
        with pytest.raises(UndefinedMetricError):
            brisque.score(rgb)
    else:
        assert brisque.score(rgb) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("shape", [(12, 12), (13, 47), (64, 33), (101, 100)])
def test_index_is_that_of_piq_on_small_noise(brisque, index_of_piq, shape):
    assert brisque.score(noise(*shape)) == pytest.approx(index_of_piq(noise(*shape)), abs=1e-5)


@pytest.fixture
def batched(brisque) -> BatchedBrisque:
    """The batches of a GPU, computed on the CPU."""
    return BatchedBrisque(brisque, HostToDevice("cpu"), 512)


@pytest.mark.long
def test_batches_give_what_one_by_one_gives(real_photos, bundled, brisque, batched):
    """Photos of several shapes, with skies, clipped areas, edges, or none of these."""
    small = [noise(12, 12), noise(13, 47), noise(64, 33), noise(13, 47)[::-1], noise(5, 12)]
    edges = [step(0, 200), step(128, 255), DOT, LINE, np.full((40, 60, 3), 9, np.uint8)]
    photos = [*real_photos.values(), *map(bundled, GOLDEN), *small, *edges]
    found = batched.score([batched.preprocess(rgb) for rgb in photos])
    for rgb, index in zip(photos, found, strict=True):
        if isinstance(index, UndefinedMetricError):
            with pytest.raises(UndefinedMetricError, match=re.escape(str(index))) as alone:
                brisque.score(preview(rgb, 512))
            assert alone.value.reason == index.reason
        else:
            assert index == pytest.approx(brisque.score(preview(rgb, 512)), abs=1e-6)
    assert sum(isinstance(index, UndefinedMetricError) for index in found) >= 3


def test_a_large_batch_is_split(brisque, batched, monkeypatch):
    sizes = []
    whole = batched._score_batch
    monkeypatch.setattr(batched_module, "PIXELS_AT_ONCE", 2 * 40 * 40)
    monkeypatch.setattr(batched, "_score_batch", lambda lumas: sizes.append(len(lumas)) or whole(lumas))
    photos = noise(5, 40, 40)
    found = batched.score([batched.preprocess(rgb) for rgb in photos])
    assert sizes == [2, 2, 1]
    assert found == pytest.approx([brisque.score(rgb) for rgb in photos], abs=1e-6)


def lack_float64(images, weigh):
    raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


@pytest.mark.parametrize(
    ("sums", "cause"),
    [(lack_float64, "Cannot convert"), (lambda *_: [MscnSums(1, 1, 1, [ProductSums(1, 1, 1, 1, 1)] * 4)], "it gives")],
)
def test_a_device_without_float64_is_not_used(brisque, monkeypatch, caplog, sums, cause):
    """Nor a device that computes something else."""
    assert batched_brisque(brisque, "cpu", 512) is not None
    monkeypatch.setattr(batched_module, "batched_mscn_sums", sums)
    assert batched_brisque(brisque, "cpu", 512) is None
    assert f"BRISQUE falls back to the CPU, photo by photo: {cause}" in caplog.text


@pytest.mark.parametrize(("index", "score"), [(30.066, 1 - 0.30066), (-7.3, 1), (100.1, 0)])
def test_the_score_inverts_the_index_and_is_clamped(index, score):
    measured = brisque_measurement(index)
    assert measured.raw == {"brisque_raw": index}
    assert measured.score == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("rgb", "reason"),
    [
        (noise(11, 40), "too_small"),
        (noise(40, 11), "too_small"),
        (np.zeros((32, 32, 3), np.uint8), "flat_image"),
        (np.full((32, 32, 3), 128, np.uint8), "flat_image"),
        (LINE, "undefined_statistics"),  # its contrast has one sign
    ],
)
def test_images_without_statistics(brisque, rgb, reason):
    with pytest.raises(UndefinedMetricError) as caught:
        brisque.score(rgb)
    assert caught.value.reason == reason


class Touch:
    """A pickle that creates a file if its code is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def truncate(path: Path) -> None:
    torch.save((torch.ones(774, 1), torch.ones(774, 36)), path)
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("<!DOCTYPE html><title>Not found</title>"),
        lambda path: path.write_bytes(pickle.dumps(Touch(path.with_name("executed")))),
        truncate,
        lambda path: None,
        lambda path: torch.save({"sv": torch.ones(774, 36)}, path),
        lambda path: torch.save((torch.ones(774, 1), torch.ones(773, 36)), path),
        lambda path: torch.save((torch.ones(774, 1), torch.ones(774, 36).double()), path),
        lambda path: torch.save((torch.ones(774, 1), torch.full((774, 36), torch.nan)), path),
    ],
    ids=["html", "pickle_with_code", "truncated", "missing", "mapping", "shape", "type", "nan"],
)
def test_files_that_are_not_the_regressor(tmp_path, write):
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(InvalidWeightsError, match="or unset it to use the one in this package") as caught:
        load_brisque(Weights("test", path, ""))
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_piqs_pair_gives_the_same_numbers(brisque_pair, brisque):
    named = load_brisque(Weights("mine", brisque_pair, ""))
    assert named.regress([0.25] * 36) == brisque.regress([0.25] * 36)


# --- the file in the package ---


@pytest.fixture(scope="session")
def release(shared_data) -> dict[str, str]:
    """The text files of LIVE's release."""
    return {name: (shared_data / "brisque" / name).read_text() for name in ("allmodel", "allrange")}


@pytest.fixture(scope="session")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "tools" / "brisque_regressor.py"))


def test_the_file_is_built_from_the_release(release, tool):
    data = tool["build"](release["allmodel"], release["allrange"])
    assert data == brisque_file().path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == brisque_file().sha256


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("allmodel", "epsilon_svr", "c_svc"),
        ("allmodel", "kernel_type rbf", "kernel_type linear"),
        ("allmodel", "gamma 0.05", "gamma 0.5"),
        ("allmodel", "rho -153.591", "rho -153.59"),
        ("allmodel", "total_sv 774", "total_sv 775"),
        ("allmodel", " 36:-0.191255", " 37:-0.191255"),
        ("allrange", "1 0.338 10", "1 0.339 10"),
        ("allrange", "-1 1", "0 1"),
        ("allrange", "36 0.001118 0.370399", ""),
    ],
)
def test_another_release_is_refused(release, tool, name, old, new):
    assert old in release[name]
    with pytest.raises(ValueError, match=name):
        tool["build"](**{**release, name: release[name].replace(old, new, 1)})


def test_the_numbers_are_those_of_piqs_file(shared_data):
    """Bit by bit, so that scores of earlier versions stay valid."""
    pair = torch.load(shared_data / "brisque" / "brisque_svm_weights.pt", weights_only=True)
    ours = read_regressor(Weights("test", brisque_file().path, ""))
    assert [array.tobytes() for array in ours] == [tensor.numpy().tobytes() for tensor in pair]


@pytest.mark.parametrize("value", [-0.5, 0.0, 0.5])
def test_the_index_is_that_of_the_release(release, brisque, value):
    """Computed from the text of `allmodel` in float64."""
    rows = [line.split() for line in release["allmodel"].split("SV\n")[1].split("\n") if line.strip()]
    index = 153.591
    for coefficient, *entries in rows:
        vector = dict.fromkeys(range(1, 37), 0.0)
        vector.update((int(number), float(entry)) for number, entry in (pair.split(":") for pair in entries))
        index += float(coefficient) * math.exp(-0.05 * sum((entry - value) ** 2 for entry in vector.values()))
    assert brisque.regress([value] * 36) == pytest.approx(index, abs=1e-4)


def test_the_notice_of_live_is_complete(shared_data):
    def words(text: str) -> str:
        return " ".join(
            re.search("-+COPYRIGHT NOTICE STARTS.*NOTICE ENDS WITH THIS LINE-+", text, re.DOTALL)[0].split()
        )

    theirs = (shared_data / "brisque" / "LICENSE-LIVE.txt").read_text()
    notice = (brisque_file().path.parent / "LICENSE-LIVE.txt").read_text()
    assert words(notice) == words(theirs)
    assert "doi:10.1109/TIP.2012.2214050" in notice
