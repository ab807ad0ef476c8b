"""A CUDA device gives the numbers of the CPU; skipped without one.

These tests need no package but pytest beyond those that measure, and no fixtures but those of `checkpoints`:
`benchmarks/gpu.py` runs them on machines without a network.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from checkpoints import weights_in
from worlds import World

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.engine import OpenClipEngine
from curation_features.devices.selection import Device
from curation_features.devices.transfer import stacked
from curation_features.pipeline import FeatureStages, Models, RunStats
from curation_features.pipeline.plan import ALL_PARTS
from curation_features.settings import Settings
from curation_features.technical.brisque.batched import batched_brisque
from curation_features.technical.brisque.index import Brisque
from curation_features.technical.brisque.loading import load_brisque
from curation_features.technical.clip_iqa import load_clip_iqa
from curation_features.weights import Weights, brisque_file

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def draw(seed: int, height: int, width: int) -> np.ndarray:
    """Blobs of all sizes, with an amplitude that falls with their frequency as in photos."""
    random, scene = np.random.default_rng(seed), np.full((height, width, 3), 127.0)
    for cells in (2, 4, 8, 16, 32, 64, 128, 256):
        blobs = random.normal(0, 16, (cells, cells, 3))
        scene += cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
    return scene.clip(0, 255).astype(np.uint8)


PHOTOS = [draw(0, 512, 512), draw(1, 400, 600)]
PHOTOS += [PHOTOS[0][:, ::-1].copy(), PHOTOS[1][:80], np.full((40, 50, 3), 200, np.uint8)]


@pytest.fixture(scope="module")
def brisque() -> Brisque:
    return load_brisque(Weights("test", brisque_file().path, ""))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_vectors_are_those_of_the_cpu(clip_checkpoint: Path, precision) -> None:
    found = []
    for device in (Device("cpu", "fp32"), Device("cuda", precision)):
        engine = OpenClipEngine(weights_in(clip_checkpoint), device)
        found.append(engine.embed_images(stacked([engine.preprocess(photo) for photo in PHOTOS])))
        assert engine.device == device
        assert found[-1].norms.dtype == np.float32
    assert (found[0].vectors * found[1].vectors).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(found[1].norms, found[0].norms, rtol=0.01)


def test_the_classifier_gives_the_labels_of_the_cpu(tmp_path: Path, clip_checkpoint: Path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        named = Settings(root=tmp_path, model=f"local-dir:{clip_checkpoint}", device=device, precision="fp32")
        found.append([[label["label"] for label in labels] for labels in CLIPClassifier(named).classify_many(PHOTOS)])
    assert found[0][:4] == found[1][:4]


def test_a_photo_the_operator_cannot_resize_uses_the_cpu(clip_checkpoint: Path) -> None:
    engine = OpenClipEngine(weights_in(clip_checkpoint), Device("cuda", "fp32"))
    photo = np.random.default_rng(0).integers(0, 256, (6000, 6000, 3), np.uint8)
    assert np.isfinite(engine.encode_images(stacked([engine.preprocess(photo)]))).all()


def test_clip_iqa_is_that_of_the_cpu(rn50_archive: Path) -> None:
    scores = []
    for device in ("cpu", "cuda"):
        model = load_clip_iqa(Weights("test", rn50_archive, ""), device=Device(device, "fp32"), side=64)
        scores.append(model.score(stacked([model.preprocess(photo) for photo in PHOTOS])))
    assert scores[1] == pytest.approx(scores[0], abs=5e-3)  # convolutions are in TF32 there


def test_brisque_is_that_of_the_cpu(brisque: Brisque) -> None:
    batched = batched_brisque(brisque, "cuda", 1024)
    assert batched is not None
    found = batched.score([batched.preprocess(photo) for photo in PHOTOS])
    assert found[:4] == pytest.approx([brisque.score(photo) for photo in PHOTOS[:4]], abs=1e-6)
    assert str(found[4]) == "the image has one brightness all over"


def test_a_batch_has_the_features_of_the_cpu(tmp_path, clip_checkpoint, rn50_archive) -> None:
    world = World(tmp_path)
    batch = world.batch([world.photo(f"{n}.png", n, (90 + n % 3, 64)) for n in range(150)])
    records = {}
    for device in ("cpu", "cuda"):
        settings = world.settings.replace(
            device=device,
            data_dir=f"data-{device}",
            model=f"local-dir:{clip_checkpoint}",
            clip_iqa_weights=str(rn50_archive),
            clip_iqa_side=64,
        )
        stages = FeatureStages(settings, models=Models.from_settings(settings))
        plan, stats = stages.plan(ALL_PARTS), RunStats()
        records[device] = list(stages.label(stages.measure(batch, plan, stats), plan, stats))
    for cpu, cuda in zip(records["cpu"], records["cuda"], strict=True):
        assert cpu.photo_id == cuda.photo_id
        assert float(cpu.embedding.vector @ cuda.embedding.vector) > 0.999
        for name, measurement in cpu.measurements.items():
            tolerance = 5e-3 if name == "clip_iqa" else 1e-6
            assert cuda.measurements[name].score == pytest.approx(measurement.score, abs=tolerance)
            assert cuda.measurements[name].raw == pytest.approx(measurement.raw, abs=1e-5)
