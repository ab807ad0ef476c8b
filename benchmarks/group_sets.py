"""Sets and bursts that `groups` finds in sequences as a camera takes them (`shoots.py`), a chain of frames, any order.

Limits are chosen on the photos `TUNING`; all others are held out. A set is preserved if none of its photos has a rank
over 1: then nothing rejects it. A sequence is fair if an independent method sees in its pixels what makes it a set:
OpenCV's SIFT finds the same places in neighbours of a panorama, and the first and the last frame of a focus stack
differ by more than noise, in some places one way and in others the other way. Shares are of all sequences, and of fair
ones.
"""

from __future__ import annotations

import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from measure import Report, arguments
from scenes import BUNDLED, LARGE, Pixels, photos_in, reduced, rgb_of, shared_photos

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import shoots
from sequences import Roll, described
from shoots import THIRD, Scene, Shoot

from curation_features.groups import PhotoSet
from curation_features.groups.grouping import Memory, group_photos
from curation_features.signals.table import measure_parts
from curation_features.signals.views import Views

TUNING = (
    "astronaut", "chelsea", "coffee", "rocket", "motorcycle", "brick", "denali", "japanese-shop", "kodim04", "kodim20",
)  # fmt: skip
"""Photos on which limits were chosen, also those of earlier versions."""

NO_CAMERA = "immunohistochemistry", "retina"
"""Pictures of a microscope and of an eye: no sequences are taken of them."""

RANKING = ("focus_px", "blur_px", "clipped_centre", "headroom_ev")
SUBJECT = "chelsea"
FEW = "coffee", "astronaut", "chelsea", "rocket"


def scenes(held_out: bool, folder: Path | None) -> dict[str, Scene]:
    """Scenes by name, with all photos of a folder; of a photo of more than 10 megapixels also its quarters."""
    sources: dict[str, Any] = {n: getattr(skimage.data, n)() for n in BUNDLED if n not in NO_CAMERA}
    sources["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    sources |= {path.stem: path for path in shared_photos()}
    further = {path.stem: path for path in photos_in(folder)} if folder else {}
    found: dict[str, Scene] = {}
    for name, source in {**sources, **further}.items():
        if name not in further and held_out == (name in TUNING):
            continue
        rgb = reduced(rgb_of(source), 4200)
        large = rgb.shape[0] * rgb.shape[1] > LARGE
        found[name] = Scene(name, reduced(rgb), rgb if large else None)
        if large and name in TUNING:  # the parts of the other large photo are out of focus
            for number, part in enumerate(p for band in np.array_split(rgb, 2, 0) for p in np.array_split(band, 2, 1)):
                found[f"{name}, quarter {number}"] = Scene(f"{name} {number}", reduced(np.ascontiguousarray(part)))
    return found


@dataclass(frozen=True)
class Kind:
    """A kind of sequence.

    Attributes:
        expected: `bracket`, `focus stack`, `panorama` or `burst`; "" if it is neither a set nor surely a burst.
        is_fair: whether the pixels of frames show what makes them a set.
    """

    expected: str
    shoot: Shoot
    is_fair: Callable[[Sequence[Pixels]], bool] = lambda frames: True


def joins(frames: Sequence[Pixels]) -> bool:
    """Whether SIFT joins each two neighbours of a panorama."""
    sift = cv2.SIFT.create(4000)
    found = [sift.detectAndCompute(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), None) for f in frames]
    for (ours, first), (theirs, second) in pairwise(found):
        if first is None or second is None or min(len(first), len(second)) < 20:
            return False
        pairs = [
            one for one, other in cv2.BFMatcher().knnMatch(first, second, k=2) if one.distance < 0.75 * other.distance
        ]
        if len(pairs) < 20:
            return False
        start, end = (
            np.array([points[getattr(pair, side)].pt for pair in pairs], np.float32)
            for points, side in ((ours, "queryIdx"), (theirs, "trainIdx"))
        )
        if cv2.findHomography(start, end, cv2.RANSAC, 4.0)[1].sum() < 20:
            return False
    return True


