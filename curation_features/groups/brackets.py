"""Exposure brackets: at least three frames of one view whose exposures are evenly spaced.

A burst during which the exposure dial is turned has other exposures, too, but they drift: values repeat, steps differ,
or more frames follow at once. A bracket has as many frames under as over the middle one, in an order that cameras use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from curation_features.groups.look import Look
from curation_features.groups.photos import Exposure
from curation_features.groups.pictures import Frame, gap, is_apart

GAP = 4.0
"""Seconds between two exposures of a bracket, at most."""

SIZES = (9, 7, 5, 3)
LEAST_SPAN = 1.0
"""EV from the darkest to the brightest frame, at least."""

DIAL_STEP = 0.6
"""EV between frames from which rising or falling exposures are a bracket; a click of a dial is 1/3 EV."""

ROUNDING = 0.15
"""EV by which an exposure may be off its place: shutter speeds and ISO are written as rounded numbers."""

ALIKE = 0.6
"""Least rank correlation of two frames of one view; photos of different scenes reach 0.5."""

CERTAIN_SIZE = 5
"""Frames from which the pattern of exposures is not by chance: one pair of one view suffices, others may be texture."""

COMMON = 0.7
"""Least share that two frames have in common by geometry, if ranks do not correlate: a shake of the hand."""


def light(exposures: Sequence[Exposure]) -> list[float] | None:
    """Return the light of exposures in EV, relative to 1 s at f/1 and ISO 100; from the compensation if need be.

    None if the cameras do not say it for all of them in the same way.
    """
    if all(exposure.seconds for exposure in exposures):
        for values in ([e.aperture for e in exposures], [e.iso for e in exposures]):
            if any(values) and not all(values):
                return None
        return [
            math.log2(e.seconds or 1) - 2 * math.log2(e.aperture or 1) + math.log2((e.iso or 100) / 100)
            for e in exposures
        ]
    biases = [exposure.bias_ev for exposure in exposures if exposure.bias_ev is not None]
    return biases if len(biases) == len(exposures) and not any(e.seconds for e in exposures) else None


def find_brackets(row: Sequence[Frame], look: Look) -> list[tuple[int, int]]:
    """Return begin and end of each bracket in a row of frames, which are in order of time."""
    spans: list[tuple[int, int]] = []
    begin = 0
    while begin < len(row) - 2:
        size = next((size for size in SIZES if (repeats := _repeats(row, begin, size, look))), 0)
        if not size:
            begin += 1
            continue
        for _ in range(repeats):
            spans.append((begin, begin + size))
            begin += size
    return spans


def _repeats(row: Sequence[Frame], begin: int, size: int, look: Look) -> int:
    """Return how many brackets of one pattern follow each other; 0 if there is none, or it is a part of a burst."""
    pattern, repeats = None, 0
    while _is_bracket(row[begin + repeats * size : begin + (repeats + 1) * size], size, look):
        start = begin + repeats * size
        steps = _steps(row[start : start + size])
        if pattern is not None and steps != pattern:
            break
        pattern, repeats = steps, repeats + 1
    end = begin + repeats * size
    if repeats == 1 and not _is_marked(row[begin:end]) and not is_apart(row, begin, end):
        return 0
    return repeats


def _is_bracket(frames: Sequence[Frame], size: int, look: Look) -> bool:
    if len(frames) < size or any(gap(one, other) > GAP for one, other in pairwise(frames)):
        return False
    lights = light([frame.exposure for frame in frames])
    if lights is None or not _is_regular(lights, _is_marked(frames)):
        return False
    return _is_marked(frames) or _is_one_view(frames, lights, look)


def _is_marked(frames: Sequence[Frame]) -> bool:
    """Return whether the camera says of all frames that they are bracketed."""
    return all(frame.exposure.is_bracketed for frame in frames)


def _steps(frames: Sequence[Frame]) -> list[int] | None:
    """Return the places of exposures around the middle one: 0, -1, 1 for normal, under, over."""
    lights = light([frame.exposure for frame in frames])
    return None if lights is None else _places(lights)


def _places(lights: Sequence[float]) -> list[int] | None:
    """Return the places of evenly spaced values around the middle one. None if they are not evenly spaced."""
    count, low, high = len(lights), min(lights), max(lights)
    step = (high - low) / (count - 1)
    if high - low < LEAST_SPAN - ROUNDING or not _is_usual(step):
        return None
    places = [round((value - low) / step) for value in lights]
    is_even = all(abs(low + place * step - value) <= ROUNDING for place, value in zip(places, lights, strict=True))
    return [place - count // 2 for place in places] if is_even and sorted(places) == list(range(count)) else None


def _is_usual(step: float) -> bool:
    """Return whether a step is a multiple of 1/3 or 1/2 EV, as cameras offer them."""
    return any(abs(step - round(step / unit) * unit) <= ROUNDING / 2 for unit in (1 / 3, 1 / 2)) and step > 0.25


def _is_regular(lights: Sequence[float], is_marked: bool) -> bool:
    places = _places(lights)
    if places is None:
        return False
    half = len(places) // 2
    under, over = list(range(-1, -half - 1, -1)), list(range(1, half + 1))
    alternating = [place for pair in zip(under, over, strict=True) for place in pair]
    orders = [[0, *under, *over], [0, *under[::-1], *over], [0, *alternating]]
    if is_marked or (max(lights) - min(lights)) / (len(lights) - 1) >= DIAL_STEP:
        orders.append([*under[::-1], 0, *over])
    return places in orders or [-place for place in places] in orders


def _is_one_view(frames: Sequence[Frame], lights: Sequence[float], look: Look) -> bool:
    """Return whether frames next in exposure show one view; pairs that are black or white throughout do not count."""
    by_light = [frame for _, frame in sorted(zip(lights, frames, strict=True), key=lambda pair: pair[0])]
    pairs = [(one.picture.best, other.picture.best) for one, other in pairwise(by_light)]
    views = [look.framing(*pair) for pair in pairs]
    is_seen = [(view or 0.0) >= ALIKE or look.common(*pair) >= COMMON for pair, view in zip(pairs, views, strict=True)]
    if len(frames) >= CERTAIN_SIZE and any(is_seen):
        return True
    return any(is_seen) and all(seen or view is None for seen, view in zip(is_seen, views, strict=True))


def likeness_of_framing(look: Look, one: int, other: int) -> float:
    """Return how alike two photos are but for their exposure."""
    return max(look.framing(one, other) or 0.0, look.common(one, other))
