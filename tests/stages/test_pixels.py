"""The pass over the photos of a batch: bounded, in order, and grouped for the models."""

from __future__ import annotations

import time

import pytest

from curation_features.errors import InvalidWeightsError
from curation_features.stages import RunStats
from curation_features.stages.plan import ALL_PARTS, EMBEDDING_PARTS


@pytest.fixture
def batch(world):
    return world.batch([world.photo(f"{n}.png", n) for n in range(40)])


def forward_passes(world) -> list[int]:
    """Sizes of the image model's forward passes, as they come from now on."""
    sizes: list[int] = []
    encode = world.clip.encode_images

    def counted(inputs):
        sizes.append(len(inputs))
        return encode(inputs)

    world.clip.encode_images = counted
    return sizes


def test_photos_are_decoded_only_a_little_ahead(world, batch) -> None:
    stages = world.stages(world.settings.replace(workers=2, batch_size=1))
    records = stages.measure(batch, stages.plan(ALL_PARTS), RunStats())
    for _ in range(3):
        next(records)
    time.sleep(0.3)  # time enough for threads that would run on
    assert 3 <= len(world.decoded) <= 3 + 4 * 2 + 1
    records.close()


def test_records_come_in_the_order_of_the_batch(world, batch) -> None:
    stages = world.stages(world.settings.replace(workers=4, batch_size=3))
    records = stages.measure(batch, stages.plan(EMBEDDING_PARTS), RunStats())
    assert [record.photo_id for record in records] == [artifact.photo_id for artifact in batch.artifacts]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_forward_passes_are_as_large_as_asked_for(world, batch, size) -> None:
    sizes = forward_passes(world)
    stages = world.stages(world.settings.replace(batch_size=size))
    list(stages.measure(batch, stages.plan(EMBEDDING_PARTS), RunStats()))
    whole, rest = divmod(40, size)
    assert sizes == [size] * whole + [rest] * bool(rest)


def test_cached_photos_do_not_make_forward_passes_smaller(world, batch) -> None:
    every_other = world.batch([batch.document["artifacts"][n] for n in range(0, 40, 2)], "other")
    stages = world.stages(world.settings.replace(batch_size=10))
    list(stages.measure(every_other, stages.plan(EMBEDDING_PARTS), RunStats()))
    sizes = forward_passes(world)
    list(stages.measure(batch, stages.plan(EMBEDDING_PARTS), RunStats()))
    assert sizes == [10, 10]


def test_progress_counts_every_distinct_photo(world, batch) -> None:
    done: list[int] = []
    stages = world.stages()
    stages.progress = done.append
    list(stages.measure(batch, stages.plan(ALL_PARTS), RunStats()))
    assert sum(done) == 40


def test_a_tower_that_cannot_be_used_stops_the_run_or_is_a_default_of_every_photo(world, batch) -> None:
    """It is found out when the first photo comes to it."""

    def encode(inputs):
        raise InvalidWeightsError("it holds values that are not finite", "fetch it again")

    good, world.clip.encode_images = world.clip.encode_images, encode
    stages = world.stages()
    with pytest.raises(InvalidWeightsError, match="not finite; fetch it again"):
        list(stages.measure(batch, stages.plan(ALL_PARTS), RunStats()))
    stages = world.stages(world.settings.replace(on_missing_weights="degrade"))
    records = list(stages.measure(batch, stages.plan(ALL_PARTS), RunStats()))
    assert {record.embedding.error.reason for record in records} == {"invalid_weights"}
    assert all(record.measurements["brisque"].score is not None for record in records)
    world.clip.encode_images = good  # nothing of it was kept
    records = list(stages.measure(batch, stages.plan(ALL_PARTS), RunStats()))
    assert all(record.embedding.vector is not None for record in records)