def differs(frames: Sequence[Pixels]) -> bool:
    """Whether the first frame of a stack has more fine detail in a tenth of the frame, and the last one in another."""

    def detail(rgb: Pixels) -> Pixels:
        luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
        fine = np.square(cv2.GaussianBlur(luma, (0, 0), 0.7) - cv2.GaussianBlur(luma, (0, 0), 2.0))
        return cv2.resize(fine, (12, 12), interpolation=cv2.INTER_AREA) + 0.15  # the energy of noise

    size = frames[0].shape[1::-1]
    first, last = (detail(cv2.resize(f, size, interpolation=cv2.INTER_AREA)) for f in (frames[0], frames[-1]))
    return bool(min((first > 1.3 * last).mean(), (last > 1.3 * first).mean()) >= 0.1)


def kinds(faces: Sequence[Pixels]) -> dict[str, Kind]:
    """Name -> a kind of sequence."""
    face, other = faces
    line, bracket, panorama = np.linspace, shoots.bracket, shoots.panorama

    def stack(*shot: Any) -> Kind:
        return Kind("focus stack", shoots.stack(*shot), differs)

    five = (0, -THIRD, THIRD, -2 * THIRD, 2 * THIRD)
    seven = (-2, -4 * THIRD, -2 * THIRD, 0, 2 * THIRD, 4 * THIRD, 2)
    return {
        "bracket, 3 frames, 2 EV, tripod": Kind("bracket", bracket((0, -2, 2), 0.5, 0.0)),
        "bracket, 3 frames, 2 EV, handheld": Kind("bracket", bracket((0, -2, 2), 0.15)),
        "bracket, 3 frames, 1 EV, darkest first": Kind("bracket", bracket((-1, 0, 1), 0.2)),
        "bracket, 5 frames, 1 EV, handheld": Kind("bracket", bracket((0, -1, 1, -2, 2), 1.5, 0.012)),
        "bracket, 7 frames, 2/3 EV, handheld": Kind("bracket", bracket(seven, 0.2)),
        "bracket, 9 frames, 1 EV, tripod": Kind("bracket", bracket(range(-4, 5), 0.5, 0.0)),
        "bracket, 5 frames, marked": Kind("bracket", bracket(five, 0.1, marked=True)),
        "stack, slope, 6 frames, tripod": stack("slope", line(0, 1, 6), 5, 8),
        "stack, slope, 3 frames, handheld": stack("slope", line(1, 0, 3), 0.4, 4, 0.006),
        "stack, landscape at f/11, 3 frames": stack("slope", line(0, 1, 3), 0.4, 1.6, 0.006),
        "stack, dome, 8 frames, breathing": stack("dome", line(0, 1, 8), 0.15, 8, 0.003, 0.006),
        "stack, relief, 10 frames, handheld": stack("relief", line(0, 1, 10), 0.1, 8, 0.006),
        "stack, thing, 3 frames": stack("thing", line(0, 1, 3), 2, 4),
        "stack, a third of a slope, 4 frames": stack("slope", line(0.35, 0.68, 4), 1, 8),
        "panorama, 4 upright, 30 %, tripod": Kind("panorama", panorama(4, 0.3, 8, 0.1), joins),
        "panorama, 5 upright, 35 %, handheld": Kind("panorama", panorama(5, 0.35, 2, 0.8), joins),
        "panorama, 3 lying, 40 %, handheld": Kind("panorama", panorama(3, 0.4, 2, 0.8, False), joins),
        "panorama, 3 upright, 25 %, handheld": Kind("panorama", panorama(3, 0.25, 3, 0.8), joins),
        "panorama, 4 upright, 35 %, auto exposure": Kind("panorama", panorama(4, 0.35, 2, 0.8, stops=0.5), joins),
        "raw and rendered": Kind("raw and rendered", shoots.raw_and_rendered),
        "burst, handheld": Kind("burst", shoots.still(8)),
        "burst, tripod, 3 frames": Kind("burst", shoots.still(3, 0.5, 0.0)),
        "burst, shaken": Kind("burst", shoots.shaken(5, 9)),
        "burst, shaken a little, 3 frames": Kind("burst", shoots.shaken(3, 4)),
        "burst, softer and softer": Kind("burst", shoots.softer(5, 1.2)),
        "burst, focus there and back": Kind("burst", shoots.refocused("slope", (0.2, 0.4, 0.8, 0.4, 0.2, 0.3), 6)),
        "burst, one frame out of focus": Kind("burst", shoots.refocused("thing", (0, 0, 0, 1, 0, 0), 4)),
        "burst, focus on the background at the end": Kind("burst", shoots.refocused("thing", (0, 0, 0, 0, 1), 4)),
        "burst, a subject crosses": Kind("burst", shoots.crossing(face, 0.25)),
        "burst, a large subject crosses": Kind("", shoots.crossing(face, 0.6, 5, 15)),
        "burst, a subject crosses fast": Kind("burst", shoots.crossing(other, 0.35, 3, 25)),
        "burst, a subject is followed": Kind("", shoots.followed(other)),
        "burst, panned fast": Kind("", shoots.panned(6, 0.12)),
        "burst, a subject comes near": Kind("burst", shoots.zoomed(6, 0.03)),
        "burst, wind": Kind("burst", shoots.windy(6, 4)),
        "burst, flash fails": Kind("burst", shoots.flashed((2, 3))),
        "burst, dial by 1/3 EV": Kind("burst", shoots.dialled((0, 0, THIRD, 2 * THIRD, 1, 1, 4 * THIRD))),
        "burst, dial by 1 EV": Kind("burst", shoots.dialled((0, 0, -1, -2, -2, -2))),
        "burst, dial by 1 EV, each frame": Kind("burst", shoots.dialled((1, 0, -1, -2))),
        "burst, exposure wavers": Kind("burst", shoots.metered(6)),
        "one subject, reframed": Kind("", shoots.reframed(4, 2.5)),
    }  # fmt: skip


