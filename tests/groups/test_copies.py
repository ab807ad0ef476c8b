"""Copies of scikit-image's pictures, found with nothing but their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage import data

from curation_features.fingerprints import Fingerprint
from curation_features.fingerprints.measure import measure
from curation_features.groups import Exposure, Moment, Photo, PhotoSet
from curation_features.groups.confirmation import Exposures, may_be_one_exposure
from curation_features.groups.copies import Copies, find_copies, find_edges, link_copies

SCENES = ("astronaut", "coffee", "rocket")
TEXTURES = ("brick", "gravel")
EDITS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda rgb: rgb,
    "JPEG 30": lambda rgb: cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
    "half": lambda rgb: cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "gray": lambda rgb: np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "brighter": lambda rgb: np.clip(rgb.astype(float) * 1.4, 0, 255).astype(np.uint8),
    "cropped": lambda rgb: rgb[12:-12, 12:-12],
    "mirrored": lambda rgb: rgb[:, ::-1],
    "turned": lambda rgb: np.rot90(rgb),
    "framed": lambda rgb: cv2.copyMakeBorder(rgb, 20, 20, 20, 20, cv2.BORDER_CONSTANT, value=(255, 255, 255)),
}


@cache
def scene(name: str) -> np.ndarray:
    picture = getattr(data, name)()
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def photo(key: str, rgb: np.ndarray, **facts: object) -> tuple[Photo, Fingerprint]:
    digest = sha256(np.ascontiguousarray(rgb).tobytes() + str(rgb.shape).encode()).hexdigest()
    described = Photo(key, digest, f"{key}.jpg", rgb.shape[1], rgb.shape[0], "JPEG", **facts)
    return described, measured(np.ascontiguousarray(rgb).tobytes(), rgb.shape)


@cache
def measured(pixels: bytes, shape: tuple[int, ...]) -> Fingerprint:
    return measure(np.frombuffer(pixels, np.uint8).reshape(shape))


def photo_set(*photos: tuple[Photo, Fingerprint]) -> PhotoSet:
    return PhotoSet(
        [one for one, _ in photos],
        np.array([found.hashes for _, found in photos]),
        np.ones(len(photos), bool),
        None,
        lambda index: photos[index][1],
    )


def named(photos: PhotoSet, groups: list[Copies]) -> list[list[str]]:
    return [[photos.photos[index].key for index in group.members] for group in groups]


@pytest.fixture(scope="module")
def edits():
    """The scenes with all edits, textures with three of them."""
    made = [(name, edit) for name in SCENES for edit in EDITS]
    made += [(name, edit) for name in TEXTURES for edit in ("", "gray", "mirrored")]
    return [photo(f"{name} {edit}", EDITS[edit](scene(name))) for name, edit in made]


@pytest.fixture(scope="module")
def expected(edits):
    return sorted(sorted(one.key for one, _ in edits if one.key.startswith(name)) for name in (*SCENES, *TEXTURES))


@pytest.mark.long
def test_each_scene_is_one_group(edits, expected):
    photos = photo_set(*edits)
    groups = find_copies(photos)
    assert named(photos, groups) == expected
    assert min(group.similarity for group in groups) > 0.6
    members, coffee = named(photos, groups)[2], groups[2]
    changes = dict(zip(members, coffee.changes, strict=True))
    assert changes["coffee half"] == "reduced"
    assert changes["coffee mirrored"] == "mirrored"
    assert changes["coffee turned"] == "turned by 270 degrees"
    assert changes["coffee gray"] == "gray"
    assert changes["coffee cropped"] == "cropped"
    assert changes["coffee framed"].startswith("with a border")
    assert changes["coffee JPEG 30"] == "re-encoded"


@pytest.mark.long
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False))
def test_order_and_batches_do_not_matter(edits, random):
    some = [one for at, one in enumerate(edits) if at % 9 in (0, 3, 5, 6, 8)][:13]
    photos = photo_set(*some)
    whole = find_copies(photos)
    order = random.sample(range(len(some)), len(some))
    shuffled = photo_set(*(some[index] for index in order))
    first = order[:8]
    earlier = photo_set(*(some[index] for index in first))
    edges = [*find_edges(earlier), *find_edges(shuffled, range(8, len(some)))]
    groups = link_copies(shuffled, edges)
    assert named(shuffled, groups) == named(photos, whole)
    assert [group.similarity for group in groups] == [group.similarity for group in whole]
    assert [group.changes for group in groups] == [group.changes for group in whole]


def test_equal_bytes_are_copies_without_a_fingerprint():
    one, _ = photo("b", scene("coffee"))
    photos = replace(
        photo_set(*[photo("b", scene("coffee"))] * 3), has_hash=np.zeros(3, bool), fingerprint=lambda _: None
    )
    photos = replace(photos, photos=[one, replace(one, key="a"), replace(one, key="c", sha256="0" * 64)])
    (group,) = find_copies(photos)
    assert (list(group.members), group.similarity, list(group.changes)) == ([1, 0], 1.0, ["", "same bytes"])


def test_photos_without_detail_are_no_copies():
    flat = [photo(f"flat {value}", np.full((300, 400, 3), value, np.uint8)) for value in (0, 1, 128)]
    random = np.random.default_rng(0)
    noise = [photo(f"dark {seed}", random.integers(0, 4, (300, 400, 3)).astype(np.uint8)) for seed in range(3)]
    skies = [
        photo(f"sky {top}", np.tile(np.linspace(top, 235, 300)[:, None, None], (1, 400, 3)).astype(np.uint8))
        for top in (90, 120, 150)
    ]
    assert find_copies(all_candidates(*flat, *noise, *skies)) == []
    soft = cv2.GaussianBlur(scene("coffee"), (0, 0), 12)
    again = photo("small", cv2.resize(soft, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)[:, ::-1])
    photos = photo_set(
        *skies, photo("soft", soft), again, photo("other", cv2.GaussianBlur(scene("rocket"), (0, 0), 12))
    )
    assert named(photos, find_copies(photos)) == [["small", "soft"]]


@pytest.mark.parametrize(
    ("facts", "other", "is_copy"),
    [
        ({"moment": Moment(1000.0, 1)}, {"moment": Moment(1000.0, 1)}, True),
        ({"moment": Moment(1000.0, 0.01)}, {"moment": Moment(1000.1, 0.01)}, False),
        ({"moment": Moment(1000.0, 1)}, {"moment": Moment(1002.0, 1)}, False),
        ({"moment": Moment(1000.0, 60)}, {"moment": Moment(1040.0, 1)}, True),
        ({"moment": Moment(1000.0, 1)}, {"moment": Moment(1000.0 + 7200, 1)}, True),
        ({"moment": Moment(1000.0, 1)}, {}, True),
        ({"exposure": Exposure(seconds=1 / 100)}, {"exposure": Exposure(seconds=1 / 50)}, False),
        ({"exposure": Exposure(aperture=2.8, iso=100)}, {"exposure": Exposure(aperture=2.8, iso=200)}, False),
        ({"exposure": Exposure(seconds=1 / 100, bias_ev=0)}, {"exposure": Exposure(seconds=0.0101, bias_ev=1)}, True),
    ],
)
def test_two_exposures_are_no_copies(facts, other, is_copy):
    photos = photo_set(photo("a", scene("coffee"), **facts), photo("b", EDITS["JPEG 30"](scene("coffee")), **other))
    assert bool(find_copies(photos)) == is_copy


def test_many_pairs_are_ruled_out_as_one_is():
    random = np.random.default_rng(5)

    def chosen(*values):
        return random.choice(np.array([None, *values], object))

    photos = []
    for number in range(60):
        seconds, resolution = chosen(0.0, 0.4, 1.0, 5.0, 899.8, 900.0, 3600.0), float(random.choice([0.01, 1.0, 60.0]))
        moment = None if seconds is None else Moment(seconds, resolution)
        exposure = Exposure(chosen(0.01, 0.0105, 0.02), chosen(4.0, 5.6), chosen(100, 200))
        photos.append(Photo(str(number), str(number), f"{number}x", 6, 4, "JPEG", moment, None, exposure))
    one, other = np.divmod(np.arange(60 * 60), 60)
    found = Exposures(photos).may_be_one(one, other)
    assert found.tolist() == [may_be_one_exposure(photos[i], photos[j]) for i, j in zip(one, other, strict=True)]
    assert 0.1 < found.mean() < 0.9


def test_times_within_reach_hold_all_possible_pairs():
    """Of some photos next to each other by time, on both sides of a quarter of an hour."""
    random = np.random.default_rng(9)
    moments = [Moment(float(random.choice([0, 899, 2e6])) + random.random(), 0.01 + (i % 4 == 0)) for i in range(80)]
    moments += [Moment(450.0 + i, 1.0) for i in range(80)]
    photos = [Photo(str(i), str(i), "", 6, 4, "JPEG", one) for i, one in enumerate([*moments, *[None] * 5])]
    times, every = Exposures(photos), np.arange(165)
    order = times.order(random.permutation(every))
    assert sorted(order.tolist()) == every.tolist()
    numbers = []
    for some in np.array_split(order, 40):
        within = times.within_reach(some, every)
        one, other = np.repeat(some, 165), np.tile(every, len(some))
        assert set(other[times.may_be_one(one, other)].tolist()) <= set(within.tolist())
        numbers.append(len(within))
    assert np.median(numbers) < 80


def test_equal_files_are_linked_once(edits):
    copies = edits[:2]
    without = replace(copies[0][0], key="0")  # its manifest came without a fingerprint
    photos = photo_set((without, copies[0][1]), *copies[:2])
    photos.has_hash[0] = False
    [group] = find_copies(photos)
    assert len(group.members) == 3


@pytest.mark.long
def test_a_chain_of_crops_is_never_one_group():
    step, number = 40, 14
    wide = cv2.resize(data.hubble_deep_field(), (step * number + 400, 1000))
    frames = [
        photo(f"{step * at:04}", np.ascontiguousarray(wide[300:700, step * at :][:, :400])) for at in range(number)
    ]
    angles = np.arange(number) * np.arccos(0.96)  # vectors of neighbours are candidates
    photos = replace(photo_set(*frames), vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    groups = find_copies(photos)
    assert max(len(group.members) for group in groups) > 2
    for group in groups:
        lefts = [int(photos.photos[index].key) for index in group.members]
        common = 400 - (max(lefts) - min(lefts))
        assert common / (800 - common) > 0.49
        assert group.similarity == pytest.approx(common / (800 - common), abs=0.02)


def all_candidates(*photos: tuple[Photo, Fingerprint]) -> PhotoSet:
    """Photos with equal vectors: geometry alone decides."""
    return replace(photo_set(*photos), vectors=np.ones((len(photos), 1), np.float32))


def test_a_shared_logo_makes_no_copy():
    logo = np.ascontiguousarray(scene("astronaut")[60:200, 160:300])
    photos = []
    for name in ("coffee", "brick", "rocket"):
        rgb = cv2.resize(scene(name), (600, 450))
        rgb[-140:, -140:] = logo
        photos.append(photo(name, rgb))
    assert find_copies(all_candidates(*photos)) == []


def test_two_views_of_one_scene_are_no_copies():
    left, right, _ = data.stereo_motorcycle()
    assert find_copies(all_candidates(photo("left", left), photo("right", right))) == []
    assert find_copies(all_candidates(photo("left", left), photo("cut", left[20:, 40:])))
