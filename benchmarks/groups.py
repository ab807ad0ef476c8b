"""Copies: pairs found and pairs confused, beside imagededup, cleanvision and difPy; and a hundred thousand photos.

`edits`: over 100 scenes, each with 13 edits. Scenes are scikit-image's pictures and, if
`CURATION_FEATURES_SHARED_DATA` names a folder of them, real photos; large ones are cut into parts that do not overlap.
The thresholds were chosen with a look at these scenes. "ours, other parts" is of parts of the same photos that were cut
elsewhere, and not looked at.

Precision and recall are of pairs of files in one group. "alone" is the share of scenes whose edit is a confirmed pair
with the original, without other edits between the two. Peers have their own limits: pHash and dHash of imagededup link
within 10 bits, by connected components, as its users do. They are measured if they are installed: `pip install
imagededup cleanvision difPy`.

`scale`: random hashes, vectors with a spectrum like CLIP's, and one copy for each hundredth photo, whose hash has some
wrong bits. No photo has a capture time, so that all are compared with all: the most that an archive takes.
`--timed 0.9` gives that share of the photos a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import cv2
import numpy as np
import skimage
from measure import Report, arguments, process_peak_mib
from PIL import Image
from scenes import Pixels, compressed, encoded, linear, rgb_of, shared_photos

from curation_features.fingerprints import Fingerprint, Keypoints
from curation_features.fingerprints.measure import measure
from curation_features.groups import Photo, PhotoSet
from curation_features.groups.copies import find_edges, link_copies
from curation_features.groups.near_hashes import near_hashes
from curation_features.groups.near_vectors import near_vectors
from curation_features.groups.photos import Moment

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUNDLED = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "phantom.png", "retina.jpg", "rocket.jpg", "text.png", "horse.png", "logo.png",
)  # fmt: skip
"""Files of scikit-image."""

NO_PICTURE = ("kodim20, part 2", "kodim20, part 3", "retina, part 5", "retina, part 6")
"""Parts without anything to see: a plain sky, and the blurred middle of a retina."""

LARGE = 8e6
"""Pixels from which a photo is reduced to 0.45 of its size before it is cut."""


def scenes(cut: Callable[[Pixels, Path], list[Pixels]]) -> dict[str, Pixels]:
    found = {}
    for path in [*(Path(skimage.__file__).parent / "data" / name for name in BUNDLED), *shared_photos()]:
        rgb = rgb_of(path)
        if rgb.shape[0] * rgb.shape[1] > LARGE:
            rgb = cv2.resize(rgb, None, fx=0.45, fy=0.45, interpolation=cv2.INTER_AREA)
        cuts = cut(rgb, path)
        found |= {
            f"{path.stem}, part {number}" if len(cuts) > 1 else path.stem: part for number, part in enumerate(cuts, 1)
        }
    return {name: rgb for name, rgb in found.items() if name not in NO_PICTURE}


def first_parts(rgb: Pixels, path: Path) -> list[Pixels]:
    """Parts of at least 400 px of photos over 700 px."""
    least = 250 if path.stem.startswith("kodim") else 400
    return parts(rgb, *(max(1, side // least) if max(rgb.shape) > 700 else 1 for side in rgb.shape[:2]))


def other_parts(rgb: Pixels, path: Path) -> list[Pixels]:
    """Parts that the first ones do not have: of a half to two thirds of a small photo, and others of a large one."""
    height, width = rgb.shape[:2]
    if max(height, width) <= 700:
        return parts(rgb, 1, 2) if width > height else parts(rgb, 2, 1)
    inner = rgb[round(0.07 * height) : round(0.97 * height), round(0.05 * width) : round(0.95 * width)]
    return parts(inner, max(1, height // 500), max(1, width // 330))


def parts(rgb: Pixels, down: int, across: int) -> list[Pixels]:
    return [part for band in np.array_split(rgb, down, 0) for part in np.array_split(band, across, 1)]


# --- Edits ---


def brighter(stops: float) -> Callable[[Pixels], Pixels]:
    return lambda rgb: np.round(encoded(linear(rgb) * 2**stops)).astype(np.uint8)


def cropped(share: float) -> Callable[[Pixels], Pixels]:
    """Cut so much of the height and of the width, half of it on each side."""

    def cut(rgb: Pixels) -> Pixels:
        top, left = (round(side * share / 2) for side in rgb.shape[:2])
        return rgb[top : rgb.shape[0] - top, left : rgb.shape[1] - left]

    return cut


def rotated(rgb: Pixels) -> Pixels:
    height, width = rgb.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 2, 1)
    return cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def bordered(rgb: Pixels) -> Pixels:
    width = round(0.05 * max(rgb.shape))
    return cv2.copyMakeBorder(rgb, width, width, width, width, cv2.BORDER_CONSTANT, value=(255, 255, 255))


EDITS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "original": lambda rgb: rgb,
    "JPEG 90": lambda rgb: compressed(rgb, 90),
    "JPEG 30": lambda rgb: compressed(rgb, 30),
    "half size": lambda rgb: cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "gray": lambda rgb: np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "+1 EV": brighter(1),
    "+2 EV": brighter(2),
    "crop 5 %": cropped(0.05),
    "crop 10 %": cropped(0.10),
    "rotation 2 degrees": rotated,
    "mirror": lambda rgb: rgb[:, ::-1],
    "quarter turn": lambda rgb: np.rot90(rgb),
    "border 5 %": bordered,
    "shift 5 %": lambda rgb: rgb[round(0.05 * rgb.shape[0]) :, round(0.05 * rgb.shape[1]) :],
}
"""The shift cuts two sides; all edits but the original and the JPEGs are saved as JPEG 90."""


def files(folder: Path, cut: Callable[[Pixels, Path], list[Pixels]]) -> Iterator[tuple[str, str, Path]]:
    """Write the edits of all scenes; scene, edit and path of each."""
    for at, (scene, rgb) in enumerate(scenes(cut).items()):
        for number, (edit, change) in enumerate(EDITS.items()):
            pixels = np.ascontiguousarray(change(rgb))
            path = folder / f"{at:03}-{number:02}.{'png' if edit == 'original' else 'jpg'}"
            Image.fromarray(pixels).save(path, quality=30 if edit == "JPEG 30" else 90)
            yield scene, edit, path


# --- Finders: paths to groups of indices ---


def ours(paths: Sequence[Path]) -> tuple[list[Sequence[int]], set[tuple[int, int]]]:
    prints = [measure(rgb_of(path)) for path in paths]
    photos = []
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        photos.append(Photo(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.name, width, height, "JPEG"))
    photo_set = PhotoSet(
        photos, np.array([one.hashes for one in prints]), np.ones(len(prints), bool), None, prints.__getitem__
    )
    edges = find_edges(photo_set)
    groups = [copies.members for copies in link_copies(photo_set, edges)]
    return groups, {(min(edge.first, edge.second), max(edge.first, edge.second)) for edge in edges}


def imagededup(method: str) -> Callable[[Sequence[Path]], list[Sequence[int]]]:
    def find(paths: Sequence[Path]) -> list[Sequence[int]]:
        from imagededup import methods

        finder = getattr(methods, method)(verbose=False)
        found = finder.find_duplicates(image_dir=str(paths[0].parent), max_distance_threshold=10)
        return connected(paths, ((name, other) for name, others in found.items() for other in others))

    return find


def cleanvision(paths: Sequence[Path]) -> list[Sequence[int]]:
    from cleanvision import Imagelab

    lab = Imagelab(filepaths=[str(path) for path in paths], verbose=False)
    lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
    sets = [group for kind in ("exact_duplicates", "near_duplicates") for group in lab.info[kind]["sets"]]
    return connected(paths, ((Path(group[0]).name, Path(other).name) for group in sets for other in group))


def difpy(paths: Sequence[Path]) -> list[Sequence[int]]:
    import difPy

    built = difPy.build(str(paths[0].parent), show_progress=False, processes=1)
    found = difPy.search(built, similarity="similar", show_progress=False, processes=1).result
    pairs = ((Path(name).name, Path(other[0]).name) for name, others in found.items() for other in others)
    return connected(paths, pairs)


PEERS: Mapping[str, Callable[[Sequence[Path]], list[Sequence[int]]]] = {
    "imagededup pHash": imagededup("PHash"),
    "imagededup dHash": imagededup("DHash"),
    "cleanvision": cleanvision,
    "difPy": difpy,
}


def connected(paths: Sequence[Path], pairs: Iterable[tuple[str, str]]) -> list[Sequence[int]]:
    """Connected components of pairs of names."""
    leader = {path.name: path.name for path in paths}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for one, other in pairs:
        leader[root(one)] = root(other)
    groups = defaultdict(list)
    for index, path in enumerate(paths):
        groups[root(path.name)].append(index)
    return [group for group in groups.values() if len(group) > 1]


# --- Tables ---


def figures(groups: Sequence[Sequence[int]], scene: Sequence[str]) -> dict[str, float]:
    """Precision, recall, the largest group, and the groups of two scenes; `scene` of each file."""
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    right = sum(scene[one] == scene[other] for one, other in pairs)
    sizes = {name: list(scene).count(name) for name in dict.fromkeys(scene)}
    return {
        "precision": right / len(pairs) if pairs else float("nan"),
        "recall": right / sum(size * (size - 1) // 2 for size in sizes.values()),
        "largest": max(map(len, groups), default=0),
        "mixed": sum(len({scene[index] for index in group}) > 1 for group in groups),
    }


def edits() -> Iterator[Report]:
    for label, cut, peers in (("ours, other parts", other_parts, {}), ("ours", first_parts, PEERS)):
        with TemporaryDirectory() as folder:
            made = list(files(Path(folder), cut))
            scene, paths = [name for name, *_ in made], [path for *_, path in made]
            names = list(dict.fromkeys(scene))
            report = Report(f"Copies: {len(names)} scenes x {len(EDITS)} files")
            start = time.process_time()
            groups, edges = ours(paths)
            report.add(label, **figures(groups, scene), cpu_s=time.process_time() - start)
            for name, find in peers.items():
                start = time.process_time()
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        found = find(paths)
                except ImportError as error:
                    report.add(name, precision=f"not installed: {error.name}")
                    continue
                report.add(name, **figures(found, scene), cpu_s=time.process_time() - start)
            yield report
        by_edit = Report(f"{label}: share of scenes whose edit is found")
        at = {(name, change): index for index, (name, change, _) in enumerate(made)}
        group_of = {index: number for number, group in enumerate(groups) for index in group}
        for change in list(EDITS)[1:]:
            pairs = [(at[name, "original"], at[name, change]) for name in names]
            together = [one in group_of and group_of[one] == group_of.get(other) for one, other in pairs]
            by_edit.add(change, alone=np.mean([pair in edges for pair in pairs]), in_group=np.mean(together))
        yield by_edit


SHARED, SHOOT, OF_SHOOT, FALL = 0.5, 50, 0.6, 0.85
"""Vectors that are like those of CLIP: the squared length of the mean of all, photos of a shoot, the share of the rest
that they have in common, and the power by which variances fall.

