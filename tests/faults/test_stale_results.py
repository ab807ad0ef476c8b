"""Untrusted cache entries, and photos that change under their id: never a stale result."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from profiles import DISPLAY_P3, rgb_profile

from curation_features.photos.reader import PhotoReader

ONE_PHOTO = {"decoded": 1, "clip_images": 1, "clip_iqa": 1, "brisque": 1}  # the work for a photo that is not cached


@pytest.fixture
def batch(world) -> dict[str, Any]:
    artifacts = [{**world.photo(f"{n}.png", n), "photo_id": f"photo {n}"} for n in range(4)]
    return {"batch_id": "b", "artifacts": artifacts}


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def older(data: bytes) -> bytes:
    """The same valid entry with older versions of all parts."""
    from curation_features.storage.cache import _decode, _encode

    document = json.loads(data)
    entry = _decode(data, "photo 1", document["version"]["image"])
    assert entry is not None
    entry.versions = {part: f"{version}-older" for part, version in entry.versions.items()}
    return _encode("photo 1", entry)


DAMAGE: dict[str, Callable[[bytes, bytes, Path], bytes]] = {
    "empty": lambda data, other, folder: b"",
    "truncated": lambda data, other, folder: data[: len(data) // 2],
    "bits flipped": lambda data, other, folder: data[:400] + bytes(255 - byte for byte in data[400:440]) + data[440:],
    "number altered": lambda data, other, folder: data.replace(b'"score": 0.', b'"score": 0.9', 1),
    "of another photo": lambda data, other, folder: other,
    "of other versions": lambda data, other, folder: older(data),
    "hostile": lambda data, other, folder: pickle.dumps(Bomb(folder / "exploded")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_untrusted_entry_is_recomputed_and_replaced(world, batch, damage) -> None:
    sound, _ = world.run(batch)
    cache = world.stages().cache
    path = cache.path("photo 1")
    kept = path.read_bytes()
    damaged = DAMAGE[damage](kept, cache.path("photo 2").read_bytes(), world.root)
    assert damaged != kept
    path.write_bytes(damaged)
    assert world.run(batch) == (sound, ONE_PHOTO)  # the other photos come from the cache
    assert path.read_bytes() == kept
    assert world.run(batch) == (sound, {})
    assert not (world.root / "exploded").exists()


def test_only_photos_that_are_decoded_otherwise_are_recomputed(world, batch) -> None:
    """Entries of the first decoding differ only in a missing key; those of plain photos are exactly the same."""
    tagged = world.root / "photos" / "1.png"
    Image.open(tagged).save(tagged, icc_profile=rgb_profile(DISPLAY_P3))
    sound, _ = world.run(batch)
    cache = world.stages().cache
    paths = [cache.path(f"photo {n}") for n in range(4)]
    entries = [path.read_bytes() for path in paths]
    first = [data.replace(b', "decoding": 2', b"") for data in entries]
    assert [old != new for old, new in zip(first, entries, strict=True)] == [False, True, False, False]
    for path, data in zip(paths, first, strict=True):
        path.write_bytes(data)
    assert world.run(batch) == (sound, ONE_PHOTO)
    assert [path.read_bytes() for path in paths] == entries
    assert world.run(batch) == (sound, {})


@pytest.mark.timeout(120)
def test_a_folder_or_fifo_as_entry_blocks_nothing(world, batch) -> None:
    sound, _ = world.run(batch)
    cache = world.stages().cache
    cache.path("photo 1").unlink()
    cache.path("photo 1").mkdir()
    cache.path("photo 2").unlink()
    os.mkfifo(cache.path("photo 2"))
    assert world.run(batch)[0] == sound
    assert cache.path("photo 2").is_file()  # replaced


def test_a_photo_replaced_while_read_has_features_of_read_bytes(world, batch, monkeypatch) -> None:
    """The file changes right after it is read; the cache entry is for the bytes, not for the id."""
    old, _ = world.run(batch)
    world.stages().cache.clear()
    read, replaced = PhotoReader.read, []

    def overtaken(reader: PhotoReader, uri: str) -> Any:
        file = read(reader, uri)
        if uri.endswith("1.png") and not replaced:
            replaced.append(uri)
            world.photo("1.png", 77)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(PhotoReader, "read", overtaken)
        assert world.run(batch)[0] == old
    assert replaced
    found, done = world.run(batch)
    assert done["decoded"] == 1
    assert found[1]["tech"] != old[1]["tech"]
    assert [found[n] for n in (0, 2, 3)] == [old[n] for n in (0, 2, 3)]
    world.photo("1.png", 1)
    assert world.run(batch)[0] == old


def test_a_photo_that_two_batches_share_is_computed_once(world, batch) -> None:
    first, _ = world.run(batch)
    other = {"batch_id": "other", "artifacts": [batch["artifacts"][2], {**world.photo("9.png", 9), "photo_id": "new"}]}
    found, done = world.run(other)
    assert done == ONE_PHOTO
    assert found[0] == first[2]
