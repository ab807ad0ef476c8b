"""The best frame of a burst, and the copy to keep, with the reason in words."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from sequences import exposed, picture, window

from curation_features.fingerprints.measure import measure
from curation_features.groups import Photo, PhotoSet
from curation_features.groups.best import NO_WINNER, rank_frames
from curation_features.groups.keeper import rank_copies
from curation_features.groups.look import Look


def frame(name: str = "", size: tuple[int, int] = (6000, 4000), **measures: float | None) -> Photo:
    return Photo(name, name, name, *size, "JPEG", measures=measures)


NAN = float("nan")


@pytest.mark.parametrize(
    ("frames", "ranks", "words"),
    [
        ([{"focus_px": 1.5}, {"focus_px": 1.0}, {"focus_px": 3.0}], [2, 1, 3], "sharper than the others"),
        ([{"focus_px": 1.0}, {"focus_px": 1.04}, {"focus_px": 2.0}], [1, 1, 3], NO_WINNER),
        ([{"blur_px": 1.5, "focus_px": 1}, {"blur_px": 1.0, "focus_px": None}], [2, 1], "sharper"),  # one for all
        ([{"blur_px": 1.0}, {"blur_px": NAN}, {"blur_px": None}], [1, 2, 2], "sharper"),
        (
            [{"blur_px": 1, "clipped_centre": 0.2}, {"blur_px": 1.02, "clipped_centre": 0.0}, {"blur_px": 3}],
            [2, 1, 3],
            "as sharp as the sharpest; highlights kept",
        ),
        (
            [{"blur_px": 2, "clipped_centre": 0.2}, {"blur_px": 1.0, "clipped_centre": 0.0}],
            [2, 1],
            "sharper than the others; highlights kept",
        ),
        ([{"blur_px": 1, "clipped_centre": 0.2}, {"blur_px": 2, "clipped_centre": 0.0}], [1, 2], "sharper"),
        ([{"headroom_ev": 2.0}, {"headroom_ev": 0.5}], [2, 1], "brighter than the others"),
        ([{"clip_iqa": 0.5}, {"clip_iqa": 0.7}, {"clip_iqa": 0.66}], [3, 1, 1], NO_WINNER),
        ([{"clip_iqa": 0.5}, {"clip_iqa": 0.7}], [2, 1], "rated higher by CLIP-IQA than the others"),
        ([{"noise_luma": 9.0, "noise": 0.9}, {"noise_luma": 0.1, "noise": 0.1}], [1, 1], NO_WINNER),  # never by noise
        ([{}, {}, {}], [1, 1, 1], f"{NO_WINNER}: nothing measured tells them apart"),
    ],
)  # fmt: skip
def test_frames_rank_by_what_can_be_compared(frames: list[dict[str, Any]], ranks: list[int], words: str) -> None:
    photos = [frame(**measures) for measures in frames]
    found = rank_frames(photos)
    assert [ranked.rank for ranked in found] == ranks
    best = found[ranks.index(1)].reason
    assert words in best
    assert (NO_WINNER in best) is (ranks.count(1) > 1)
    assert all(ranked.reason != best for ranked in found if ranked.rank > 1)
    assert [ranked.rank for ranked in rank_frames(photos[::-1])] == ranks[::-1]


def test_a_worse_frame_has_the_numbers() -> None:
    photos = [frame(blur_px=1.1, clipped_centre=0.0), frame(blur_px=2.3), frame(blur_px=1.1, clipped_centre=0.043)]
    reasons = [ranked.reason for ranked in rank_frames(photos)]
    assert reasons[1] == "softer: edges 2.30 px wide, the sharpest 1.10 px at 512 px"
    assert reasons[2] == "highlights clipped: 4.3 % of the middle, at best 0.0 %"


def test_sizes_that_differ_are_compared_at_one_size() -> None:
    """Edges in pixels of the original are narrower in a smaller photo."""
    photos = [frame(focus_px=2.0, blur_px=1.0), frame(size=(3000, 2000), focus_px=1.2, blur_px=1.4)]
    assert [ranked.rank for ranked in rank_frames(photos)] == [1, 2]


@pytest.mark.parametrize(
    ("needed", "more", "ranks", "words"),
    [
        ({3}, {}, [1, 3, 4, 1], f"{NO_WINNER} among 2: sharp in different places"),
        ({1, 2, 3}, {}, [1, 1, 1, 1], f"{NO_WINNER}: sharp in different places"),
        ({3}, {"clip_iqa": 0.1}, [1, 3, 4, 1], f"{NO_WINNER} among 2: sharp in different places"),  # it rates sharpness
        ({3}, {"clipped_centre": 0.3}, [1, 3, 4, 2], "as sharp as the sharpest; highlights kept"),
    ],
)
def test_sharpness_does_not_rank_a_needed_frame(
    needed: set[int], more: dict[str, float], ranks: list[int], words: str
) -> None:
    """The first frame is the sharpest, and the last one the softest but for a place that no other frame has."""
    measures = {"clipped_centre": 0.0, "clip_iqa": 0.9}
    photos = [frame(**{**measures, "blur_px": blur}) for blur in (1.0, 1.5, 2.0)]
    photos.append(frame(**{**measures, "blur_px": 3.0, **more}))
    found = rank_frames(photos, lambda sharpest, other: sharpest == 0 and other in needed)
    assert [ranked.rank for ranked in found] == ranks
    assert found[0].reason == words


BLOCKY, SMOOTH = {"blocks": 1.9}, {"blocks": 1.0}
FRAMED = {f"border_{side}": 0.1 for side in ("top", "bottom", "left", "right")}
BY_NAME = "equal to the others, and first by name"
COFFEE = picture("coffee")
GRAY = np.stack([cv2.cvtColor(COFFEE, cv2.COLOR_RGB2GRAY)] * 3, axis=2)


def copy(path: str, rgb: np.ndarray = COFFEE, scale: float = 10, **changes: Any) -> tuple[Photo, np.ndarray]:
    size = round(rgb.shape[1] * scale), round(rgb.shape[0] * scale)
    fields = {"format": "JPEG", "camera": None, **changes}
    return Photo(path, fields.pop("sha256", path), path, *size, **fields), rgb


@pytest.mark.parametrize(
    ("copies", "order", "best", "worst"),
    [
        ([copy("a", scale=5), copy("b"), copy("c", scale=2)], "bac", "largest", "smaller: 1200 x 800, the best 6000"),
        ([copy("a", window(COFFEE, 0.5, 0.5, 0.7)), copy("b")], "ba", "largest; the other is a crop", "cropped"),
        ([copy("a", np.rot90(COFFEE), 8), copy("b")], "ba", "largest", "smaller: 3200 x 4800, the best 6000 x 4000"),
        ([copy("a", GRAY), copy("b")], "ba", "in colour", "without colour"),
        ([copy("a", exposed(COFFEE, 2)), copy("b")], "ba", "highlights kept", "highlights clipped"),
        ([copy("a"), copy("b", camera="A")], "ba", "with the camera's data", "without the camera's data"),
        ([copy("a", measures=BLOCKY), copy("b", measures=SMOOTH)], "ba", "least compressed", "more compressed"),
        ([copy("a"), copy("b", format="TIFF")], "ba", "in the format that keeps most", "in a format that keeps less"),
        ([copy("x/a (1)"), copy("x/abcde"), copy("b")], ["b", "x/abcde", "x/a (1)"], BY_NAME, "equal to the best"),
        ([copy("b", sha256="1"), copy("a", sha256="1")], "ab", BY_NAME, "same bytes as the best"),
        ([copy("a", measures=FRAMED), copy("b", scale=9)], "ba", "largest", "smaller"),
    ],
)  # fmt: skip
def test_the_copy_nearest_to_the_camera_is_kept(copies: list[Any], order: Any, best: str, worst: str) -> None:
    photos = [photo for photo, _ in copies]
    prints = [measure(np.ascontiguousarray(rgb)) for _, rgb in copies]
    count = len(photos)
    hashes = np.zeros((count, 8, 32), np.uint8)
    look = Look(PhotoSet(photos, hashes, np.ones(count, bool), None, lambda index: prints[index]))
    found = rank_copies(range(count), photos, look)
    assert [photos[index].path for index, _ in found] == list(order)
    assert [ranked.rank for _, ranked in found] == list(range(1, count + 1))
    assert found[0][1].reason == best
    assert found[-1][1].reason.startswith(worst)
    assert rank_copies(range(count)[::-1], photos, look) == found