Seven photos recorded with ViT-B/32 (`CURATION_FEATURES_SHARED_DATA`) have a mean cosine of 0.60. Recorded vectors of
1,203 texts have variances that fall by a power of 0.85; there are too few photos to tell theirs. Unrelated vectors made
here have cosines of 0.3 to 0.65, of one shoot 0.7 to 0.9."""


def clip_like(number: int, size: int = 768) -> NDArray[np.float16]:
    """Vectors with unit norm, (N, D)."""
    random = np.random.default_rng(1)
    variances = np.arange(1, size + 1) ** -FALL
    axes = np.linalg.qr(random.normal(0, 1, (size, size)))[0]
    spread = (np.sqrt((1 - SHARED) * variances / variances.sum())[:, None] * axes).astype(np.float32)
    mean = random.normal(0, 1, size).astype(np.float32)
    mean *= np.sqrt(SHARED) / np.linalg.norm(mean)
    shoots = np.sqrt(OF_SHOOT) * random.standard_normal((max(1, number // SHOOT), size), np.float32)
    vectors = np.empty((number, size), np.float16)
    for start in range(0, number, 10_000):
        rows = shoots[random.integers(0, len(shoots), min(10_000, number - start))]
        rows = mean + (rows + np.sqrt(1 - OF_SHOOT) * random.standard_normal(rows.shape, np.float32)) @ spread
        vectors[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


def synthetic(number: int, timed: float) -> PhotoSet:
    """Random photos; the last hundredth are copies of the first, turned but not mirrored."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 256, (number, 8, 32)).astype(np.uint8)
    copies = number // 100
    wrong = np.packbits(random.random((copies, 256)) < 0.15, axis=1)
    hashes[-copies:, 0] = hashes[np.arange(copies), np.arange(copies) % 4] ^ wrong
    vectors = clip_like(number)
    vectors[-copies:] = vectors[:copies]
    seconds = random.random(number) * 1e8
    seconds[-copies:] = seconds[:copies]
    has_time = random.random(number) < timed
    photos = [
        Photo(f"{index:07}", f"{index * 2654435761 % 2**32:08x}", "", 3, 2, "JPEG")
        if not known
        else Photo(f"{index:07}", f"{index * 2654435761 % 2**32:08x}", "", 3, 2, "JPEG", Moment(float(time), 1.0))
        for index, (time, known) in enumerate(zip(seconds, has_time, strict=True))
    ]

    blank, miniature = np.zeros((16, 16, 3), np.uint8), np.zeros((64, 64), np.uint8)

    def fingerprint(index: int) -> Fingerprint:
        """Keypoints of a copy are those of the first."""
        own = np.random.default_rng(index - (number - copies) if index >= number - copies else index)
        points = Keypoints(own.random((256, 2), np.float32), own.integers(0, 256, (256, 32), np.uint8))
        return Fingerprint(hashes[index], 100, blank, miniature, np.zeros((8, 8), np.float32), points)

    return PhotoSet(photos, hashes, np.ones(number, bool), vectors, fingerprint)


