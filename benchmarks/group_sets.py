"""Sets and bursts that `groups` finds in sequences made of clean photos, a chain of frames, and any order.

Sequences are made as the tests make them (`tests/sequences.py`): brackets by scaling linear light with clipping, focus
stacks by blur that depends on the place, panoramas by windows, bursts by shake, blur, a turned dial and a subject that
crosses the frame. A set is preserved if none of its photos is in a burst or among copies, which are ranked.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure import Report, arguments
from scenes import Pixels, scenes

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from sequences import Roll, crossing, described, focused, handheld, noisy, panned

from curation_features.groups import PhotoSet
from curation_features.groups.grouping import Memory, group_photos

LONG_SIDE = 600
THIRD = 1 / 3
FEW = "coffee", "astronaut", "chelsea", "rocket"

Shoot = Callable[[Roll, Pixels], Any]


def reduced(rgb: Pixels) -> Pixels:
    scale = LONG_SIDE / max(rgb.shape)
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def bracket(stops: Sequence[float], every: float = 0.5) -> Shoot:
    return lambda roll, rgb: roll.bracket(rgb, stops, every)


def stack(places: Sequence[float], every: float, radius: float, is_handheld: bool) -> Shoot:
    def shoot(roll: Roll, rgb: Pixels) -> None:
        frames = (focused(rgb, at, radius) for at in places)
        roll.shoot([(handheld if is_handheld else noisy)(frame, seed) for seed, frame in enumerate(frames)], every)

    return shoot


def panorama(count: int, overlap: float, every: float) -> Shoot:
    def shoot(roll: Roll, rgb: Pixels) -> None:
        wide = np.concatenate([rgb, cv2.flip(rgb, 1)], axis=1)
        roll.shoot([noisy(frame, seed) for seed, frame in enumerate(panned(wide, count, overlap))], every)

    return shoot


def burst(count: int, blur: float = 0.0) -> Shoot:
    def shoot(roll: Roll, rgb: Pixels) -> None:
        frames = [handheld(rgb, number) for number in range(count)]
        roll.shoot([cv2.GaussianBlur(f, (0, 0), 0.3 + blur * n) for n, f in enumerate(frames)] if blur else frames)

    return shoot


def subject(subject_of: Pixels, share: float) -> Shoot:
    def shoot(roll: Roll, rgb: Pixels) -> None:
        roll.shoot([noisy(crossing(rgb, subject_of, at, share), round(at * 9)) for at in np.linspace(0, 1, 6)])

    return shoot


def kinds(face: Pixels) -> dict[str, tuple[str, Shoot]]:
    """Name -> the group that should be found, and how the frames are shot."""
    seven = (-2, -4 * THIRD, -2 * THIRD, 0, 2 * THIRD, 4 * THIRD, 2)
    return {
        "bracket, 3 frames, 2 EV": ("bracket", bracket((0, -2, 2))),
        "bracket, 5 frames, 1 EV": ("bracket", bracket((0, -1, 1, -2, 2), 2.5)),
        "bracket, 7 frames, 2/3 EV": ("bracket", bracket(seven, 0.2)),
        "focus stack, 6 frames": ("focus stack", stack(np.linspace(0.1, 0.9, 6), 5, 6, is_handheld=False)),
        "focus stack, 4 frames of a third": ("focus stack", stack((0.7, 0.6, 0.5, 0.4), 1, 4, is_handheld=False)),
        "focus stack, handheld": ("focus stack", stack((0.2, 0.4, 0.6, 0.8), 1, 4, is_handheld=True)),
        "panorama, half overlaps": ("panorama", panorama(4, 0.5, 25)),
        "panorama, a third overlaps": ("panorama", panorama(3, 0.33, 5)),
        "burst, handheld": ("burst", burst(8)),
        "burst, blurred more and more": ("burst", burst(5, 0.5)),
        "burst, dial by 1/3 EV": ("burst", bracket((0, 0, THIRD, 2 * THIRD, 1, 1, 4 * THIRD), 0.1)),
        "burst, dial by 1 EV": ("burst", bracket((0, 0, -1, -2, -2, -2), 0.1)),
        "burst, a subject crosses": ("burst", subject(face, 0.25)),
    }


def shoot_all(report: Report, photos: dict[str, Pixels]) -> None:
    for name, (kind, shoot) in kinds(photos["chelsea"]).items():
        recognised = preserved = called_sets = 0
        for rgb in photos.values():
            roll = Roll()
            shoot(roll, rgb)
            photo_set = roll.photo_set()
            groups = group_photos(photo_set)
            whole = described(groups, photo_set)
            recognised += whole == {tuple(photo.key for photo in roll.photos): kind}
            preserved += all(group.kind == "set" for group in groups)
            called_sets += any(group.kind == "set" for group in groups)
        count = len(photos)
        shares = {"recognised": recognised / count}
        shares |= {"called a set": called_sets / count} if kind == "burst" else {"preserved": preserved / count}
        report.add(name, sequences=count, **{column: f"{share:.1%}" for column, share in shares.items()})


def chain(report: Report) -> None:
    """Fifty frames in five seconds, each with a cosine of 6/7 to the next, 5/7 to the one after it."""
    walk = np.stack([np.eye(57)[place : place + 7].sum(0) for place in range(50)]) / np.sqrt(7)
    roll = Roll()
    blank = np.zeros((64, 64, 3), np.uint8)
    for key, vector in zip(roll.shoot([blank] * 50, 0.1), walk, strict=True):
        roll.vectors[key] = vector.astype(np.float32)
    groups = group_photos(roll.photo_set())
    report.add("chain of 50", sequences=1, largest=max(len(group.members) for group in groups))


def orders(report: Report, photos: dict[str, Pixels], rounds: int) -> None:
    """One archive in random orders, and built up in random parts from what is remembered."""
    roll = Roll()
    for name, (_, shoot) in kinds(photos["chelsea"]).items():
        shoot(roll, photos[FEW[len(name) % len(FEW)]])
        roll.clock += 100
    generator = random.Random(0)
    everything = list(range(len(roll.photos)))

    def found(order: Sequence[int], memory: Memory | None = None) -> set[tuple[Any, ...]]:
        photo_set: PhotoSet = roll.photo_set(order)
        groups = group_photos(photo_set, memory=memory)
        return {(g.id, g.kind, g.what, *((photo_set.photos[m.index].key, m.rank) for m in g.members)) for g in groups}

    start = time.process_time()
    expected = found(everything)
    seconds = time.process_time() - start
    equal = sum(found(generator.sample(everything, len(everything))) == expected for _ in range(rounds))
    split = 0
    for _ in range(rounds):
        order, memory, seen = generator.sample(everything, len(everything)), {}, 0
        while seen < len(order):
            seen += generator.randint(1, len(order) // 2)
            last = found(order[:seen], memory)
        split += last == expected
    report.add("orders", sequences=rounds, equal=equal, groups=len(expected), photos=len(everything), seconds=seconds)
    report.add("splits", sequences=rounds, equal=split)


def main() -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--scenes", type=int, default=20, help="clean photos of which sequences are made")
    options = parser.parse_args()
    clean = scenes()
    others = sorted(clean.keys() - {*FEW}, key=lambda name: (random.Random(name).random(), name))
    photos = {name: reduced(clean[name]) for name in (*FEW, *others)[: options.scenes]}
    report = Report(f"Sets and bursts made of {len(photos)} photos")
    shoot_all(report, photos)
    chain(report)
    orders(report, photos, options.rounds)
    report.show(options.json)


if __name__ == "__main__":
    main()
