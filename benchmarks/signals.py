"""Share of degraded photos that the flags find, beside the scores, piq's BRISQUE and cleanvision's blur.

At least 40 scenes: scikit-image's photos and, if `CURATION_FEATURES_SHARED_DATA` names a folder of them, real photos,
those of 12 and 24 megapixels in crops that do not overlap. Each has a long side of at most 1024 px. Faults are made in
linear light; then every state, the clean one too, gets camera noise of sigma 1 and JPEG 92. "clean" is the share of
clean scenes with that flag at the default limits. Other measures have no limits: each has the limit that 2 % of the
clean scenes pass, chosen on these scenes, which favours them. cleanvision's blur is its formula, written again here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from measure import Report, arguments
from PIL import Image, ImageFilter, ImageStat

from curation_features import Settings, TechnicalQualityAnalyzer
from curation_features.errors import WeightsError
from curation_features.signals.edges import edges
from curation_features.signals.flags import flags
from curation_features.signals.focus import focus
from curation_features.signals.table import MEASURES, measure_part
from curation_features.signals.tones import LINEAR
from curation_features.signals.views import Views

BUNDLED = (
    "astronaut", "camera", "chelsea", "coffee", "rocket", "grass", "gravel", "brick", "coins",
    "hubble_deep_field", "immunohistochemistry", "retina", "moon",
)  # fmt: skip
LONG_SIDE = 1024
TEXTURES = ("grass", "gravel", "brick", "wood_anemones", "kodim13")

Pixels = np.ndarray


def reduced(rgb: Pixels) -> Pixels:
    scale = LONG_SIDE / max(rgb.shape)
    return rgb if scale >= 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def crops(rgb: Pixels, across: int, down: int) -> list[Pixels]:
    height, width = rgb.shape[0] // down, rgb.shape[1] // across
    return [
        np.ascontiguousarray(rgb[y * height : (y + 1) * height, x * width : (x + 1) * width])
        for y in range(down)
        for x in range(across)
    ]


def scenes() -> dict[str, Pixels]:
    """Photos by name, long side at most 1024 px."""
    found = {name: np.array(Image.fromarray(getattr(skimage.data, name)()).convert("RGB")) for name in BUNDLED}
    folder = Path(os.environ.get("CURATION_FEATURES_SHARED_DATA", "")) / "photos"
    for path in sorted(folder.glob("*.*")) if "CURATION_FEATURES_SHARED_DATA" in os.environ else []:
        if path.suffix == ".txt" or path.stem == "portrait-orientation-6":  # the same photo as `portrait`
            continue
        rgb = np.array(Image.open(path).convert("RGB"))
        parts = crops(rgb, 4, 3) if max(rgb.shape) > 5000 else crops(rgb, 3, 3) if max(rgb.shape) > 4000 else [rgb]
        found |= {path.stem if len(parts) == 1 else f"{path.stem}-{n}": part for n, part in enumerate(parts)}
    return {name: reduced(rgb) for name, rgb in found.items()}


def linear(rgb: Pixels) -> Pixels:
    return LINEAR[rgb].astype(np.float32)


def encoded(light: Pixels) -> Pixels:
    """Values 0..255 in sRGB of linear light, not rounded."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def finished(values: Pixels, seed: int) -> Pixels:
    """Add camera noise of sigma 1; compress as JPEG 92."""
    noise = np.random.default_rng(seed).normal(0, 1, values.shape)
    rgb = np.clip(np.round(values + noise), 0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def filtered(rgb: Pixels, kernel: Pixels) -> Pixels:
    return encoded(cv2.filter2D(linear(rgb), -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101))


def grid(radius: float) -> tuple[Pixels, Pixels]:
    """Offsets of 8 x 8 points within each px of a kernel."""
    half = int(np.ceil(radius)) + 1
    at = (np.arange((2 * half + 1) * 8) + 0.5) / 8 - half - 0.5
    return np.meshgrid(at, at, indexing="ij")


def kernel(covered: Pixels) -> Pixels:
    size = covered.shape[0] // 8
    return covered.reshape(size, 8, size, 8).mean((1, 3)).astype(np.float32)


def gaussian(rgb: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    return encoded(cv2.GaussianBlur(linear(rgb), (0, 0), sigma * max(rgb.shape) / LONG_SIDE))


def defocus(rgb: Pixels, radius: float, random: np.random.Generator) -> Pixels:
    radius *= max(rgb.shape) / LONG_SIDE
    y, x = grid(radius)
    return filtered(rgb, kernel(np.hypot(y, x) <= radius))


def motion(rgb: Pixels, length: float, random: np.random.Generator) -> Pixels:
    length *= max(rgb.shape) / LONG_SIDE
    y, x = grid(length / 2)
    angle = random.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return filtered(rgb, kernel((np.abs(along) <= length / 2) & (np.abs(across) <= 0.5)))


def luma_noise(rgb: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    return rgb + random.normal(0, sigma, rgb.shape)


def chroma_noise(rgb: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    """Blotches of 4 px in Cb and Cr."""
    size = (rgb.shape[0] // 4 + 1, rgb.shape[1] // 4 + 1, 2)
    blotches = cv2.resize(random.normal(0, sigma, size), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    red, blue = np.moveaxis(blotches[: rgb.shape[0], : rgb.shape[1]], 2, 0)
    return rgb + np.stack([1.402 * red, -0.714 * red - 0.344 * blue, 1.772 * blue], 2)


def darker(rgb: Pixels, stops: float, random: np.random.Generator) -> Pixels:
    return encoded(linear(rgb) / 2**stops)


Fault = Callable[[Pixels, float, np.random.Generator], Pixels]
FAULTS: Mapping[str, tuple[str, Fault, float, float]] = {  # name: flag, function, level, least share caught
    "Gaussian 2 px": ("blurred", gaussian, 2, 0.90),
    "defocus 3.6 px": ("blurred", defocus, 3.6, 0.90),
    "motion 10 px": ("blurred", motion, 10, 0.85),
    "noise sigma 12": ("noisy", luma_noise, 12, 0.95),
    "chroma sigma 8": ("noisy", chroma_noise, 8, 0.85),
    "2 EV under": ("dark", darker, 2, 0.95),
}
SCORE = {"blurred": ("sharpness", -1), "noisy": ("noise", 1), "dark": ("exposure", -1)}


def cleanvision_blur(rgb: Pixels) -> float:
    """Variance of PIL's FIND_EDGES at 64 px, as cleanvision has it; lower is blurrier."""
    image, ratio = Image.fromarray(rgb), max(rgb.shape) / 64
    if ratio > 1:
        image = image.resize((max(1, int(image.width // ratio)), max(1, int(image.height // ratio))))
    return float(ImageStat.Stat(image.convert("L").filter(ImageFilter.FIND_EDGES)).var[0])


def brisque() -> Callable[[Pixels], float] | None:
    """BRISQUE as piq has it, if its regressor is available."""
    analyzer = TechnicalQualityAnalyzer(Settings(root=Path.cwd()))
    try:
        analyzer.measure_cpu(skimage.data.astronaut(), ("brisque",))
    except WeightsError:
        return None
    return lambda rgb: analyzer.measure_cpu(rgb, ("brisque",))["brisque"].raw["brisque_raw"]


def signals_of(rgb: Pixels) -> dict[str, float | None]:
    views = Views(rgb)
    return {
        name: value
        for group in ("edges", "grain", "tones")
        for name, value in measure_part(views, group).values.items()
    }


def flagged(photos: Mapping[str, Pixels], flag: str) -> float:
    return float(np.mean([flag in {one.name for one in flags(signals_of(rgb))} for rgb in photos.values()]))


def ladders(photos: Mapping[str, Pixels], report: Report) -> None:
    """Add a row for each fault."""
    clean = {name: finished(rgb, seed) for seed, (name, rgb) in enumerate(photos.items())}
    analyzer, score_brisque = TechnicalQualityAnalyzer(Settings(root=Path.cwd())), brisque()
    for name, (flag, fault, level, target) in FAULTS.items():
        states = {
            scene: finished(fault(rgb, level, np.random.default_rng(seed)), seed)
            for seed, (scene, rgb) in enumerate(photos.items())
        }
        metric, sign = SCORE[flag]

        def score(rgb: Pixels, metric: str = metric, sign: int = sign) -> float:
            return sign * (analyzer.measure_cpu(rgb, (metric,))[metric].score or 0.0)

        others: dict[str, Callable[[Pixels], float]] = {metric: score}
        if score_brisque:
            others["BRISQUE"] = score_brisque
        if flag == "blurred":
            others["cleanvision"] = lambda rgb: -cleanvision_blur(rgb)
        caught = {}
        for other, worse in others.items():
            limit = np.quantile([worse(rgb) for rgb in clean.values()], 0.98)
            caught["score" if other == metric else other] = float(
                np.mean([worse(rgb) > limit for rgb in states.values()])
            )
        row = {"flagged": flagged(states, flag), "at least": target, "clean": flagged(clean, flag)}
        report.add(f"{name} ({flag})", **row, **caught)
    textures = {name: rgb for name, rgb in photos.items() if name in TEXTURES}
    report.add("foliage, gravel, moss (noisy)", flagged=flagged(textures, "noisy"))


def bursts(photos: Mapping[str, Pixels], report: Report) -> None:
    """Add the share of bursts of six whose sharpest take has the smallest radius.

    Takes differ in blur (0 to 3.3 px at 1024 px), exposure (0.4 EV), frame (8 px) and noise (sigma 1 to 6).
    """
    analyzer = TechnicalQualityAnalyzer(Settings(root=Path.cwd()))
    found: dict[str, list[bool]] = {"blur_px": [], "sharpness": []}
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
        blurs = [edges(Views(take))["blur_px"] or np.inf for take in takes]
        scores = [analyzer.measure_cpu(take, ("sharpness",))["sharpness"].raw["tenengrad"] for take in takes]
        found["blur_px"].append(radii[np.argmin(blurs)] == 0)
        found["sharpness"].append(radii[np.argmax(scores)] == 0)
    report.add(
        "sharpest of six", flagged=float(np.mean(found["blur_px"])), score=float(np.mean(found["sharpness"])),
        **{"at least": 0.93},
    )  # fmt: skip


def cpu_ms(action: Callable[[], object], rounds: int) -> float:
    """Least CPU time of an action, ms."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return 1000 * min(taken)


def times(rounds: int) -> Report:
    """Measure the time of each group at 1024 px, and of the focus at 24 megapixels."""
    large = cv2.resize(skimage.data.astronaut(), (6000, 4000), interpolation=cv2.INTER_CUBIC)
    rgb = cv2.resize(large, (1024, 683), interpolation=cv2.INTER_AREA)
    report = Report("CPU time on one thread, ms")

    def everything() -> None:
        views = Views(rgb)
        for group in MEASURES:
            measure_part(views, group)

    report.add("all signals, 1024 px", ms=cpu_ms(everything, rounds * 5), target=5.0)
    views = Views(rgb)
    views.preview, views.detail_luma, views.chroma, views.brightest  # noqa: B018  # the views are made before
    for group in MEASURES:
        report.add(
            f"  {group}, views made before", ms=cpu_ms(lambda group=group: measure_part(views, group), rounds * 5)
        )
    report.add("focus, 24 megapixels", ms=cpu_ms(lambda: focus(large), rounds), target=60.0)
    return report


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    cv2.setNumThreads(1)
    photos = scenes()
    report = Report(f"Share of {len(photos)} scenes that are flagged")
    ladders(photos, report)
    bursts(photos, report)
    report.show(options.json)
    times(options.rounds).show()


if __name__ == "__main__":
    main()
