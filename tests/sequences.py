"""Sequences of frames, made of scikit-image's pictures: bursts, brackets, focus stacks, panoramas.

A frame is a window of a picture. Exposure scales linear light (IEC 61966-2-1) and clips; focus blurs by distance to a
vertical band; each frame has its own noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import skimage.data

from curation_features.fingerprints import Fingerprint
from curation_features.fingerprints.measure import measure
from curation_features.groups import Exposure, Group, Moment, Photo, PhotoSet

Pixels = np.ndarray
NOISE = 2.0  # gray levels
BASE = Exposure(1 / 125, 5.6, 200)


@lru_cache
def picture(name: str) -> Pixels:
    """A picture of 600 px on its long side."""
    rgb = getattr(skimage.data, name)()
    rgb = np.stack([rgb] * 3, axis=2) if rgb.ndim == 2 else rgb[..., :3]
    scale = 600 / max(rgb.shape)
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def noisy(rgb: Pixels, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, NOISE, rgb.shape)
    return np.clip(rgb + noise, 0, 255).round().astype(np.uint8)


def window(rgb: Pixels, x: float, y: float, share: float = 0.9, turn: float = 0.0) -> Pixels:
    """A part of `share` of both sides at (x, y), shares of the room that is left, turned by degrees."""
    height, width = rgb.shape[:2]
    size = int(width * share), int(height * share)
    turned = cv2.warpAffine(rgb, cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1), (width, height))
    left, top = round(x * (width - size[0])), round(y * (height - size[1]))
    return np.asarray(turned[top : top + size[1], left : left + size[0]])


def handheld(rgb: Pixels, frame: int) -> Pixels:
    """A frame of a burst: 2 % of shake, half a degree of turn, noise."""
    shake = np.random.default_rng([frame, 7])
    x, y = 0.5 + shake.uniform(-0.2, 0.2, 2)
    return noisy(window(rgb, x, y, turn=shake.uniform(-0.5, 0.5)), frame)


def exposed(rgb: Pixels, stops: float) -> Pixels:
    """A frame exposed by more stops, clipped to white and to black."""
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4) * 2.0**stops
    linear = np.clip(linear, 0, 1)
    again = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray((again * 255).round().astype(np.uint8))[rgb]


def focused(rgb: Pixels, at: float, radius: float = 6.0, depth: Pixels | None = None) -> Pixels:
    """A frame of a focus stack: sharp at a depth, blurred by the distance from there.

    Args:
        depth: of each pixel, 0 to 1; None: it is the share of the width.
    """
    depth = np.broadcast_to(np.linspace(0, 1, rgb.shape[1]), rgb.shape[:2]) if depth is None else depth
    distance = np.abs(depth - at)
    levels = [rgb.astype(np.float32)]
    levels += [cv2.GaussianBlur(levels[0], (0, 0), sigma) for sigma in np.linspace(radius / 4, radius, 4)]
    place = np.clip(distance * 2, 0, 1) * (len(levels) - 1)
    result = np.zeros(rgb.shape, np.float32)
    for level, pixels in enumerate(levels):
        result += pixels * np.clip(1 - np.abs(place - level), 0, 1).astype(np.float32)[..., None]
    return np.asarray(result.round().astype(np.uint8))


def dome(rgb: Pixels) -> Pixels:
    """Depth of a thing that is near in the middle of the frame and far at its corners, 0 to 1."""
    height, width = rgb.shape[:2]
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return np.asarray(np.hypot(rows, columns) / np.sqrt(2))


def crossing(rgb: Pixels, subject: Pixels, at: float, share: float = 0.3) -> Pixels:
    """A frame in which a subject is at a share of the width."""
    frame, height = rgb.copy(), int(rgb.shape[0] * share)
    small = cv2.resize(subject, (height, height), interpolation=cv2.INTER_AREA)
    left, top = round(at * (rgb.shape[1] - height)), (rgb.shape[0] - height) // 2
    frame[top : top + height, left : left + height] = small
    return frame


def panned(rgb: Pixels, frames: int, overlap: float) -> list[Pixels]:
    """Frames of a panorama from left to right, and their overlap as a share of the width."""
    width = rgb.shape[1] / (1 + (frames - 1) * (1 - overlap))
    starts = [round(frame * width * (1 - overlap)) for frame in range(frames)]
    return [rgb[:, start : start + int(width)] for start in starts]


@dataclass
class Roll:
    """Photos in the making.

    Attributes:
        camera: of the photos that are added; None: they have no EXIF at all.
        clock: seconds of the next photo.
        folder: of the next photo.
    """

    camera: str | None = "Camera A"
    clock: float = 1_700_000_003.25
    folder: str = "card"
    resolution: float = 0.01

    def __post_init__(self) -> None:
        self.photos: list[Photo] = []
        self.prints: dict[str, Fingerprint] = {}
        self.vectors: dict[str, np.ndarray] = {}

    def shoot(self, pixels: Iterable[Pixels], every: float = 0.2, **changes: Any) -> list[str]:
        """Add photos of pixels at a rate; return their keys."""
        keys = []
        for rgb in pixels:
            keys.append(self.add(rgb, **changes))
            self.clock += every
        return keys

    def add(self, rgb: Pixels, key: str = "", **changes: Any) -> str:
        """Add a photo; return its key."""
        number = len(self.photos) + 1
        key = key or f"photo-{number:04}"
        seconds = self.clock if self.resolution < 1 else float(int(self.clock))
        photo = Photo(
            key,
            f"sha-{key}",
            f"{self.folder}/IMG_{number:04}.JPG",
            rgb.shape[1] * 8,
            rgb.shape[0] * 8,
            "JPEG",
            Moment(seconds, self.resolution) if self.camera else None,
            self.camera,
            BASE if self.camera else Exposure(),
        )
        self.photos.append(replace(photo, **changes))
        self.prints[key] = measure(rgb)
        return key

    def bracket(self, rgb: Pixels, stops: Sequence[float], every: float = 0.5, **changes: Any) -> list[str]:
        """Add frames whose shutter speeds differ by stops."""
        keys = []
        for stop in stops:
            exposure = replace(BASE, seconds=BASE.seconds * 2.0**stop)
            keys += self.shoot([exposed(handheld(rgb, len(self.photos)), stop)], every, exposure=exposure, **changes)
        return keys

    def photo_set(self, order: Sequence[int] | None = None) -> PhotoSet:
        """The photos in an order, by default as they were added."""
        photos = [self.photos[index] for index in order] if order is not None else list(self.photos)
        hashes = np.stack([self.prints[photo.key].hashes for photo in photos])
        vectors = np.stack([self.vectors[photo.key] for photo in photos]) if self.vectors else None
        return PhotoSet(photos, hashes, np.ones(len(photos), bool), vectors, lambda i: self.prints[photos[i].key])


def described(groups: Iterable[Group], photos: PhotoSet) -> dict[tuple[str, ...], str]:
    """The keys of each group, and its kind or what kind of set it is."""
    return {
        tuple(sorted(photos.photos[member.index].key for member in group.members)): group.what or group.kind
        for group in groups
    }
