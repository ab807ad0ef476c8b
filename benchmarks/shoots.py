"""Sequences as a camera takes them, made of clean photos: brackets, focus stacks, panoramas, and bursts like them.

A scene has a depth for each pixel: a slope, a dome, a relief, a thing before a background; the motorcycle of
scikit-image has its real one. Focus blurs a pixel by its distance from the focused depth, as a disc, and enlarges the
frame a little (focus breathing). A hand shifts, turns and shakes; a panorama is a camera that turns about its axis.
Exposure scales linear light and clips. Each frame has own noise and is a JPEG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import skimage.data
from scenes import Pixels, defocus, finished, motion
from sequences import BASE, Roll, exposed

RADII = 0.0, 0.5, 1.0, 2.0, 4.0, 8.0
"""Radii of the discs of defocus that are computed, px of 1024; those between are mixed."""

LEAST_PIXELS = 400
"""Long side of a frame in pixels of the photo that it is cut from, at least: a camera's preview of 512 px is sharp."""

THIRD = 1 / 3


@dataclass(frozen=True)
class Scene:
    """A clean photo, and what is needed to shoot it again.

    Attributes:
        name: names the draws, too.
        rgb: long side at most 1024 px.
        wide: a larger original or None.
    """

    name: str
    rgb: Pixels
    wide: Pixels | None = None

    def random(self, *what: int) -> np.random.Generator:
        """Return a generator that depends on the scene and on what is drawn."""
        return np.random.default_rng([*self.name.encode(), *what])

    @cached_property
    def levels(self) -> list[Pixels]:
        """The scene out of focus, by each of `RADII`."""
        random = self.random()
        return [self.rgb.astype(np.float32)] + [defocus(self.rgb, r, random).astype(np.float32) for r in RADII[1:]]

    def depth(self, kind: str) -> Pixels:
        """Depth of each pixel, 0 to 1."""
        height, width = self.rgb.shape[:2]
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)  # type: ignore[misc]
        random = self.random(1)
        if kind == "slope":  # a table or a landscape: near below, far above
            angle = random.uniform(-0.5, 0.5)
            depth = -y * np.cos(angle) + x * np.sin(angle)
        elif kind == "dome":
            depth = np.hypot(x - random.uniform(0.4, 0.6), y - random.uniform(0.4, 0.6))
        elif kind == "relief":
            bumps = cv2.resize(random.normal(0, 0.25, (4, 5)).astype(np.float32), (width, height), interpolation=2)
            depth = -y + bumps
        elif kind == "thing":  # before a background
            inside = np.hypot((x - random.uniform(0.35, 0.65)) / 0.3, (y - random.uniform(0.45, 0.65)) / 0.4) < 1
            depth = 1 - cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 4)
        else:
            raise ValueError(kind)
        if self.name == "motorcycle" and kind != "thing":
            disparity = skimage.data.stereo_motorcycle()[2]
            disparity = np.where(np.isfinite(disparity), disparity, np.nanmin(disparity)).astype(np.float32)
            depth = -cv2.resize(cv2.medianBlur(disparity, 5), (width, height))
        low, high = np.percentile(depth, (2, 98))
        return np.clip((depth - low) / (high - low), 0, 1)

    def focused(self, depth: Pixels, at: float, aperture: float) -> Pixels:
        """The scene focused at a depth; `aperture` is the radius of blur at a distance of 1, px of 1024."""
        radius = aperture * np.abs(depth - at) * max(self.rgb.shape) / 1024
        place = np.interp(radius, RADII, range(len(RADII))).astype(np.float32)
        mixed = np.zeros_like(self.levels[0])
        for number, level in enumerate(self.levels):
            weight = np.clip(1 - np.abs(place - number), 0, 1)
            if weight.any():
                mixed += level * weight[..., None]
        return mixed


# --- Hands and cameras ---


