"""Colour: from the space of a photo's ICC profile to sRGB, by littlecms.

Intent and black point are those of Photoshop: relative colorimetric, which keeps every colour that sRGB has, with black
point compensation (ISO 18619). Without it the darkest ink, L* of 5 to 15, becomes gray of 17 to 38, and every print is
measured as pale. It does not affect profiles of matrix and curves, whose black is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from PIL import Image

from curation_features.photos.colour.matrix_profile import MAX_PROFILE_BYTES, is_srgb, read_tags

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageCms import ImageCmsTransform

    Pixels: TypeAlias = NDArray[np.uint8]

_CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})  # input, display, output, colour space
_MODES = {(b"RGB ", 3): "RGB", (b"GRAY", 3): "L", (b"CMYK", 4): "CMYK"}  # space and channels -> mode of PIL
_HDR_TRANSFERS = frozenset({b"\x10", b"\x12"})  # PQ and HLG (ITU-T H.273, table 3)
_MIN_CONTRAST = 64  # levels from the darkest to the brightest colour; a profile with less is broken


def to_srgb(pixels: Pixels, profile: bytes | None) -> tuple[Pixels, tuple[str, ...]]:
    """Convert pixels to sRGB. Thread-safe.

    A profile that changes no level by more than 1 is sRGB: the pixels are returned unchanged. Without a usable profile,
    RGB is sRGB, and CMYK becomes (1 - ink) (1 - black), as in browsers.

    Args:
        pixels: (height, width, 3): RGB; (height, width, 4): CMYK, 255 is full ink. Not written to.
        profile: ICC profile of the pixels; None: none. Of gray: the pixels are gray, expanded to RGB.

    Returns:
        (height, width, 3), and notes: `profile_ignored`: the profile is broken, too large, or not of these pixels;
        `hdr_profile`: it describes PQ or HLG; `cmyk_without_profile`: the colours are approximate.
    """
    conversion = _IGNORED
    if profile is not None and len(profile) <= MAX_PROFILE_BYTES:
        conversion = _find_conversion(profile, pixels.shape[2])
    rgb = conversion.convert(pixels)
    if rgb is not None:
        return rgb, conversion.notes
    notes = conversion.notes if profile is None else (*conversion.notes, "profile_ignored")
    if pixels.shape[2] == 3:
        return pixels, notes
    return np.array(Image.fromarray(pixels, "CMYK").convert("RGB")), (*notes, "cmyk_without_profile")


@dataclass(frozen=True, slots=True)
class _Conversion:
    """The conversion by a profile; `convert` returns None if the profile does not apply to the pixels."""

    convert: Callable[[Pixels], Pixels | None]
    notes: tuple[str, ...] = ()


def _ignore(pixels: Pixels) -> None:
    del pixels


def _keep(pixels: Pixels) -> Pixels:
    return pixels


_IGNORED = _Conversion(_ignore)


@lru_cache(maxsize=32)
def _find_conversion(profile: bytes, channels: int) -> _Conversion:
    """Return the conversion of a profile for pixels of 3 or 4 channels."""
    mode = _MODES.get((profile[16:20], channels))
    if mode is None or profile[12:16] not in _CLASSES:
        return _IGNORED
    if mode != "CMYK" and is_srgb(profile):
        return _Conversion(_keep)
    tags = read_tags(profile)
    notes = ("hdr_profile",) if _is_hdr(tags) else ()
    # A table maps HDR to the range of a display. Curves alone do not: white becomes almost black.
    if notes and not tags.keys() & {b"A2B0", b"A2B1"}:
        return _Conversion(_ignore, notes)
    from PIL import ImageCms  # loads littlecms

    try:
        transform = _build_transform(profile, mode)
        samples = _make_samples(mode)
        colours = _apply(samples, transform, mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, MemoryError):
        return _Conversion(_ignore, notes)
    if int(colours.max()) - int(colours.min()) < _MIN_CONTRAST:
        return _Conversion(_ignore, notes)
    if mode == "CMYK":
        return _Conversion(partial(_apply, transform=transform, mode=mode), notes)
    if np.abs(colours.astype(np.int16) - samples).max() <= 1:
        return _Conversion(_keep, notes)
    if mode == "L":
        return _Conversion(partial(_apply_table, table=colours[0, :, 1]), notes)
    return _Conversion(partial(_apply, transform=transform, mode=mode), notes)


def _build_transform(profile: bytes, mode: str) -> ImageCmsTransform:
    from PIL import ImageCms

    # Threads may share a transform that has no cache of its last pixel (littlecms's API, cmsDoTransform).
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
    if mode == "L":  # a table of 33 nodes, the default, misses linear curves in the shadows by 10 levels
        flags |= ImageCms.Flags.NOOPTIMIZE
    source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, target, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)


def _apply(pixels: Pixels, transform: ImageCmsTransform, mode: str) -> Pixels:
    from PIL import ImageCms

    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    if mode == "RGB":
        ImageCms.applyTransform(image, transform, inPlace=True)  # `fromarray` has copied the pixels
        return np.array(image)
    return np.array(ImageCms.applyTransform(image, transform))


def _apply_table(pixels: Pixels, table: Pixels) -> Pixels | None:
    """Apply levels of gray to RGB pixels; None if they have a colour."""
    gray = np.ascontiguousarray(pixels[..., 1])
    if not (np.array_equal(gray, pixels[..., 0]) and np.array_equal(gray, pixels[..., 2])):
        return None
    return cv2.merge([table[gray]] * 3).astype(np.uint8, copy=False)


def _make_samples(mode: str) -> Pixels:
    """Return all grays, and a grid of colours, as an image of one row."""
    channels = 4 if mode == "CMYK" else 3
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], channels, axis=1)
    if mode == "L":
        return grays[np.newaxis]
    levels = np.linspace(0, 255, 5 if mode == "CMYK" else 17).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * channels), axis=-1).reshape(-1, channels)
    return np.concatenate([grays, grid])[np.newaxis]


def _is_hdr(tags: Mapping[bytes, bytes]) -> bool:
    """Return whether a profile's code points (ICC.1:2022, 9.2.17) name PQ or HLG."""
    content = tags.get(b"cicp", b"")
    return content[:4] == b"cicp" and content[9:10] in _HDR_TRANSFERS
