"""Groups of a whole set: copies inside bursts, raw files, any order, any split, what is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from sequences import Roll, handheld, picture

from curation_features.groups import Exposure, Group, Moment, Photo, PhotoSet, grouping
from curation_features.groups.grouping import Memory, group_photos


def told(groups: list[Group], photos: PhotoSet) -> list[Any]:
    """All that groups say, by keys."""

    def key(index: int | None) -> str | None:
        return None if index is None else photos.photos[index].key

    return [
        (g.id, g.kind, g.what, g.similarity, [(key(m.index), m.rank, m.reason, key(m.copy_of)) for m in g.members])
        for g in groups
    ]


def copies_of(group: Group, photos: PhotoSet) -> dict[str, str]:
    named = ((m.index, m.copy_of) for m in group.members if m.copy_of is not None)
    return {photos.photos[copy].key: photos.photos[best].key for copy, best in named}


def half(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


NOTHING = {"camera": None, "moment": None}


def test_copies_of_a_burst_are_in_the_burst() -> None:
    """Three frames, a small one without EXIF, the bytes of another one in a backup, and a raw file of the third."""
    roll = Roll()
    frames = [handheld(picture("coffee"), number) for number in range(3)]
    first, second, third = roll.shoot(frames)
    roll.add(half(frames[2]), "small", path="mail/x.jpg", **NOTHING)
    roll.add(frames[1], "twin", sha256=f"sha-{second}", path="backup/IMG_0002.JPG", moment=roll.photos[1].moment)
    roll.add(frames[2], "raw", format="CR3", path="card/IMG_0003.CR3", moment=roll.photos[2].moment)
    photos = roll.photo_set()
    (group,) = group_photos(photos)
    assert group.kind == "burst"
    assert copies_of(group, photos) == {"small": third, "twin": second}
    ranks = {photos.photos[member.index].key: member.rank for member in group.members}
    assert ranks == {first: 1, second: 1, third: 1, "raw": 1, "small": 4, "twin": 4}


def test_frames_on_a_tripod_are_no_copies() -> None:
    """Equal pixels but for noise; without decimals the numbers of the files tell frames apart."""
    for resolution in (0.01, 1.0):
        roll = Roll(resolution=resolution)
        frames = roll.shoot([handheld(picture("coffee"), 1) for _ in range(3)])
        photos = roll.photo_set()
        (group,) = group_photos(photos)
        assert (group.kind, len(group.members), copies_of(group, photos)) == ("burst", len(frames), {})


def test_a_raw_file_alone_with_its_photo_is_a_set() -> None:
    """A backup of both is not kept."""
    roll = Roll()
    rgb = picture("coffee")
    for folder in ("card", "backup"):
        for suffix, kind in (("JPG", "JPEG"), ("CR3", "CR3")):
            roll.add(rgb, f"{folder}.{kind}", sha256=kind, path=f"{folder}/IMG_1.{suffix}", format=kind)
    photos = roll.photo_set()
    (group,) = group_photos(photos)
    assert (group.kind, group.what) == ("set", "raw and rendered")
    assert copies_of(group, photos) == {"backup.JPEG": "card.JPEG", "backup.CR3": "card.CR3"}
    assert {photos.photos[m.index].key for m in group.members if m.rank == 1} == {"card.JPEG", "card.CR3"}


def random_photo(random: np.random.Generator, number: int) -> Photo:
    """One of few moments, cameras, folders and digests, so that all kinds of groups happen."""
    moment = Moment(1000.5 + random.integers(30) * random.choice([0.3, 40]), 0.01) if random.random() < 0.9 else None
    name = f"{'ab'[random.integers(2)]}/IMG_{random.integers(100, 112)}"
    kind = random.choice(["JPEG", "JPEG", "CR3"])
    camera = random.choice(["A", "B", None])
    measures = {"blur_px": float(random.integers(1, 4)), "clip_iqa": float(random.random())}
    sha256 = f"digest {random.integers(25)}"
    return Photo(f"key {number:03}", sha256, f"{name}.{kind}", 60, 40, kind, moment, camera=camera, measures=measures)


def set_of(photos: list[Photo]) -> PhotoSet:
    """Photos whose vectors depend on their digests."""
    angles = np.array([float(photo.sha256[7:]) // 13 for photo in photos])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    count = len(photos)
    return PhotoSet(photos, np.zeros((count, 8, 32), np.uint8), np.zeros(count, bool), vectors, lambda index: None)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


def test_groups_do_not_depend_on_order(random: np.random.Generator) -> None:
    kinds: set[str] = set()
    for _ in range(8):
        photos = set_of([random_photo(random, number) for number in range(40)])
        groups = group_photos(photos)
        expected = told(groups, photos)
        members = [member.index for group in groups for member in group.members]
        assert len(members) == len({*members})
        assert len({group.id for group in groups}) == len(groups)
        assert all(len(group.members) > 1 for group in groups)
        kinds |= {group.kind for group in groups}
        shuffled = set_of([photos.photos[index] for index in random.permutation(40)])
        assert told(group_photos(shuffled), shuffled) == expected
    assert kinds == {"copy", "burst", "set"}


def test_changes_give_the_groups_of_a_full_run(random: np.random.Generator) -> None:
    """Photos are added, changed and deleted; what is remembered passes through JSON."""
    photos: list[Photo] = []
    memory: Memory = {}
    for number in range(30):
        if photos and random.random() < 0.3:
            del photos[random.integers(len(photos))]
        if photos and random.random() < 0.3:
            index = random.integers(len(photos))
            photos[index] = replace(random_photo(random, 0), key=photos[index].key)
        photos += [random_photo(random, number * 3 + place) for place in range(random.integers(3))]
        memory = json.loads(json.dumps(memory))
        current = set_of(photos)
        assert told(group_photos(current, memory=memory), current) == told(group_photos(current), current)


def test_a_new_photo_touches_its_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def counted(photos: PhotoSet, *arguments: Any) -> list[Group]:
        computed.append(len(photos.photos))
        return of_part(photos, *arguments)

    of_part = grouping.group_part
    monkeypatch.setattr(grouping, "group_part", counted)
    bursts = [
        Photo(
            f"{hour}-{place}", f"digest {hour * 5 + place}", f"a/IMG_{hour}{place:03}.jpg", 60, 40, "JPEG", moment, "A"
        )
        for hour in range(1, 7)
        for place, moment in enumerate(Moment(3600 * hour + 1.5 + tenth / 10, 0.01) for tenth in range(3))
    ]
    memory: Memory = {}
    before = group_photos(set_of(bursts), memory=memory)
    assert computed == [3] * 6
    added = [*bursts, replace(bursts[4], key="new", sha256="digest 14", moment=Moment(7201.9, 0.01))]
    after = group_photos(set_of(added), memory=memory)
    assert computed == [3] * 6 + [4]
    assert [group.id for group in after] == [group.id for group in before]
    group_photos(set_of(added[3:]), memory=memory)
    assert computed == [3] * 6 + [4]
    assert len(memory) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"measures": {"blur_px": 9.0}},
        {"moment": Moment(3601.65, 0.01)},
        {"exposure": Exposure(1 / 60)},
        {"path": "a/IMG_0999.jpg"},
        {"width": 61},
        {"burst": "uuid"},
    ],
)
def test_what_is_remembered_covers_each_field(change: dict[str, Any]) -> None:
    photos = [
        Photo(f"{place}", f"digest {place}", f"a/IMG_{place:04}.jpg", 60, 40, "JPEG", Moment(3601.5 + place / 10, 0.01))
        for place in range(3)
    ]
    memory: Memory = {}
    group_photos(set_of(photos), memory=memory)
    before = {*memory}
    group_photos(set_of([replace(photos[0], **change), *photos[1:]]), memory=memory)
    assert len(before) == len(memory) == 1
    assert before != {*memory}


def test_a_copy_without_time_is_in_the_burst_of_its_original() -> None:
    """The largest copy of a frame has no EXIF: the frame's moment is that of the smaller one."""
    roll = Roll()
    first, second = roll.shoot([handheld(picture("coffee"), number) for number in range(2)])
    large = replace(roll.photos[0], width=9000, height=6000)
    roll.add(handheld(picture("coffee"), 0), "large", path="x.jpg", width=large.width, height=large.height, **NOTHING)
    photos = roll.photo_set()
    (group,) = group_photos(photos)
    assert group.kind == "burst"
    assert copies_of(group, photos) == {first: "large"}
    assert second in {photos.photos[member.index].key for member in group.members if member.rank == 1}
