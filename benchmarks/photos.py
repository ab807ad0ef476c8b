"""Write test photos: reproducible variations of those in scikit-image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from curation_features.ingest.samples import write_samples

LONG_SIDE = 1024
"""px"""


def write_photos(folder: Path, count: int, side: int = LONG_SIDE) -> list[Path]:
    """Write `count` different JPEGs with a long side of `side` px; returns their paths.

    Each is a crop of one of the bundled photos, of 60 to 100 % of its sides, mirrored or not. Half of those photos are
    smaller than 1024 px and become soft, which does not affect the time of a metric.
    """
    folder.mkdir(parents=True, exist_ok=True)
    originals = [Image.open(path).convert("RGB") for path in write_samples(folder / "originals")]
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    with ThreadPoolExecutor() as pool:
        written = pool.map(lambda n: _write(paths[n], originals[n % len(originals)], n, side), range(count))
        list(written)
    return paths


def _write(path: Path, original: Image.Image, seed: int, side: int) -> None:
    random = np.random.default_rng(seed)
    width, height = (int(side * share) for side, share in zip(original.size, random.uniform(0.6, 1, 2), strict=True))
    left, top = random.integers((original.width - width + 1, original.height - height + 1)).tolist()
    photo = original.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
        photo = ImageOps.mirror(photo)
    ImageOps.contain(photo, (side, side)).save(path, "JPEG", quality=90)
