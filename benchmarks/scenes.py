"""Scenes for `signals.py`: clean photos, faults, and good photos that crude scores condemn.

A scene is a whole picture, or one of the parts of a photo of more than 10 megapixels that do not overlap. Parts are
reduced by 2: at 1:1, lens, demosaicing and depth of field blur a photo by more than a pixel. A part is a scene if it is
in focus: `top_octave` over 0.25, half the amplitude of sharp pictures; and if it would do as a picture (`NO_PICTURE`).
Both rules are independent of our signals.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image, ImageDraw

Pixels = np.ndarray
"""(H, W, 3) of uint8, RGB; of faults also float64, 0 to 255."""

BUNDLED = (
    "astronaut", "camera", "chelsea", "coffee", "rocket", "grass", "gravel", "brick", "coins",
    "hubble_deep_field", "immunohistochemistry", "retina", "moon",
)  # fmt: skip
"""Pictures of scikit-image."""

LONG_SIDE = 1024
"""Largest long side of a scene, px."""

LARGE = 10e6
"""Pixels of a photo that is cut into parts."""

PARTS = 5, 4
"""Parts along the long and the short side."""

IN_FOCUS = 0.25

NO_PICTURE: Mapping[str, tuple[int, ...]] = {
    "craft-beer": (1, 2, 4, 5, 6, 7, 8, 9, 10),  # background and table out of focus; part 3 is the face
    "japanese-shop": (16, 17, 18, 19),  # the ground before the shop, nearly black
}
"""Parts by number that a person rejects who sees all parts in random order, without names or measurements."""


# --- Scenes ---


def scenes(folder: Path | None = None) -> dict[str, Pixels]:
    """Clean photos by name, long side at most 1024 px.

    Args:
        folder: of further photos, each a scene; those in its subfolders belong to `groups`.
    """
    found = {name: rgb_of(getattr(skimage.data, name)()) for name in BUNDLED}
    found["motorcycle"] = rgb_of(skimage.data.stereo_motorcycle()[0])
    for path in [*shared_photos(), *(photos_in(folder) if folder else ())]:
        rgb = rgb_of(path)
        if rgb.shape[0] * rgb.shape[1] <= LARGE:
            found[path.stem] = rgb
        else:
            rejected = NO_PICTURE.get(path.stem, ())
            found |= {
                f"{path.stem}, part {number}": part
                for number, part in enumerate(parts(rgb), 1)
                if number not in rejected
            }
    return {name: reduced(rgb) for name, rgb in found.items()}


def shared_photos() -> list[Path]:
    """The photos under `CURATION_FEATURES_SHARED_DATA`, each once."""
    folder = os.environ.get("CURATION_FEATURES_SHARED_DATA")
    found = photos_in(Path(folder) / "photos") if folder else []
    return [path for path in found if path.stem != "portrait-orientation-6"]  # the same as `portrait`


def photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))


def rgb_of(source: Path | Pixels) -> Pixels:
    image = Image.open(source) if isinstance(source, Path) else Image.fromarray(source)
    return np.array(image.convert("RGB"))


def reduced(rgb: Pixels, side: int = LONG_SIDE) -> Pixels:
    scale = side / max(rgb.shape)
    return rgb if scale >= 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def parts(rgb: Pixels) -> Iterator[Pixels]:
    """Parts of a photo that are in focus, reduced by 2."""
    half = reduced(rgb, max(rgb.shape) // 2)
    across, down = PARTS if half.shape[1] > half.shape[0] else PARTS[::-1]
    for band in np.array_split(half, down, 0):
        for part in np.array_split(band, across, 1):
            if top_octave(part) > IN_FOCUS:
                yield np.ascontiguousarray(part)


def top_octave(rgb: Pixels) -> float:
    """Energy of the highest octave of spatial frequencies (1/4 to 1/2 per px) over that of the next one.

    White noise is taken out: its density is the median of the corners of the spectrum, over 1/2 per px. The ratio is
    about 1 for sharp pictures, whose amplitude falls with 1/f (D. J. Field, "Relations between the statistics of
    natural images and the response properties of cortical cells", JOSA A 4, 1987), and 0 for noise.
    """
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float64)
    window = np.outer(np.hanning(luma.shape[0]), np.hanning(luma.shape[1]))
    energy = np.abs(np.fft.fft2((luma - luma.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in luma.shape), indexing="ij"))
    noise = np.median(energy[frequency > 1 / 2]) / np.log(2)  # energies of noise are exponential: the mean
    octaves = [(energy - noise)[(frequency > low) & (frequency <= 2 * low)].sum() for low in (1 / 4, 1 / 8)]
    return float(max(octaves[0], 0) / octaves[1]) if octaves[1] > 0 else 0.0


# --- Light ---


def linear(rgb: Pixels) -> Pixels:
    """Linear light of sRGB (IEC 61966-2-1), 0 to 1."""
    encoded = rgb / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encoded(light: Pixels) -> Pixels:
    """Values 0 to 255 in sRGB of linear light, not rounded."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def finished(values: Pixels, seed: int) -> Pixels:
    """Add camera noise of sigma 1; compress as JPEG 92."""
    noise = np.random.default_rng(seed).normal(0, 1, values.shape)
    return compressed(np.clip(np.round(values + noise), 0, 255).astype(np.uint8), 92)


def compressed(rgb: Pixels, quality: int) -> Pixels:
    data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


# --- Faults: a scene, a level and a generator to the values of a photo with the fault ---


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


# --- Good photos that crude scores condemn ---

GROUPS: Mapping[str, tuple[str, ...]] = {
    "foliage, grass, gravel, moss": ("grass", "gravel", "brick", "wood_anemones", "kodim13"),
    "night": ("rocket", "hubble_deep_field", "japanese-shop"),
    "silhouettes": (),
    "high key": (),
}
"""Real pictures by group, whole: of `BUNDLED`, and of the shared photos."""

ELECTRONS = 24_000
READ_NOISE = 12.0
"""A white pixel at 1024 px and its read noise, electrons: 16 photosites of 24 megapixels of APS-C at ISO 3200."""


def night(rgb: Pixels, random: np.random.Generator) -> Pixels:
    """Day for night: 5 EV less light but for the sources, and noise of a sensor at ISO 3200.

    The sources are the brightest half per cent of the scene, with a glow, and 12 lamps of 2 to 5 px.
    """
    light = linear(rgb)
    brightest = light.max(2)
    sources = (brightest >= np.quantile(brightest, 0.995)).astype(np.float32)
    for _ in range(12):
        centre = (int(random.integers(rgb.shape[1])), int(random.integers(rgb.shape[0])))
        cv2.circle(sources, centre, int(random.integers(2, 6)), 1.0, -1, cv2.LINE_AA)
    glow = 0.05 * cv2.GaussianBlur(sources, (0, 0), max(rgb.shape) / 60)
    warm = np.array([1.0, 0.8, 0.5], np.float32)
    light = light / 32 + (sources + glow)[..., None] * warm
    counted = random.poisson(ELECTRONS * np.clip(light, 0, 1)) + random.normal(0, READ_NOISE, light.shape)
    return encoded(counted / ELECTRONS)


def silhouette(rgb: Pixels, random: np.random.Generator) -> Pixels:
    """The scene 5 EV darker, as a ridge with trees against a bright sky."""
    height, width = rgb.shape[:2]
    ridge = height * (0.55 + 0.12 * np.sin(np.linspace(0, random.uniform(3, 9), width) + random.uniform(0, 6)))
    ridge = ridge + np.cumsum(random.normal(0, 0.6, width))
    mask = Image.new("L", (4 * width, 4 * height))
    draw = ImageDraw.Draw(mask)
    outline = [(4 * x, 4 * y) for x, y in enumerate(ridge)]
    draw.polygon([*outline, (4 * width, 4 * height), (0, 4 * height)], fill=255)
    for x in random.integers(0, width, 9).tolist():
        top = ridge[x] - random.uniform(0.1, 0.35) * height
        draw.line([(4 * x, 4 * top), (4 * x, 4 * ridge[x] + 8)], fill=255, width=int(random.integers(12, 40)))
        for _ in range(25):
            y = random.uniform(top, ridge[x])
            twig = (4 * (x + random.normal(0, 0.04 * width)), 4 * (y - random.uniform(0, 0.06) * height))
            draw.line([(4 * x, 4 * y), twig], fill=255, width=int(random.integers(4, 10)))
    covered = np.asarray(mask.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255
    sky = np.linspace(0.35, 1.0, height, dtype=np.float32)[:, None, None] * np.array([1.0, 0.75, 0.5], np.float32)
    return encoded(covered * linear(rgb) / 32 + (1 - covered) * sky)


def high_key(rgb: Pixels, random: np.random.Generator) -> Pixels:
    """2 EV more light with a soft shoulder, 1 - exp(-4 L), and a tenth of white veil."""
    light = -np.expm1(-4 * linear(rgb)) / -np.expm1(-4.0)
    return encoded(0.1 + 0.9 * light)


MODELS: Mapping[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "night": night,
    "silhouettes": silhouette,
    "high key": high_key,
}
"""Groups of which too few real pictures are available, made of scenes."""


def groups(folder: Path | None = None) -> dict[str, dict[str, Pixels]]:
    """Real photos of each of `GROUPS`, by name; those of a folder are in subfolders with the groups' names."""
    shared = {path.stem: path for path in shared_photos()}
    found = {}
    for group, names in GROUPS.items():
        photos = {name: rgb_of(getattr(skimage.data, name)()) for name in names if name in BUNDLED}
        photos |= {name: reduced(rgb_of(shared[name])) for name in names if name in shared}
        if folder and (folder / group).is_dir():
            photos |= {path.stem: reduced(rgb_of(path)) for path in photos_in(folder / group)}
        found[group] = photos
    return found
