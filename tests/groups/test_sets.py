"""Brackets, focus stacks and panoramas, told apart from bursts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from sequences import BASE, Roll, crossing, described, dome, exposed, focused, handheld, noisy, panned, picture

from curation_features.groups import Exposure, Moment
from curation_features.groups.brackets import find_brackets
from curation_features.groups.grouping import group_photos
from curation_features.groups.pictures import Frame, Picture

THIRD = 1 / 3
NOMINAL = (30, 15, 8, 4, 2, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 15, 1 / 30, 1 / 60, 1 / 125, 1 / 250, 1 / 500, 1 / 1000)


class OneView:
    """A look that takes all photos for one view."""

    def framing(self, one: int, other: int) -> float:
        return 1.0

    def common(self, one: int, other: int) -> float:
        return 1.0


def frames(stops: Sequence[float], every: float = 0.5, of: Callable[[float], Exposure] | None = None) -> list[Frame]:
    of = of or (lambda stop: replace(BASE, seconds=BASE.seconds * 2**stop))
    return [
        Frame(Picture(place), ("camera", "A"), Moment(1000 + place * every, 0.01), of(stop), None, None)
        for place, stop in enumerate(stops)
    ]


def marked(stop: float) -> Exposure:
    return Exposure(BASE.seconds * 2**stop, 5.6, 200, is_bracketed=True)


def nominal(stop: float) -> Exposure:
    """Whole stops as cameras write them: 1/15, 1/30, 1/60, 1/125."""
    return Exposure(NOMINAL[round(9 - stop)], 5.6, 200)


@pytest.mark.parametrize(
    ("row", "sizes"),
    [
        (frames([0, -2, 2]), [3]),
        (frames([0, 1, -1]), [3]),
        (frames([-1, 0, 1]), [3]),
        (frames([2, 0, -2]), [3]),
        (frames([0, -2, -1, 1, 2]), [5]),
        (frames([0, -1, 1, -2, 2]), [5]),
        (frames([0, -1 / 2, 1 / 2, -1, 1]), [5]),
        (frames([0, -3, -2, -1, 1, 2, 3], of=nominal), [7]),
        (frames([0, -2 * THIRD, 2 * THIRD]), [3]),
        (frames([-2 * THIRD, -THIRD, 0, THIRD, 2 * THIRD], of=marked), [5]),
        (frames([0, -2, 2], of=lambda stop: Exposure(1 / 60, 8 / 2 ** (stop / 2), 100)), [3]),  # by aperture
        (frames([0, -2, 2], of=lambda stop: Exposure(bias_ev=stop)), [3]),
        (frames([-2, 0, 2], every=9, of=lambda stop: Exposure(8 * 2**stop, 8, 100)), [3]),  # exposures of seconds
        (frames([0, -1, 1] * 3, every=0.1), [3, 3, 3]),
        (frames([0, -2, 2], every=4.5), []),  # too slow
        (frames([0, -1]), []),
        (frames([0, -THIRD, THIRD]), []),  # spans less than 1 EV
        (frames([0, -1, 1.5]), []),
        (frames([0, 0, 1]), []),
        (frames([0, -0.83, 0.83]), []),  # no step that cameras have
        (frames([0, THIRD, 2 * THIRD, 1, 4 * THIRD], every=0.1), []),  # the dial, click by click
        (frames([0, 0, 0, -1, -2, -2, -2], every=0.1), []),
        (frames([0, 0, -2, 2, 2], every=0.1), []),  # frames follow at once
        (frames([1, -1, 0, 2, -2]), []),  # no order of a camera
        (frames([0, -2, 2], of=lambda stop: Exposure(BASE.seconds * 2**stop, 5.6 if stop else None)), []),
        (frames([0, -2, 2], of=lambda stop: Exposure()), []),
    ],
)
def test_a_bracket_has_a_cameras_pattern(row: list[Frame], sizes: list[int]) -> None:
    found = find_brackets(row, OneView())  # type: ignore[arg-type]
    assert [end - begin for begin, end in found] == sizes
    assert all(one[1] <= other[0] for one, other in pairwise(found))


@pytest.mark.parametrize(("stops", "strange", "count"), [((-2, 0, 2), {1, 2}, 0), ((0, -1, 1, -2, 2), {0, 2}, 1)])
def test_other_views_are_not_a_bracket_of_three(stops: tuple[int, ...], strange: set[int], count: int) -> None:
    class OtherViews(OneView):
        def framing(self, one: int, other: int) -> float:
            return 0.5 if {one, other} == strange else 1.0

        def common(self, one: int, other: int) -> float:
            return 0.1

    assert len(find_brackets(frames(stops), OtherViews())) == count  # type: ignore[arg-type]


def stack(rgb: np.ndarray, places: Sequence[float]) -> list[np.ndarray]:
    return [noisy(focused(rgb, at), seed) for seed, at in enumerate(places)]


def dome_by_hand(rgb: np.ndarray) -> list[np.ndarray]:
    return [handheld(focused(rgb, at, depth=dome(rgb)), frame) for frame, at in enumerate(np.linspace(0.1, 0.8, 5))]


def brighter_and_brighter(roll: Roll, rgb: np.ndarray) -> list[str]:
    """A panorama with automatic exposure: each frame has a third of a stop more."""
    keys = []
    for number, frame in enumerate(panned(wide(rgb), 3, 0.4)):
        exposure = replace(BASE, seconds=BASE.seconds * 2 ** (number / 3))
        keys += roll.shoot([noisy(exposed(frame, number / 3), number)], 3, exposure=exposure)
    return keys


def wide(rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb, cv2.resize(picture("astronaut"), rgb.shape[1::-1])], axis=1)


def shaken(rgb: np.ndarray) -> list[np.ndarray]:
    return [cv2.GaussianBlur(handheld(rgb, frame), (0, 0), 0.3 + frame / 2) for frame in range(4)]


CASES: dict[str, tuple[str, Callable[[Roll, np.ndarray], Any]]] = {
    "three exposures": ("bracket", lambda roll, rgb: roll.bracket(rgb, (0, -2, 2))),
    "seven exposures": ("bracket", lambda roll, rgb: roll.bracket(rgb, (-3, -2, -1, 0, 1, 2, 3), 0.2)),
    "focus stack": ("focus stack", lambda roll, rgb: roll.shoot(stack(rgb, np.linspace(0.1, 0.9, 5)), 5)),
    "fast stack": ("focus stack", lambda roll, rgb: roll.shoot(stack(rgb, (0.7, 0.5, 0.3)), 0.2)),
    "dome by hand": ("focus stack", lambda roll, rgb: roll.shoot(dome_by_hand(rgb))),
    "automatic exposure": ("panorama", brighter_and_brighter),
    "panorama": ("panorama", lambda roll, rgb: roll.shoot(panned(wide(rgb), 4, 0.5), 25)),
    "upwards": (
        "panorama",
        lambda roll, rgb: roll.shoot([cv2.rotate(f, cv2.ROTATE_90_CLOCKWISE) for f in panned(wide(rgb), 3, 0.5)], 2),
    ),
    "burst": ("burst", lambda roll, rgb: roll.shoot([handheld(rgb, frame) for frame in range(5)])),
    "dial": ("burst", lambda roll, rgb: roll.bracket(rgb, (0, 0, THIRD, 2 * THIRD, 1, 1, 4 * THIRD), 0.1)),
    "blurred burst": ("burst", lambda roll, rgb: roll.shoot(shaken(rgb))),
    "moving subject": (
        "burst",
        lambda roll, rgb: roll.shoot(
            [noisy(crossing(rgb, picture("chelsea"), at, 0.25), round(at * 8)) for at in (0, 0.25, 0.5, 0.75, 1)]
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sets_are_recognised_and_bursts_are_none(name: str) -> None:
    """One camera shoots the frames, after a photo of something else."""
    kind, shoot = CASES[name]
    roll = Roll()
    roll.shoot([picture("rocket")], 30)
    keys = shoot(roll, picture("coffee"))
    photos = roll.photo_set()
    (group,) = groups = group_photos(photos)
    assert described(groups, photos) == {tuple(keys): kind}
    assert 0 <= group.similarity <= 1
    assert kind != "panorama" or 0.2 < group.similarity < 0.7  # half of the frame is common, or less
    if kind != "burst":
        assert {(member.rank, member.copy_of) for member in group.members} == {(1, None)}


@pytest.mark.parametrize(("order", "every"), [((0, 1, 2), 0.1), ((0, 1, 0), 5)])
def test_a_fast_pan_or_a_return_is_no_panorama(order: tuple[int, ...], every: float) -> None:
    roll = Roll()
    parts = panned(wide(picture("coffee")), 3, 0.5)
    roll.shoot([noisy(parts[place], seed) for seed, place in enumerate(order)], every)
    photos = roll.photo_set()
    assert "panorama" not in described(group_photos(photos), photos).values()


def ranks_of(frames: Sequence[np.ndarray]) -> tuple[list[int], str]:
    """Ranks of the frames of a burst whose edges are wider from frame to frame, and the reason of the first."""
    roll = Roll()
    for place, frame in enumerate(frames):
        roll.shoot([frame], measures={"blur_px": 1.0 + place})
    (group,) = group_photos(roll.photo_set())
    assert group.kind == "burst"
    members = sorted(group.members, key=lambda member: member.index)
    return [member.rank for member in members], members[0].reason


@pytest.mark.parametrize("places", [(0.2, 0.8), (0.5, 0.9, 0.1, 0.7)])
def test_frames_sharp_in_different_places_share_a_rank(places: tuple[float, ...]) -> None:
    ranks, reason = ranks_of(stack(picture("coffee"), places))
    assert ranks == [1] * len(places)
    assert "sharp in different places" in reason


def test_frames_that_are_softer_everywhere_are_ranked() -> None:
    """The last but one is also sharp where the first is not; the last one is softer in all places."""
    rgb = picture("coffee")
    soft = [noisy(cv2.GaussianBlur(rgb, (0, 0), sigma), round(sigma)) for sigma in (1, 2)]
    assert ranks_of([noisy(rgb, 0), *soft]) == ([1, 2, 3], "sharper than the others")
    part = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    part[:, :150], rgb = rgb[:, :150], np.concatenate([cv2.blur(rgb[:, :150], (3, 3)), rgb[:, 150:]], axis=1)
    ranks, reason = ranks_of([noisy(rgb, 0), noisy(part, 1), soft[1]])
    assert ranks == [1, 1, 3]
    assert reason == "no clear winner among 2: sharp in different places"


def test_frames_of_other_views_share_a_rank() -> None:
    """A pan with the shutter held down: two frames share a strip, so that none replaces the other."""
    frames = [noisy(frame, seed) for seed, frame in enumerate(panned(wide(picture("coffee")), 2, 0.78))]
    assert ranks_of(frames) == ([1, 1], "no clear winner: not of one view")


def test_a_subject_that_is_framed_again_is_no_panorama() -> None:
    """Each frame shows another part, and moves on in one direction, but the subject is in all."""
    rgb = wide(picture("coffee"))
    roll = Roll()
    roll.shoot([noisy(rgb[:, left : left + 600], left) for left in (0, 150, 300)], 2.5)
    assert "panorama" not in described(group_photos(roll.photo_set()), roll.photo_set()).values()
    roll = Roll()
    keys = roll.shoot([noisy(rgb[:, left : left + 600], left) for left in (0, 200, 400)], 2.5)
    assert described(group_photos(roll.photo_set()), roll.photo_set()) == {tuple(keys): "panorama"}


def test_a_strip_of_sky_does_not_divide_a_panorama() -> None:
    """The strip that the second and the third of four frames share has no detail."""
    rgb = wide(picture("coffee"))
    width = rgb.shape[1] / (1 + 3 * 0.6)
    rgb[:, round(1.2 * width) : round(1.6 * width)] = 128
    roll = Roll()
    keys = roll.shoot([noisy(frame, seed) for seed, frame in enumerate(panned(rgb, 4, 0.4))], 4)
    photos = roll.photo_set()
    assert described(group_photos(photos), photos) == {tuple(keys): "panorama"}


def test_a_subject_that_moves_makes_no_focus_stack() -> None:
    """The focus travels, but each frame shows another place of the subject: one of them is wanted."""
    roll = Roll()
    frames = stack(picture("coffee"), (0.2, 0.4, 0.6, 0.8))
    roll.shoot(
        [crossing(frame, picture("chelsea"), at, 0.5) for frame, at in zip(frames, (0, 0.3, 0.6, 0.9), strict=True)]
    )
    assert {group.kind for group in group_photos(roll.photo_set())} == {"burst"}


def test_a_part_of_a_burst_is_no_focus_stack() -> None:
    """Three frames of one exposure among others that follow at once."""
    roll = Roll()
    roll.shoot(stack(picture("coffee"), (0.2, 0.5, 0.8)))
    roll.shoot([noisy(picture("coffee"), 9)] * 2, exposure=replace(BASE, seconds=1 / 200))
    assert {group.kind for group in group_photos(roll.photo_set())} == {"burst"}
