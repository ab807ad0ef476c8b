"""Compare the metrics without a deep model with the straightforward code of the libraries' guides.

Both sides measure the same, on one thread: luma, a preview of 512 px for sharpness, exposure and noise, the whole
1024 px photo for BRISQUE. piq's BRISQUE is in float32 by default, ours always in float64. "differs by" is the largest
difference over all photos; ours is rounded to 6 decimals.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import piq
import torch
from checkpoints import write_brisque
from measure import Report, arguments, medians
from photos import write_photos
from PIL import Image
from skimage.restoration import estimate_sigma

from curation_features import Settings, TechnicalQualityAnalyzer, load_settings
from curation_features.photos.decode import decode
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoReader
from curation_features.schema import CPU_METRICS

PREVIEW_SIDE = 512


def straightforward_decode(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def straightforward_preview(rgb: np.ndarray) -> np.ndarray:
    gray = np.asarray(Image.fromarray(rgb).convert("L"))
    share = PREVIEW_SIDE / max(gray.shape)
    size = (round(gray.shape[1] * share), round(gray.shape[0] * share))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def sharpness(gray: np.ndarray) -> float:
    horizontal = cv2.Sobel(gray, cv2.CV_64F, 1, 0, ksize=3)
    vertical = cv2.Sobel(gray, cv2.CV_64F, 0, 1, ksize=3)
    return float(np.mean(horizontal**2 + vertical**2))


def exposure(gray: np.ndarray) -> tuple[float, ...]:
    p1, p50, p99 = np.percentile(gray, (1, 50, 99)) / 255
    return (float(p1), float(p50), float(p99), float(np.mean(gray <= 2)), float(np.mean(gray >= 253)))


def noise(gray: np.ndarray) -> float:
    return float(estimate_sigma(gray / 255.0))


def brisque(rgb: np.ndarray, dtype: torch.dtype = torch.float32) -> float:
    image = torch.tensor(rgb, dtype=dtype).permute(2, 0, 1)[None] / 255
    return float(piq.brisque(image, reduction="none"))


Ways = dict[str, Callable[[], object]]

ON_PREVIEW: Mapping[str, Callable[[np.ndarray], Any]] = {"sharpness": sharpness, "exposure": exposure, "noise": noise}


def straightforward(
    rgb: np.ndarray, metrics: tuple[str, ...], brisque_type: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Measure a photo; metrics share one preview."""
    found: dict[str, Any] = {}
    if not ON_PREVIEW.keys().isdisjoint(metrics):
        gray = straightforward_preview(rgb)
        found = {name: measure(gray) for name, measure in ON_PREVIEW.items() if name in metrics}
    if "brisque" in metrics:
        found["brisque"] = brisque(rgb, brisque_type)
    return found


class Contest:
    """Run both ways over the same photos."""

    def __init__(self, settings: Settings, paths: list[Path]) -> None:
        self._paths = paths
        self._reader = PhotoReader(settings)
        self._limits = DecodeLimits(settings.max_pixels)
        self._analyzer = TechnicalQualityAnalyzer(settings)
        self._rgbs = [straightforward_decode(path) for path in paths]

    def _decoded(self, path: Path) -> np.ndarray:
        return decode(self._reader.read(str(path)), self._limits).rgb

    def decoding(self) -> Ways:
        """Decode files."""
        return {
            "ours": lambda: [self._decoded(path) for path in self._paths],
            "theirs": lambda: [straightforward_decode(path) for path in self._paths],
        }

    def measuring(self, metrics: tuple[str, ...], brisque_type: torch.dtype = torch.float32) -> Ways:
        """Measure decoded photos."""
        return {
            "ours": lambda: [self._analyzer.measure_cpu(rgb, metrics) for rgb in self._rgbs],
            "theirs": lambda: [straightforward(rgb, metrics, brisque_type) for rgb in self._rgbs],
        }

    def everything(self, metrics: tuple[str, ...]) -> Ways:
        """Decode and measure files."""
        return {
            "ours": lambda: [self._analyzer.measure_cpu(self._decoded(path), metrics) for path in self._paths],
            "theirs": lambda: [straightforward(straightforward_decode(path), metrics) for path in self._paths],
        }

    def difference(self, metric: str, brisque_type: torch.dtype = torch.float32) -> float:
        """Largest difference between the measurements of both ways."""
        ours = [list(self._analyzer.measure_cpu(rgb, (metric,))[metric].raw.values()) for rgb in self._rgbs]
        theirs = [np.atleast_1d(straightforward(rgb, (metric,), brisque_type)[metric]) for rgb in self._rgbs]
        return float(np.abs(np.array(ours) - np.array(theirs)).max())


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--photos", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(folder).replace(preview_side=PREVIEW_SIDE)
        metrics = CPU_METRICS
        hub = Path(folder) / "hub"
        torch.hub.set_dir(str(hub))
        (hub / "checkpoints").mkdir(parents=True)
        write_brisque(hub / "checkpoints")
        contest = Contest(settings, write_photos(Path(folder) / "photos", options.photos))
        report = Report(f"CPU metrics, ms per photo of 1024 px ({options.photos} photos, {options.rounds} rounds)")
        contests = {
            "decode": contest.decoding(),
            **{name: contest.measuring((name,)) for name in metrics},
            "together, decoded already": contest.measuring(metrics),
            "together, from the file": contest.everything(metrics),
        }
        differences = {name: contest.difference(name) for name in metrics}
        contests["brisque, both in float64"] = contest.measuring(("brisque",), torch.float64)
        differences["brisque, both in float64"] = contest.difference("brisque", torch.float64)
        for name, ways in contests.items():
            found = medians(ways, options.rounds)
            ours, theirs = (1000 * found[side] / options.photos for side in ("ours", "theirs"))
            numbers = {"ours": ours, "straightforward": theirs, "times as fast": theirs / ours}
            report.add(name, **numbers, **({"differs by": differences[name]} if name in differences else {}))
        report.show(options.json)


if __name__ == "__main__":
    main()
