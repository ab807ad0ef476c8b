"""Draw the pictures of docs/scores.md: one landscape made of noise, as it is and spoilt in known ways.

python docs/figures/draw.py [FOLDER]     writes the JPEGs (default: the folder of this file)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.float64]
"""(H, W, 3) RGB or (H, W), 0 to 1."""

HEIGHT, WIDTH = 480, 720  # px, as drawn
SHOWN = (480, 320)  # width and height of the files, px

HILLS = (  # foot of the ridge and its height, px; colour; contrast of the texture
    (230, 130, (0.50, 0.58, 0.70), 0.05),
    (290, 120, (0.32, 0.42, 0.46), 0.09),
    (345, 80, (0.20, 0.31, 0.22), 0.14),
)
TREES = ((90, 190), (170, 140), (640, 170))  # place and size, px


def fractal(rng: np.random.Generator, shape: tuple[int, int], exponent: float) -> Picture:
    """Noise whose amplitudes fall with frequency to the power of `exponent`, as in nature; mean 0, deviation 1."""
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    radius[0, 0] = np.inf  # no mean
    spectrum = (rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)) / radius**exponent
    field = np.fft.irfft2(spectrum, shape)
    return field / field.std()


def landscape() -> Picture:
    """Sky and sun, hills, a meadow and trees."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    picture = _sky(rng, x, y)
    for foot, height, colour, contrast in HILLS:
        line = fractal(rng, (2, 2 * WIDTH), 1.5)[0, :WIDTH]
        edge = foot - height * (line - line.min()) / np.ptp(line)
        surface = 1 + contrast * fractal(rng, x.shape, 1.2) + 0.22 * fractal(rng, x.shape, 2.0)
        picture = np.where((y >= edge)[..., None], _shaded(colour, surface), picture)
    picture = np.where((y >= 375 + 8 * np.sin(x / 90))[..., None], _meadow(rng, y), picture)
    for place, size in TREES:
        _plant(picture, rng, x - place, y, size)
    soft: Picture = cv2.GaussianBlur(picture.clip(0, 1), (0, 0), 0.6)
    return cv2.resize(soft, SHOWN, interpolation=cv2.INTER_AREA).clip(0, 1)


def _shaded(colour: tuple[float, float, float], light: Picture) -> Picture:
    return light[..., None] * np.array(colour)


def _sky(rng: np.random.Generator, x: Picture, y: Picture) -> Picture:
    down = y / HEIGHT
    sky = np.stack([0.30 + 0.55 * down, 0.50 + 0.35 * down, 0.80 + 0.05 * down], axis=-1)
    clouds = (0.5 * fractal(rng, x.shape, 1.9) + 0.1 - 0.4 * down).clip(0, 1)[..., None]
    sun = np.exp(-((x - 520) ** 2 + (y - 120) ** 2) / (2 * 60.0**2))
    return sky * (1 - clouds) + clouds * np.array([0.97, 0.94, 0.90]) + _shaded((0.35, 0.28, 0.10), sun)


def _meadow(rng: np.random.Generator, y: Picture) -> Picture:
    near = ((y - 370) / 110).clip(0, 1)
    grass = _shaded((0.30, 0.42, 0.16), (1 + 0.28 * fractal(rng, y.shape, 0.75)) * (0.75 + 0.5 * near))
    flowers = cv2.dilate((rng.random(y.shape) > 0.996).astype(np.uint8), np.ones((2, 2)))
    return np.where(flowers[..., None] > 0, np.array([0.95, 0.85, 0.35]), grass)


def _plant(picture: Picture, rng: np.random.Generator, x: Picture, y: Picture, size: float) -> None:
    """A tree with its trunk at x = 0."""
    picture[(abs(x) < size / 40) & (y > 400 - size / 2) & (y < 420)] = (0.20, 0.14, 0.10)
    leaves = fractal(rng, x.shape, 1.1)
    distance = np.hypot(x / (0.32 * size), (y - 400 + 0.62 * size) / (0.42 * size))
    crown = distance + 0.22 * leaves < 0.95
    shaded = _shaded((0.16, 0.27, 0.11), (1 + 0.35 * leaves) * (1.35 - 0.5 * distance.clip(0, 1.4)))
    picture[crown] = shaded[crown]


def noisy(picture: Picture) -> Picture:
    """With noise of a dark room at high ISO: sigma 0.12 of full scale."""
    return picture + np.random.default_rng(1).normal(scale=0.12, size=picture.shape)


SPOILT: dict[str, Callable[[Picture], Picture]] = {
    "good": lambda picture: picture,
    "blurred": lambda picture: cv2.GaussianBlur(picture, (0, 0), 3),
    "dark": lambda picture: picture * 0.15,
    "bright": lambda picture: picture * 1.9 + 0.1,
    "hazy": lambda picture: picture * 0.25 + 0.55,
    "noisy": noisy,
    "compressed": lambda picture: picture,
}
QUALITY = {"compressed": 6}  # of JPEG; 92 where nothing is said


def draw(folder: Path) -> None:
    """Write every picture as a JPEG."""
    original = landscape()
    for name, spoil in SPOILT.items():
        pixels = np.rint(255 * spoil(original).clip(0, 1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=QUALITY.get(name, 92), subsampling="4:2:0")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
