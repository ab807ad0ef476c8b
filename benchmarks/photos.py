"""Write test photos: reproducible variations of those in scikit-image, or drawn ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from curation_features.ingest.samples import write_samples

LONG_SIDE = 1024
"""px"""

SHAPES = ((1024, 683), (1024, 768), (683, 1024), (768, 1024))
"""Width and height (px) of drawn photos: 3:2 and 4:3, both orientations."""


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


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Write `count` different drawn JPEGs of `SHAPES`, without scikit-image; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]

    def draw(number: int) -> None:
        draw_photo(number, SHAPES[number % len(SHAPES)]).save(paths[number], "JPEG", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(count)))
    return paths


def draw_photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """Draw an image with the statistics of a photo: amplitudes fall with 1/f, edges, out-of-focus parts and noise.

    A JPEG of it is as large as a photo's, and takes as long to decode.
    """
    random = np.random.default_rng(seed)
    width, height = size
    scene = np.full((height, width, 3), 120, np.float32)
    cells = max(size)
    while cells >= 2:  # octaves of equal variance: a spectrum of 1/f
        coarse = random.standard_normal((-(-height // cells) + 1, -(-width // cells) + 1, 1), np.float32)
        tint = random.standard_normal((*coarse.shape[:2], 3), np.float32)
        scene += cv2.resize(14 * coarse + 4 * tint, size, interpolation=cv2.INTER_CUBIC)
        cells //= 2
    image = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    blurred = image.filter(ImageFilter.GaussianBlur(6))
    mask = Image.new("L", size)
    for target in (mask, image, image, image, image):
        corners = [tuple(corner) for corner in (random.random((4, 2)) * size).tolist()]
        ImageDraw.Draw(target).polygon(corners, fill=tuple(random.integers(0, 256, len(target.getbands())).tolist()))
    image.paste(blurred, mask=mask)
    noise = random.normal(0, 2, (height, width, 3)).astype(np.float32)
    return Image.fromarray((np.asarray(image, np.float32) + noise).clip(0, 255).astype(np.uint8))
