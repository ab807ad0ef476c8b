"""The pass over the photos of a batch: bounded, ordered, grouped for the models."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from curation_features.errors import InvalidWeightsError, UndefinedMetricError
from curation_features.pipeline import FeatureStages, RunStats
from curation_features.pipeline.observer import Observer
from curation_features.pipeline.plan import ALL_PARTS, EMBEDDING_PARTS, TECHNICAL_PARTS
from curation_features.schema import PhotoRecord


@pytest.fixture
def batch(world):
    return world.batch([world.photo(f"{n}.png", n) for n in range(40)])


def measured(world, batch, parts=EMBEDDING_PARTS, **settings):
    """The stream of records of a new process."""
    stages = world.stages(world.settings.replace(**settings))
    return stages.measure(batch, stages.plan(parts), RunStats())


def forward_passes(world) -> list[int]:
    """Record the sizes of the image model's forward passes."""
    sizes: list[int] = []
    encode = world.clip.encode_images

    def counted(inputs):
        sizes.append(len(inputs))
        return encode(inputs)

    world.clip.encode_images = counted
    return sizes


@pytest.mark.long
def test_photos_are_decoded_only_a_little_ahead(world, batch) -> None:
    records = measured(world, batch, ALL_PARTS, workers=2, batch_size=1)
    for _ in range(3):
        next(records)
    time.sleep(0.3)  # time enough for threads that would run on
    assert 3 <= len(world.decoded) <= 3 + 4 * 2 + 1
    records.close()


def test_records_come_in_the_order_of_the_batch(world, batch) -> None:
    records = measured(world, batch, workers=4, batch_size=3)
    assert [record.photo_id for record in records] == [artifact.photo_id for artifact in batch.artifacts]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_forward_passes_are_as_large_as_asked_for(world, batch, size) -> None:
    sizes = forward_passes(world)
    list(measured(world, batch, batch_size=size))
    whole, rest = divmod(40, size)
    assert sizes == [size] * whole + [rest] * bool(rest)


def test_cached_photos_do_not_make_forward_passes_smaller(world, batch) -> None:
    every_other = world.batch([batch.document["artifacts"][n] for n in range(0, 40, 2)], "other")
    list(measured(world, every_other))
    sizes = forward_passes(world)
    list(measured(world, batch, batch_size=10))
    assert sizes == [10, 10]


def test_on_a_cpu_nothing_is_prepared_while_a_model_runs(world, batch) -> None:
    """A model uses all cores; concurrent work would slow it down."""
    decoded: list[tuple[int, int]] = []
    encode = world.clip.encode_images

    def watched(inputs):
        before = len(world.decoded)
        time.sleep(0.02)
        decoded.append((before, len(world.decoded)))
        return encode(inputs)

    world.clip.encode_images = watched
    list(measured(world, batch, workers=2))
    # Decoding rests only after the first photo has reached a model.
    assert {after - before for before, after in decoded[8:]} == {0}


@pytest.fixture
def on_cuda(world, monkeypatch) -> None:
    """Make the pass use its CUDA settings."""
    from curation_features.devices import selection

    monkeypatch.setattr(selection, "select_device", lambda settings: selection.Device("cuda", "fp16"))


def test_on_a_gpu_models_run_while_records_are_consumed(world, batch, on_cuda) -> None:
    sizes = forward_passes(world)
    records = measured(world, batch, batch_size=8)
    next(records)
    deadline = time.monotonic() + 60
    while len(sizes) < 4 and time.monotonic() < deadline:  # the first group, and three ahead
        time.sleep(0.01)
    assert sizes == [8] * 4
    assert [record.photo_id for record in records] == [artifact.photo_id for artifact in batch.artifacts][1:]
    assert sizes == [8] * 5


class BatchedFake:
    """Batched BRISQUE: the index is the mean level; photos of one size have an error."""

    def __init__(self, undefined: tuple[int, int]) -> None:
        self.sizes: list[int] = []
        self._undefined = undefined

    def preprocess(self, rgb):
        return rgb.mean(axis=2)

    def score(self, inputs):
        self.sizes.append(len(inputs))
        undefined = UndefinedMetricError("flat_image", "no contrast")
        return [undefined if image.shape == self._undefined else float(image.mean()) for image in inputs]


def test_brisque_runs_in_batches_on_a_gpu(world, on_cuda) -> None:
    world.brisque.batched = BatchedFake((40, 30))
    photos = [world.photo(f"{n}.png", n, (30, 40) if n == 3 else (96, 64)) for n in range(10)]
    batch = world.batch([*photos[:5], {"photo_id": "none", "original_uri": "./photos/none.png"}, *photos[5:]])
    records = measured(world, batch, TECHNICAL_PARTS, batch_size=5)
    found = {record.photo_id: record.measurements.get("brisque") for record in records}
    assert found.pop("none") is None
    assert world.brisque.batched.sizes == [5, 5]
    assert world.brisque.images_scored == 0
    for n, photo in enumerate(photos):
        measurement = found[photo["photo_id"]]
        if n == 3:
            assert measurement.error.reason == "flat_image"
        else:
            pixels = np.asarray(Image.open(world.root / photo["original_uri"]))
            assert measurement.raw["brisque_raw"] == pytest.approx(pixels.mean(), abs=1e-6)
            assert measurement.score == pytest.approx(1 - pixels.mean() / 100 if pixels.mean() < 100 else 0, abs=1e-6)
    assert all(record.cached for record in measured(world, batch, TECHNICAL_PARTS) if record.info)


def test_the_observer_gets_every_photo_and_waits_are_measured(world, batch) -> None:
    done: list[PhotoRecord] = []

    class Photos(Observer):
        def photo_done(self, record: PhotoRecord) -> None:
            done.append(record)

    stages, stats = FeatureStages(world.settings, models=world.models(), observer=Photos()), RunStats()
    assert list(stages.measure(batch, stages.plan(ALL_PARTS), stats)) == done
    assert len(done) == 40
    assert {"wait_for_photos", "wait_for_models"} <= stats.seconds.keys()


@pytest.mark.long
def test_an_unusable_tower_stops_the_run_or_degrades_it(world, batch) -> None:
    """The error occurs at the first photo."""

    def encode(inputs):
        raise InvalidWeightsError("it holds values that are not finite", "fetch it again")

    good, world.clip.encode_images = world.clip.encode_images, encode
    with pytest.raises(InvalidWeightsError, match="not finite; fetch it again"):
        list(measured(world, batch, ALL_PARTS))
    records = list(measured(world, batch, ALL_PARTS, on_missing_weights="degrade"))
    assert {record.embedding.error.reason for record in records} == {"invalid_weights"}
    assert all(record.measurements["brisque"].score is not None for record in records)
    world.clip.encode_images = good  # nothing was cached
    assert all(record.embedding.vector is not None for record in measured(world, batch, ALL_PARTS))
