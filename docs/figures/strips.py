"""Draw the strips of docs/scores.md: photos in the public domain, as they are and with known faults.

python docs/figures/strips.py [FOLDER]     writes the JPEGs (default: the folder of this file)

The photos come with scikit-image (the extra `samples`), whose docstrings name their origin: those of NASA (astronaut,
moon, Hubble) and SpaceX (rocket) are in the public domain; chelsea, grass and gravel are under CC0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Photo = NDArray[np.uint8]
"""(H, W, 3), RGB."""

SIDE = 180  # of a panel, px
GAP = 4  # between panels, px
CORNER = (25, 130)  # top and left of the part that is shown 1:1, px


def photo(name: str) -> Photo:
    """Return a photo of scikit-image as RGB."""
    return np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"))


def light(pixels: Photo) -> NDArray[np.float64]:
    """Return the linear light of sRGB, 0 to 1 (IEC 61966-2-1)."""
    encoded = pixels / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def pixels(linear: NDArray[np.float64]) -> Photo:
    """Return the sRGB values of linear light."""
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def blurred(original: Photo, radius: float) -> Photo:
    """Blur by a Gaussian of this sigma, px, in linear light; 0 leaves the photo as it is."""
    return pixels(cv2.GaussianBlur(light(original), (0, 0), radius)) if radius else original


def underexposed(original: Photo, stops: float) -> Photo:
    """Darken by EV."""
    return pixels(light(original) / 2**stops)


def noisy(original: Photo, sigma: float) -> Photo:
    """Add white noise, gray levels."""
    noise = np.random.default_rng(1).normal(scale=sigma, size=original.shape)
    return np.rint((original + noise).clip(0, 255)).astype(np.uint8)


def blur() -> dict[str, Photo]:
    """The astronaut, blurred more and more."""
    original = photo("astronaut")
    return {"as it is": original, **{f"{radius:g} px": blurred(original, radius) for radius in (0.7, 1.2, 2, 3.2)}}


def noise() -> dict[str, Photo]:
    """Fine texture, and real noise."""
    textures = {"grass": photo("grass"), "gravel": photo("gravel"), "fur": photo("chelsea")}
    return {**textures, "a face": photo("astronaut"), "noise 12": noisy(photo("astronaut"), 12)}


def dark() -> dict[str, Photo]:
    """Dark pictures that are meant to be dark, and an underexposed one."""
    meant = {"dusk": photo("rocket"), "galaxies": photo("hubble_deep_field"), "the Moon": photo("moon")}
    return {**meant, "a portrait": photo("astronaut"), "2 EV under": underexposed(photo("astronaut"), 2)}


STRIPS: Mapping[str, Callable[[], dict[str, Photo]]] = {"blur": blur, "noise": noise, "dark": dark}
"""The photos of each strip by caption, from left to right. The guide's figures are those of the whole photos."""


def shown(strip: str, original: Photo) -> Photo:
    """Return the square that a panel shows: pixels 1:1 for blur and noise, else the whole photo, reduced."""
    height, width = original.shape[:2]
    if strip != "dark":
        top, left = CORNER
        return original[top : top + SIDE, left : left + SIDE]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = original[top : top + side, left : left + side]
    return np.asarray(cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def drawn(strip: str) -> Image.Image:
    """Draw the panels of a strip side by side, each with its caption."""
    panels = STRIPS[strip]()
    picture = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for number, (caption, original) in enumerate(panels.items()):
        left = number * (SIDE + GAP)
        picture.paste(Image.fromarray(shown(strip, original)), (left, 0))
        draw.text((left + 7, SIDE - 24), caption, "white", font, stroke_width=2, stroke_fill="black")
    return picture


def draw(folder: Path) -> None:
    """Write every strip as a JPEG."""
    for strip in STRIPS:
        drawn(strip).save(folder / f"strip-{strip}.jpg", quality=88, subsampling="4:4:4")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