def framed(rgb: Pixels, x: float = 0, y: float = 0, turn: float = 0, zoom: float = 1, share: float = 0.88) -> Pixels:
    """A frame of `share` of a scene, moved by shares of the frame, turned by degrees and enlarged."""
    height, width = rgb.shape[:2]
    size = int(width * share), int(height * share)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, zoom)
    matrix[:, 2] += np.array(size) / 2 - np.array([width, height]) / 2 + np.array([x * size[0], y * size[1]])
    return cv2.warpAffine(rgb, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def hand(random: np.random.Generator, sway: float = 0.008) -> dict[str, float]:
    """How a hand moves a frame: shares of the frame and degrees."""
    x, y = random.normal(0, sway, 2).clip(-0.025, 0.025)
    return {"x": x, "y": y, "turn": float(random.normal(0, 0.25))}


def developed(values: Pixels, seed: int) -> Pixels:
    return finished(np.clip(values, 0, 255), seed)


def turned(wide: Pixels, pan: float, tilt: float, roll: float, field: float, aspect: float) -> Pixels:
    """Return the frame of a camera that is turned by degrees before a photo of 75 degrees of width.

    Args:
        field: of view along the width of the frame, degrees.
        aspect: height / width of the frame.
    """
    height, width = wide.shape[:2]
    focal = width / 2 / np.tan(np.radians(75 / 2))
    long = 1024
    size = (long, int(long * aspect)) if aspect <= 1 else (int(long / aspect), long)
    own = size[0] / 2 / np.tan(np.radians(field / 2))
    rotation = np.eye(3)
    for axis, degrees in ((2, roll), (0, tilt), (1, pan)):
        rotation = cv2.Rodrigues(np.eye(3)[axis] * np.radians(degrees))[0] @ rotation
    world = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    camera = np.array([[own, 0, size[0] / 2], [0, own, size[1] / 2], [0, 0, 1]])
    matrix = world @ rotation @ np.linalg.inv(camera)
    flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP if own < focal else cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    sharp = cv2.GaussianBlur(wide, (0, 0), 0.4 * focal / own) if own < focal else wide
    frame = cv2.warpPerspective(sharp, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]  # type: ignore[misc]
    return frame * (1 - 0.06 * (x**2 + y**2))[..., None]  # vignetting


def widest(wide: Pixels, aspect: float) -> float:
    """Field of view along the width of a frame that is as high as the photo, but for what the hand misses; degrees."""
    height, width = wide.shape[:2]
    return 0.9 * float(np.degrees(2 * np.arctan(height / width * np.tan(np.radians(75 / 2)) / aspect)))


def pixels_of(wide: Pixels, field: float) -> float:
    """Width of a frame in pixels of the photo."""
    return wide.shape[1] * float(np.tan(np.radians(field / 2)) / np.tan(np.radians(75 / 2)))


# --- Sets ---

Shoot = Callable[[Roll, Scene], object]


def bracket(stops: Sequence[float], every: float, sway: float = 0.008, marked: bool = False) -> Shoot:
    """Shutter speeds that differ by stops; `marked`: the camera says that the frames are bracketed."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random = scene.random(2)
        for number, stop in enumerate(stops):
            exposure = replace(BASE, seconds=BASE.seconds * 2.0**stop, is_bracketed=marked)
            frame = framed(scene.rgb, **hand(random, sway))
            roll.shoot([developed(exposed(frame, stop), number)], every, exposure=exposure)

    return shoot


def stack(
    kind: str, places: Sequence[float], every: float, aperture: float, sway: float = 0.0, breathing: float = 0.003
) -> Shoot:
    def shoot(roll: Roll, scene: Scene) -> None:
        random, depth = scene.random(3), scene.depth(kind)
        frames = []
        for number, at in enumerate(places):
            moved = hand(random, sway) if sway else {}
            frames.append(
                developed(framed(scene.focused(depth, at, aperture), zoom=1 + breathing * number, **moved), number)
            )
        roll.shoot(frames, every)

    return shoot


def wide_of(scene: Scene) -> Pixels:
    if scene.wide is not None:
        return scene.wide
    rgb = scene.rgb
    return np.concatenate([cv2.flip(rgb, 1), rgb, cv2.flip(rgb, 1)], axis=1)[:, rgb.shape[1] // 2 : -rgb.shape[1] // 2]


def panorama(
    count: int, overlap: float, every: float, sway: float, is_upright: bool = True, stops: float = 0.0
) -> Shoot:
    """Frames that a camera takes while it turns to the right; none of a photo that would have to be enlarged for them.

    Args:
        overlap: share of the width.
        sway: degrees by which the hand misses the horizon and the step.
        stops: EV by which the exposures of two neighbours differ at most.
    """

    def shoot(roll: Roll, scene: Scene) -> None:
        wide, random = wide_of(scene), scene.random(4)
        aspect = 1.5 if is_upright else 2 / 3
        field = min(72 / (1 + (count - 1) * (1 - overlap)), widest(wide, aspect))
        step = field * (1 - overlap)
        if pixels_of(wide, field) * max(1, aspect) < LEAST_PIXELS:
            return
        ev = 0.0
        for number in range(count):
            pan = (number - (count - 1) / 2) * step + random.normal(0, sway)
            frame = turned(wide, pan, random.normal(0, sway), random.normal(0, sway), field, aspect)
            exposure = replace(BASE, seconds=BASE.seconds * 2.0 ** (round(ev * 3) / 3))
            lit = exposed(np.clip(frame, 0, 255).astype(np.uint8), round(ev * 3) / 3) if ev else frame
            roll.shoot([developed(lit, number)], every, exposure=exposure)
            ev = float(np.clip(ev + random.uniform(-stops, stops), -1, 1))

    return shoot


def raw_and_rendered(roll: Roll, scene: Scene) -> None:
    frame = developed(framed(scene.rgb), 0)
    for suffix, kind in ((".JPG", "JPEG"), (".DNG", "DNG")):
        roll.add(frame, path=f"card/IMG_0001{suffix}", format=kind)


# --- Bursts ---


def frames_of(
    count: int, every: float, sway: float, change: Callable[[Scene, Pixels, int, np.random.Generator], Pixels]
) -> Shoot:
    def shoot(roll: Roll, scene: Scene) -> None:
        random = scene.random(5)
        frames = (framed(change(scene, scene.rgb, n, random), **hand(random, sway)) for n in range(count))
        roll.shoot([developed(frame, n) for n, frame in enumerate(frames)], every)

    return shoot


def still(count: int, every: float = 0.1, sway: float = 0.008) -> Shoot:
    return frames_of(count, every, sway, lambda _, rgb, n, random: rgb)


def shaken(count: int, most: float) -> Shoot:
    """Motion blur of any length and direction in each frame."""
    return frames_of(count, 0.2, 0.008, lambda _, rgb, n, random: motion(rgb, random.uniform(0.5, most), random))


def softer(count: int, step: float) -> Shoot:
    return frames_of(count, 0.2, 0.008, lambda _, rgb, n, random: defocus(rgb, step * n, random) if n else rgb)


def refocused(kind: str, places: Sequence[float], aperture: float, every: float = 0.15) -> Shoot:
    """A burst whose focus is at these depths."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random, depth = scene.random(6), scene.depth(kind)
        frames = (framed(scene.focused(depth, at, aperture), **hand(random)) for at in places)
        roll.shoot([developed(frame, n) for n, frame in enumerate(frames)], every)

    return shoot


def crossing(subject: Pixels, share: float, count: int = 6, smear: float = 0.0) -> Shoot:
    """A subject in an ellipse crosses the frame; `smear` is its motion blur, px."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random, side = scene.random(7), int(min(scene.rgb.shape[:2]) * share)
        small = cv2.resize(subject, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        mask = cv2.circle(np.zeros((side, side), np.float32), (side // 2, side // 2), side // 2 - 4, 1.0, -1)
        if smear:
            small, mask = (cv2.blur(one, (int(smear), 1)) for one in (small, mask))
        for number, at in enumerate(np.linspace(0.08, 0.92, count)):
            frame = scene.rgb.astype(np.float32)
            left, top = int(at * (frame.shape[1] - side)), int(0.55 * (frame.shape[0] - side))
            part = frame[top : top + side, left : left + side]
            part += mask[..., None] * (small - part)
            roll.shoot([developed(framed(frame, **hand(random)), number)], 0.15)

    return shoot


def followed(subject: Pixels, count: int = 6) -> Shoot:
    """A camera follows a subject: it stays in the middle, the background moves on and is smeared."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random, wide = scene.random(8), wide_of(scene)
        height = 680
        wide = cv2.resize(wide, (int(wide.shape[1] * height / wide.shape[0]), height), interpolation=cv2.INTER_AREA)
        side = 300
        small = cv2.resize(subject, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        mask = cv2.circle(np.zeros((side, side), np.float32), (side // 2, side // 2), side // 2 - 4, 1.0, -1)
        width = min(1020, int(wide.shape[1] * 0.7))
        for number in range(count):
            left = int(number * (wide.shape[1] - width) / (count + 1))
            frame = cv2.blur(wide[:, left : left + width], (25, 1)).astype(np.float32)
            x, y = (np.array([width, height]) / 2 - side / 2 + random.normal(0, 8, 2)).astype(int)
            part = frame[y : y + side, x : x + side]
            part += mask[..., None] * (small - part)
            roll.shoot([developed(frame, number)], 0.12)

    return shoot


def panned(count: int, step: float, every: float = 0.12) -> Shoot:
    """A fast pan with the shutter held down: each frame is moved on by a share of the width."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random, wide = scene.random(9), wide_of(scene)
        field = min(72 / (1 + (count - 1) * step), widest(wide, 2 / 3))
        for number in range(count):
            pan = (number - (count - 1) / 2) * step * field
            frame = turned(wide, pan, random.normal(0, 0.2), random.normal(0, 0.2), field, 2 / 3)
            roll.shoot([developed(cv2.blur(frame, (5, 1)), number)], every)

    return shoot


def zoomed(count: int, step: float) -> Shoot:
    """A subject comes near, or a zoom is turned."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random = scene.random(10)
        frames = (framed(scene.rgb, zoom=1 + step * n, **hand(random)) for n in range(count))
        roll.shoot([developed(frame, n) for n, frame in enumerate(frames)], 0.12)

    return shoot


def windy(count: int, most: float) -> Shoot:
    """Leaves or water: each place moves by other pixels in each frame."""

    def change(_: Scene, rgb: Pixels, n: int, random: np.random.Generator) -> Pixels:
        height, width = rgb.shape[:2]
        x, y = (
            cv2.resize(
                random.normal(0, most, (9, 12)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
            )
            for _ in range(2)
        )
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return cv2.remap(rgb, columns + x, rows + y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)

    return frames_of(count, 0.15, 0.006, change)


def flashed(failing: Iterable[int], count: int = 6) -> Shoot:
    """Frames of one exposure whose flash fails at times."""
    dark = set(failing)
    return frames_of(count, 0.5, 0.006, lambda _, rgb, n, random: exposed(rgb, -2.0) if n in dark else rgb)


def dialled(stops: Sequence[float], every: float = 0.12) -> Shoot:
    """The dial is turned during a burst."""
    return bracket(stops, every)


def metered(count: int) -> Shoot:
    """A burst with automatic exposure, which wavers by a third of a stop."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random = scene.random(11)
        for number in range(count):
            stop = float(random.integers(-1, 2)) * THIRD
            exposure = replace(BASE, seconds=BASE.seconds * 2.0**stop)
            frame = exposed(framed(scene.rgb, **hand(random)), stop / 3)
            roll.shoot([developed(frame, number)], 0.12, exposure=exposure)

    return shoot


def reframed(count: int, every: float) -> Shoot:
    """One subject, framed again each time: shifts of up to a fifth of the frame to any side."""

    def shoot(roll: Roll, scene: Scene) -> None:
        random = scene.random(12)
        for number in range(count):
            x, y = random.uniform(-0.2, 0.2, 2)
            roll.shoot([developed(framed(scene.rgb, x=x, y=y, share=0.6), number)], every)

    return shoot
