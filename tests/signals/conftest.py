"""Photos with known edges, noise and light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="session")
def photos() -> dict[str, Pixels]:
    """Photos that come with scikit-image, as RGB."""
    names = ("astronaut", "camera", "chelsea", "coffee", "rocket", "grass", "moon")
    return {name: np.array(Image.fromarray(getattr(skimage.data, name)()).convert("RGB")) for name in names}


@pytest.fixture(scope="session")
def beer(shared_data: Path) -> Pixels:
    """A photo of 24 megapixels."""
    return np.array(Image.open(shared_data / "photos" / "craft-beer.jpg").convert("RGB"))


@pytest.fixture(scope="session")
def polygons() -> Pixels:
    """Straight edges in all directions, as sharp as pixels can be, (1200, 1600, 3)."""
    random = np.random.default_rng(1)
    image = Image.new("RGB", (1600, 1200), (120, 120, 120))
    draw = ImageDraw.Draw(image)
    for _ in range(250):
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 7)))
        centre, radius = random.integers(0, (1600, 1200)), random.uniform(60, 250)
        points = [tuple(centre + radius * np.array((np.cos(angle), np.sin(angle)))) for angle in angles]
        draw.polygon(points, fill=tuple(random.integers(30, 226, 3).tolist()))
    return np.array(image)