def scale(number: int, timed: float) -> Report:
    report = Report(f"{number} photos with hashes and vectors of 768 numbers, {timed:.0%} with a capture time")
    photos = synthetic(number, timed)
    before = process_peak_mib()
    for name, action in {
        "pairs of hashes": lambda: near_hashes(photos.hashes, photos.has_hash),
        "pairs of vectors": lambda: near_vectors(photos.vectors),
        "one photo more": lambda: find_edges(photos, [number - 1]),
        "edges, all in all": lambda: find_edges(photos),
    }.items():
        start = time.process_time()
        found = action()
        report.add(name, found=len(found), cpu_s=time.process_time() - start, added_mib=process_peak_mib() - before)
    start = time.process_time()
    groups = link_copies(photos, found)
    report.add("groups", found=len(groups), cpu_s=time.process_time() - start, added_mib=process_peak_mib() - before)
    report.add("planted", found=number // 100)
    report.add("all data", added_mib=process_peak_mib())
    return report


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--only", choices=("edits", "scale"))
    parser.add_argument("--number", type=int, default=100_000, help="photos of `scale`")
    parser.add_argument("--timed", type=float, default=0.0, help="share of the photos of `scale` with a capture time")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.only != "scale":
        for report in edits():
            report.show(options.json)
    if options.only != "edits":
        scale(options.number, options.timed).show(options.json)


if __name__ == "__main__":
    main()
