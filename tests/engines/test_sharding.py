"""Shards: complete, in order, of the right size, and stable when photos come and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation_features.engines.sharding import split
from curation_features.manifest import Batch, batch_from, is_batch_id

SIZE = 40
Photos = list[dict[str, Any]]


def photos(count: int, prefix: str = "p") -> Photos:
    return [
        {"photo_id": f"{prefix}{n}", "original_uri": f"./{prefix}/{n}.jpg", "n": {"x": [n, None]}} for n in range(count)
    ]


def batch(artifacts: Photos, batch_id: str = "archive") -> Batch:
    return batch_from({"batch_id": batch_id, "from": {"camera": 1}, "artifacts": artifacts, "vocabulary": "birds"})


def shards(artifacts: Photos, size: int = SIZE) -> dict[str, list[str]]:
    """The ids of the photos of each shard."""
    found = list(split(batch(artifacts), size))
    named = {shard["batch_id"]: [artifact["photo_id"] for artifact in shard["artifacts"]] for shard in found}
    assert len(named) == len(found)
    return named


@hypothesis.settings(max_examples=50)
@given(
    ids=st.lists(st.integers(0, 90), max_size=90),
    size=st.integers(1, 30),
    batch_id=st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.)){0,127}\Z"),
)
def test_every_artifact_is_in_one_shard(ids: list[int], size: int, batch_id: str) -> None:
    whole = batch([{"photo_id": f"{n}", "std_uri": "x", "exif": {"iso": n}} for n in ids], batch_id)
    found = list(split(whole, size))
    assert [artifact for shard in found for artifact in shard["artifacts"]] == whole.document["artifacts"]
    own = {"artifacts", "batch_id", "shard_of"}
    for shard in found:
        assert {name: value for name, value in shard.items() if name not in own} == {
            "from": {"camera": 1},
            "vocabulary": "birds",
        }
        assert shard["shard_of"] == batch_id
        assert is_batch_id(shard["batch_id"])
        assert shard["batch_id"].startswith(f"{batch_id[:100]}-")
        assert 0 < len(shard["artifacts"]) <= max(1, 2 * size)
    assert all(len(shard["artifacts"]) >= size // 4 for shard in found[:-1])
    assert len({shard["batch_id"].casefold() for shard in found}) == len(found)
    assert list(split(whole, size)) == found


def appended(old: Photos, chance: random.Random) -> Photos:
    return [*old, *photos(len(old) // 20, "new")]


def inserted(old: Photos, chance: random.Random) -> Photos:
    at = chance.randrange(len(old))
    return [*old[:at], *photos(len(old) // 20, "new"), *old[at:]]


def put_first(old: Photos, chance: random.Random) -> Photos:
    return [*photos(len(old) // 20, "new"), *old]


def one_deleted(old: Photos, chance: random.Random) -> Photos:
    at = chance.randrange(len(old))
    return [*old[:at], *old[at + 1 :]]


@hypothesis.settings(max_examples=40)
@given(change=st.sampled_from([appended, inserted, put_first, one_deleted]), seed=st.integers(0, 2**32))
def test_a_change_in_one_place_changes_few_shards(change: Callable[..., Photos], seed: int) -> None:
    """750 photos in 75 shards. New photos fill some 4 new ones; a few next to them change."""
    chance = random.Random(seed)
    old = photos(750, f"{seed}-")
    before, after = shards(old, 10), shards(change(old, chance), 10)
    kept = [name for name, ids in before.items() if after.get(name) == ids]
    assert len(before) - len(kept) <= 12
    assert len(after) - len(kept) <= 12 + (8 if change is not one_deleted else 0)
    lost = before.keys() - after.keys()
    assert len(lost) <= 11  # a shard that only gained or lost photos keeps its id


def test_a_mean_shard_has_the_size_asked_for() -> None:
    sizes = [len(ids) for ids in shards(photos(6_000)).values()]
    assert 0.85 * SIZE < sum(sizes) / len(sizes) < 1.15 * SIZE
    assert len([size for size in sizes if size < SIZE / 2]) < len(sizes) / 5


@pytest.mark.parametrize(("seconds", "whole"), [(2, True), (3, False)])
def test_a_series_of_photos_is_not_split(seconds: int, whole: bool) -> None:
    """600 photos: 100 series of six, an hour apart."""
    start, artifacts = datetime(2024, 5, 1), photos(600)
    for n, artifact in enumerate(artifacts):
        taken = start + timedelta(hours=n // 6, seconds=seconds * (n % 6))
        artifact["exif"] = {"datetime": taken.strftime("%Y:%m:%d %H:%M:%S")}
    ends = [ids[-1] for ids in shards(artifacts).values()]
    assert 10 <= len(ends) <= 22
    assert all(int(end[1:]) % 6 == 5 for end in ends) == whole


@pytest.mark.parametrize("exif", [None, 7, {}, {"datetime": "0000:00:00 00:00:00"}, {"datetime": 5}, {"datetime": "x"}])
def test_photos_without_a_time_are_split(exif: object) -> None:
    artifacts = [{**photo, "exif": exif} for photo in photos(500)]
    assert shards(artifacts) == shards(photos(500))


def test_one_photo_many_times_is_split() -> None:
    found = shards([{"photo_id": "same", "std_uri": "x"}] * 500)
    assert sum(map(len, found.values())) == 500
    assert len(found) > 5
