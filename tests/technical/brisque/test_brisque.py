from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import piq
import pytest
import torch

from curation_features.devices.transfer import HostToDevice
from curation_features.errors import InvalidWeightsError, UndefinedMetricError
from curation_features.technical.brisque import batched as batched_module
from curation_features.technical.brisque.batched import BatchedBrisque, batched_brisque
from curation_features.technical.brisque.index import brisque_measurement
from curation_features.technical.brisque.loading import KNOWN_INDICES, load_brisque
from curation_features.technical.brisque.mscn import MscnSums, ProductSums
from curation_features.technical.preview import preview
from curation_features.weights import Weights, catalog

GOLDEN = {
    "astronaut": 2.8585,
    "camera": -7.3088,
    "coffee": 30.0660,
    "chelsea": 3.0884,
    "rocket": 10.5644,
    "moon": 13.2682,
}


@pytest.fixture
def index_of_piq(brisque_file, tmp_path, monkeypatch):
    """The unpatched `piq.brisque` in float64, with its weights in torch's hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(brisque_file, tmp_path / "hub" / "checkpoints" / "brisque_svm_weights.pt")

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
    with pytest.raises(InvalidWeightsError, match="curation-features models pull") as caught:
        load_brisque(Weights("test", path, ""))
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_file_in_the_known_place_is_the_authors_regressor(brisque_file, brisque_regressor, tmp_path):
    """The published file has no known digest, so its numbers are compared with the authors' release."""
    url = catalog.brisque_file().url
    load_brisque(Weights(url, brisque_file, ""))
    coefficients, vectors = torch.load(brisque_file, weights_only=True)
    vectors[400] = 0
    torch.save((coefficients, vectors), tmp_path / "altered.pt")
    for path in (brisque_regressor, tmp_path / "altered.pt"):
        with pytest.raises(InvalidWeightsError, match="is not the authors': it gives"):
            load_brisque(Weights(url, path, ""))
        load_brisque(Weights(str(path), path, ""))  # a user-supplied file is not compared


def test_the_known_indices_are_those_of_the_authors_file(shared_data):
    """Computed from the text of `allmodel` in float64."""
    lines = (shared_data / "brisque" / "allmodel").read_text().split("SV\n")[1].split("\n")
    rows = [line.split() for line in lines if line.strip()]
    coefficients = np.array([float(row[0]) for row in rows])
    vectors = np.zeros((len(rows), 36))
    for vector, row in zip(vectors, rows, strict=True):
        for entry in row[1:]:
            number, value = entry.split(":")
            vector[int(number) - 1] = float(value)
    for value, index in KNOWN_INDICES:
        distances = ((vectors - value) ** 2).sum(axis=1)
        assert coefficients @ np.exp(-0.05 * distances) + 153.591 == pytest.approx(index, abs=5e-4)
