"""Share of degraded and of good photos that the flags find, beside the scores, BRISQUE and cleanvision's blur.

At least 40 scenes (see `scenes.py`): scikit-image's pictures and, if `CURATION_FEATURES_SHARED_DATA` names a folder of
them, real photos. Each has a long side of at most 1024 px. Faults are made in linear light; then every state, the clean
one too, gets camera noise of sigma 1 and JPEG 92. "clean" is the share of clean scenes with that flag at the default
limits; the flagged ones are listed below the table. Other measures have no limits: each has the limit that 2 % of the
clean scenes pass, chosen on these scenes, which favours them. BRISQUE is that of `technical` (piq's numbers);
cleanvision's blur is its own code if it is installed (`pip install cleanvision`), else its formula, written again.

"real" photos of a group are scenes; "made" ones are made of all scenes by the model that `scenes.py` describes. With
`--photos FOLDER`, its photos become scenes, and those in its subfolders `night`, `silhouettes`, `high key` and
`foliage, grass, gravel, moss` belong to these groups.
"""

from __future__ import annotations

import math
import os
import runpy
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from measure import Report, arguments, median_ratio
from PIL import Image, ImageFilter, ImageStat
from scenes import (
    FAULTS,
    LONG_SIDE,
    MODELS,
    compressed,
    encoded,
    finished,
    groups,
    linear,
    reduced,
    scenes,
    shared_photos,
)
from scenes import rgb_of as read

from curation_features import Settings, TechnicalQualityAnalyzer
from curation_features.signals.edges import edges
from curation_features.signals.flags import FLAGS, flags
from curation_features.signals.focus import focus
from curation_features.signals.table import MEASURES, measure_part
from curation_features.signals.views import Views

Pixels = np.ndarray
Photos = Mapping[str, Pixels]
Measure = Callable[[Pixels], float]

FALSE_ALARMS = 0.02
"""Share of clean scenes that other measures flag, and most that ours should."""

SCORES = {"blurred": ("sharpness", -1), "noisy": ("noise", 1), "dark": ("exposure", -1)}
"""Flag -> the specification's score, and whether a higher one is worse."""

OTHER_FLAG = {"foliage, grass, gravel, moss": "noisy"}
"""Group -> the flag whose score condemns it, if it is not `dark`."""


# --- Measures: higher is worse ---


@cache
def analyzer() -> TechnicalQualityAnalyzer:
    return TechnicalQualityAnalyzer(Settings(root=Path.cwd()))


def score(metric: str, sign: int) -> Measure:
    return lambda rgb: sign * (analyzer().measure_cpu(rgb, (metric,))[metric].score or 0.0)


def brisque(rgb: Pixels) -> float:
    return analyzer().measure_cpu(rgb, ("brisque",))["brisque"].raw["brisque_raw"]


def others(flag: str) -> dict[str, Measure]:
    """The measures that are compared with a flag."""
    found = {"score": score(*SCORES[flag]), "BRISQUE": brisque}
    return {**found, "cleanvision": cleanvision()} if flag == "blurred" else found


@cache
def cleanvision() -> Measure:
    """Blur as cleanvision has it."""
    try:
        from cleanvision.issue_managers.image_property import BlurrinessProperty
    except ImportError:
        return lambda rgb: -edges_at_64_px(rgb)
    prop = BlurrinessProperty()
    return lambda rgb: -float(prop.calculate(Image.fromarray(rgb))["blurriness"])