class Camera(Roll):
    """A roll that keeps its frames and measures what ranks them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.frames: list[Pixels] = []

    def add(self, rgb: Pixels, key: str = "", **changes: Any) -> str:
        """Add a photo; return its key."""
        self.frames.append(rgb)
        parts = measure_parts(Views(rgb), ("focus", "edges", "tones")).values()
        measured = {name: value for part in parts for name, value in part.values.items()}
        return super().add(rgb, key, measures={name: measured.get(name) for name in RANKING}, **changes)


@dataclass(frozen=True)
class Taken:
    """A sequence: what it is, of which scene, its photos, and whether it is fair."""

    name: str
    expected: str
    scene: str
    photos: PhotoSet
    prints: dict[str, Any]
    is_fair: bool

    def groups(self) -> list[Any]:
        """Return what is found of the sequence."""
        return group_photos(self.photo_set())

    def photo_set(self) -> PhotoSet:
        """Return the photos as they are grouped."""
        keys = [photo.key for photo in self.photos]
        hashes = np.stack([self.prints[key].hashes for key in keys])
        return PhotoSet(self.photos, hashes, np.ones(len(keys), bool), None, lambda i: self.prints[keys[i]])


def taken(found: dict[str, Scene], only: str) -> Iterator[Taken]:
    faces = [reduced(rgb_of(getattr(skimage.data, name)()), 300) for name in (SUBJECT, "astronaut")]
    for scene_name, scene in found.items():
        for name, kind in kinds(faces).items():
            if only in name:
                roll = Camera()
                kind.shoot(roll, scene)
                if not roll.photos:
                    continue
                is_fair = kind.is_fair(roll.frames)
                yield Taken(name, kind.expected, scene_name, roll.photos, roll.prints, is_fair)


def judged(one: Taken) -> dict[str, bool]:
    """Return how a sequence was grouped."""
    photos = one.photo_set()
    groups = group_photos(photos)
    whole = tuple(sorted(photo.key for photo in one.photos))
    return {
        "recognised": described(groups, photos) == {whole: one.expected},
        "preserved": all(m.rank == 1 and m.copy_of is None for group in groups for m in group.members),
        "a set": any(group.kind == "set" for group in groups),
        "ranked": any(m.rank > 1 for group in groups for m in group.members),
    }


def report_kinds(report: Report, sequences: Sequence[Taken], missed: bool) -> None:
    by_name: dict[str, list[tuple[Taken, dict[str, bool]]]] = {}
    for one in sequences:
        by_name.setdefault(one.name, []).append((one, judged(one)))
    for name, results in by_name.items():
        is_set = results[0][0].expected not in ("burst", "")
        fair = [result for one, result in results if one.is_fair]
        columns: dict[str, str | float] = {"sequences": len(results)}
        columns["recognised"] = sum(result["recognised"] for _, result in results)
        if is_set:
            columns |= {"fair": len(fair), "fair ones recognised": sum(result["recognised"] for result in fair)}
            columns["preserved"] = sum(result["preserved"] for _, result in results)
            columns["of another kind"] = sum(r["a set"] and not r["recognised"] for _, r in results)
        else:
            columns["called a set"] = sum(result["a set"] for _, result in results)
            columns["ranked"] = sum(result["ranked"] for _, result in results)
        report.add(name, **columns)
        if missed:
            for one, result in results:
                if result["a set"] if not is_set else not (result["recognised"] and result["preserved"]):
                    found = sorted(described(one.groups(), one.photo_set()).items())
                    print(f"{name} of {one.scene}{'' if one.is_fair else ' (not fair)'}: {found}")


def chain(report: Report) -> None:
    """Fifty frames in five seconds, each with a cosine of 6/7 to the next, 5/7 to the one after it."""
    walk = np.stack([np.eye(57)[place : place + 7].sum(0) for place in range(50)]) / np.sqrt(7)
    roll = Roll()
    blank = np.zeros((64, 64, 3), np.uint8)
    for key, vector in zip(roll.shoot([blank] * 50, 0.1), walk, strict=True):
        roll.vectors[key] = vector.astype(np.float32)
    groups = group_photos(roll.photo_set())
    report.add("chain of 50", sequences=1, largest=max(len(group.members) for group in groups))


def orders(report: Report, sequences: Sequence[Taken], rounds: int) -> None:
    """One archive in random orders, and built up in random parts from what is remembered."""
    roll = Roll()
    for one in sequences:
        start = roll.clock + 100 - one.photos[0].moment.seconds
        for photo in one.photos:
            moment = photo.moment.__class__(photo.moment.seconds + start, photo.moment.resolution)
            roll.clock = moment.seconds
            key = f"photo-{len(roll.photos):05}"
            path = f"card/IMG_{len(roll.photos):04}.JPG"
            roll.photos.append(
                photo.__class__(**{**fields(photo), "key": key, "sha256": key, "moment": moment, "path": path})
            )
            roll.prints[key] = one.prints[photo.key]
    generator = random.Random(0)
    everything = list(range(len(roll.photos)))

    def found(order: Sequence[int], memory: Memory | None = None) -> set[tuple[Any, ...]]:
        photo_set = roll.photo_set(order)
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


def fields(photo: Any) -> dict[str, Any]:
    return {name: getattr(photo, name) for name in photo.__slots__}


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--tuning", action="store_true", help="shoot the photos on which limits were chosen")
    parser.add_argument("--folder", type=Path, help="further photos")
    parser.add_argument("--only", default="", help="kinds of sequences whose names contain this")
    parser.add_argument("--missed", action="store_true", help="print each sequence that is not found")
    parser.add_argument("--kept", type=Path, help="file that keeps the sequences, to judge them again")
    options = parser.parse_args()
    if options.kept and options.kept.exists():
        sequences = pickle.loads(options.kept.read_bytes())
    else:
        sequences = list(taken(scenes(not options.tuning, options.folder), options.only))
        if options.kept:
            options.kept.write_bytes(pickle.dumps(sequences))
    report = Report(f"Sets and bursts made of {len({one.scene for one in sequences})} photos")
    report_kinds(report, sequences, options.missed)
    chain(report)
    orders(report, sequences[:: max(1, len(sequences) // 40)], options.rounds)
    report.show(options.json)


if __name__ == "__main__":
    main()