def edges_at_64_px(rgb: Pixels) -> float:
    """Variance of PIL's FIND_EDGES at 64 px, cleanvision's raw score; lower is blurrier."""
    image, ratio = Image.fromarray(rgb), max(rgb.shape) / 64
    if ratio > 1:
        image = image.resize((max(1, int(image.width // ratio)), max(1, int(image.height // ratio))))
    return float(ImageStat.Stat(image.convert("L").filter(ImageFilter.FIND_EDGES)).var[0])


def signals_of(rgb: Pixels) -> dict[str, float | None]:
    views = Views(rgb)
    parts = (measure_part(views, part).values for part in ("edges", "grain", "tones"))
    return {name: value for values in parts for name, value in values.items()}


def flags_of(photos: Photos) -> dict[str, dict[str, str]]:
    """Flags and hints of each photo, with their reasons."""
    return {name: {one.name: one.reason for one in flags(signals_of(rgb))} for name, rgb in photos.items()}


def share(found: Mapping[str, Mapping[str, str]], wanted: Collection[str]) -> float:
    """Share of photos with one of these flags."""
    return float(np.mean([not found[name].keys().isdisjoint(wanted) for name in found])) if found else math.nan


# --- Tables ---


def ladders(photos: Photos, folder: Path | None, report: Report) -> dict[str, dict[str, str]]:
    """Add a row for each fault and for each group of good photos; return the flags of the clean scenes."""
    clean = {name: finished(rgb, seed) for seed, (name, rgb) in enumerate(photos.items())}
    flags_of_clean = flags_of(clean)
    limits = {
        (flag, name): float(np.quantile([worse(rgb) for rgb in clean.values()], 1 - FALSE_ALARMS))
        for flag in SCORES
        for name, worse in others(flag).items()
    }

    def over_limits(states: Photos, flag: str) -> dict[str, float]:
        return {
            name: float(np.mean([worse(rgb) > limits[flag, name] for rgb in states.values()]))
            for name, worse in others(flag).items()
        }

    for name, (flag, fault, level, target) in FAULTS.items():
        states = {
            scene: finished(fault(rgb, level, np.random.default_rng(seed)), seed)
            for seed, (scene, rgb) in enumerate(photos.items())
        }
        numbers = {
            "flagged": share(flags_of(states), {flag}),
            "at least": target,
            "clean": share(flags_of_clean, {flag}),
        }
        report.add(f"{name} ({flag})", **numbers, **over_limits(states, flag))
    for group, real in groups(folder).items():
        made = {}
        if group in MODELS:
            for seed, (scene, rgb) in enumerate(photos.items()):
                values = MODELS[group](rgb, np.random.default_rng(seed))
                made[scene] = compressed(np.clip(np.round(values), 0, 255).astype(np.uint8), 92)
        for kind, states in (("real", real), ("made", made)):
            if states:
                found = flags_of(states)
                numbers = {"flagged": share(found, FLAGS), "at most": 0.1, "hint bright": share(found, {"bright"})}
                others_of = over_limits(states, OTHER_FLAG.get(group, "dark"))
                report.add(f"{group}, {len(states)} {kind} (any flag)", **numbers, **others_of)
    return flags_of_clean


def bursts(photos: Photos, report: Report) -> None:
    """Add the share of bursts of six whose sharpest take has the smallest radius.

    Takes differ in blur (0 to 3.3 px at 1024 px), exposure (0.4 EV), frame (8 px) and noise (sigma 1 to 6).
    """
    found: dict[str, list[bool]] = {"blur_px": [], "score": [], "BRISQUE": [], "cleanvision": []}
    for seed, rgb in enumerate(photos.values()):
        random = np.random.default_rng(seed)
        radii = random.permutation([0.0, 0.7, 1.3, 2.0, 2.6, 3.3])
        takes = []
        for radius in radii:
            top, left = random.integers(0, 8, 2)
            frame = rgb[top : rgb.shape[0] - 8 + top, left : rgb.shape[1] - 8 + left]
            light = linear(frame) * 2 ** random.uniform(-0.4, 0.4)
            sigma = radius * max(rgb.shape) / LONG_SIDE
            values = encoded(cv2.GaussianBlur(light, (0, 0), sigma) if sigma else light)
            takes.append(finished(values + random.normal(0, random.uniform(0, 6), values.shape), seed))
        measures: dict[str, Measure] = {
            "blur_px": lambda take: edges(Views(take))["blur_px"] or math.inf,
            "score": lambda take: -analyzer().measure_cpu(take, ("sharpness",))["sharpness"].raw["tenengrad"],
            "BRISQUE": brisque,
            "cleanvision": cleanvision(),
        }
        for name, worse in measures.items():
            found[name].append(radii[np.argmin([worse(take) for take in takes])] == 0)
    shares = {name: float(np.mean(hits)) for name, hits in found.items()}
    report.add("sharpest of six (smallest blur_px)", flagged=shares.pop("blur_px"), **{"at least": 0.93}, **shares)


def sizes(report: Report) -> None:
    """Add the change of `blur_px` with the size and the compression of a photo of more than 4000 px."""
    for path in shared_photos():
        if max((rgb := read(path)).shape) < 4000:
            continue
        small = reduced(rgb)
        states = [reduced(rgb, 4000), reduced(rgb, 2000), *(compressed(small, quality) for quality in (95, 85, 70))]
        radii = [edges(Views(state))["blur_px"] or math.nan for state in (small, *states)]
        change = max(abs(radius - radii[0]) for radius in radii)
        report.add(f"change with size and JPEG: {path.stem}, px", **{"flagged": change, "at most": 0.03})


# --- Time ---


def cpu_ms(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU time of each action in each round, ms, interleaved, after one warm-up round."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            start = time.process_time()
            action()
            if number:
                taken[name].append(1000 * (time.process_time() - start))
    return taken


def measure_all(rgb: Pixels, parts: Collection[str]) -> None:
    views = Views(rgb)
    for part in parts:
        measure_part(views, part)


def times(rounds: int, reference: Path | None) -> Report:
    """Measure the time of all signals and of each part at 1024 px, and of the focus at 24 megapixels.

    Args:
        reference: a module with `quality(rgb)`, the same signals without facts and focus.
    """
    large = cv2.resize(skimage.data.astronaut(), (6000, 4000), interpolation=cv2.INTER_CUBIC)
    rgb = cv2.resize(large, (LONG_SIDE, 683), interpolation=cv2.INTER_AREA)
    compared = [part for part in MEASURES if part not in ("facts", "focus")]
    views = Views(rgb)
    views.preview, views.detail_luma, views.chroma, views.brightest  # noqa: B018  # the views are made before
    actions: dict[str, Callable[[], object]] = {
        "all signals, 1024 px": lambda: measure_all(rgb, MEASURES),
        "  without facts and focus": lambda: measure_all(rgb, compared),
        **{f"  {part}, views made before": lambda part=part: measure_part(views, part) for part in MEASURES},
    }
    if reference:
        quality = runpy.run_path(str(reference))["quality"]
        actions["  reference"] = lambda: quality(rgb)
    taken = cpu_ms(actions, rounds * 5)
    report = Report("CPU time on one thread, ms, least of all rounds; ratios are medians of those within each round")
    targets = {"all signals, 1024 px": 5.0}
    for name, spent in taken.items():
        target = {"target": targets[name]} if name in targets else {}
        ratio = {"of the reference": median_ratio(spent, taken["  reference"])} if reference else {}
        report.add(name, ms=min(spent), **target, **ratio)
    [spent] = cpu_ms({"focus": lambda: focus(large)}, rounds).values()
    report.add("focus, 24 megapixels", ms=min(spent), target=60.0)
    return report


def reference_beside_the_data() -> Path | None:
    folder = os.environ.get("CURATION_FEATURES_SHARED_DATA")
    path = Path(folder or ".").parent / "design" / "signals_reference.py"
    return path if folder and path.exists() else None


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="further clean photos")
    parser.add_argument("--reference", type=Path, metavar="FILE", default=reference_beside_the_data())
    parser.add_argument("--only", choices=("flags", "times"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.only != "times":
        photos = scenes(options.photos)
        report = Report(f"Share of {len(photos)} scenes that are flagged")
        flags_of_clean = ladders(photos, options.photos, report)
        bursts(photos, report)
        sizes(report)
        report.show(options.json)
        for name, found in flags_of_clean.items():
            for flag in FLAGS & found.keys():
                print(f"clean, but {flag}: {name}: {found[flag]}")
    if options.only != "flags":
        times(options.rounds, options.reference).show()


if __name__ == "__main__":
    main()
