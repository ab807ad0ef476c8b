"""Decoding with Pillow: its modes as RGB or CMYK, its errors as `PhotoError`, without its warnings."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from curation_features.errors import PhotoError
from curation_features.photos.boxes import is_cut
from curation_features.photos.formats import NAMES, OTHER_FORMATS
from curation_features.photos.limits import DecodeLimits, check_before_pixels, open_image, read_tags
from curation_features.photos.stored import StoredImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRAIGHT_ALPHA = {"La": "LA", "RGBa": "RGBA"}
_RGB_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "HSV"})
_GRAY_BITS = {"L;2": 2, "L;4": 4}  # Pillow scales such pixels to 0..255, but not the transparent value
_RESTORE = "copy it again, or export it as JPEG"
_ENDS_EARLY = re.compile(r"truncated|incomplete", re.IGNORECASE)  # in messages of Pillow and its codecs
_UNPACKS_TOO_LARGE = re.compile(r"MAX_TEXT_CHUNK|MAX_TEXT_MEMORY")  # limits of PNG texts and profiles: 1 MB and 64 MB


def read_with_pillow(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the first frame of an image."""
    return to_stored(open_checked(data, limits))


def open_checked(data: bytes, limits: DecodeLimits) -> Image.Image:
    """Open an image, and check the limits."""
    image = open_image(data, seconds=limits.max_seconds)
    check_before_pixels(image, data, limits)
    return image


def to_stored(image: Image.Image) -> StoredImage:
    """Load an image; transparency is composited on white, 16-bit gray is scaled by 1/257, CMYK is kept.

    Loading turns a TIFF upright and removes its orientation, so that is read later.
    """
    gray_bits = _GRAY_BITS.get(_raw_mode(image))
    image.load()
    if gray_bits and isinstance(image.info.get("transparency"), int):
        image = image.copy()
        image.info["transparency"] = image.info["transparency"] * 255 // (2**gray_bits - 1)
    pixels = np.array(image if image.mode == "CMYK" else _to_rgb(image))
    profile = None if image.mode == "LAB" else image.info.get("icc_profile") or None
    return StoredImage(pixels, image.size, read_orientation(image), profile)


def _raw_mode(image: Image.Image) -> str:
    """Return the pixel type that an image has in its file; empty if it is loaded."""
    tiles = getattr(image, "tile", ())
    return tiles[0].args if tiles and isinstance(tiles[0].args, str) else ""


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8. 1 if missing or unreadable."""
    try:
        value = read_tags(image).get(ExifTags.Base.Orientation, 1)
    except PhotoError:  # `too_slow`
        raise
    except Exception:  # broken metadata can raise any exception; the pixels are valid
        return 1
    return value if value in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image, other than CMYK, to RGB, with transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in _STRAIGHT_ALPHA:
        image = image.convert(_STRAIGHT_ALPHA[image.mode])
    if image.mode not in _RGB_MODES:
        raise PhotoError("unsupported_format", f"pixels of type {image.mode} cannot be read as RGB; export it as JPEG")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(layer, mask=layer)
    return canvas


def _from_lab(image: Image.Image) -> Image.Image:
    """Convert Lab of D50 to sRGB."""
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return cast("Image.Image", ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB")))


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert gray of 0..65535 or 0.0..1.0 to 8 bits, with alpha."""
    values: NDArray[Any] = np.asarray(image)
    limit = 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= limit):  # NaN fails too
        raise PhotoError("unsupported_format", f"gray values are outside 0..{limit}; export it as 8 bits")
    scaled = np.rint(values * np.float32(255)) if image.mode == "F" else (values.astype(np.uint32) + 128) // 257
    gray = Image.fromarray(scaled.astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray


def explain(data: bytes, error: Exception) -> PhotoError:
    """Return the `PhotoError` for an error of Pillow."""
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if is_cut(data):
        return PhotoError("truncated", f"the file ends before the image is complete ({detail}); copy it again")
    if isinstance(error, UnidentifiedImageError):
        for name, start in OTHER_FORMATS.items():
            if start.match(data):
                return PhotoError("unsupported_format", f"{name} files are not read; export it as JPEG")
        return PhotoError("unreadable", f"not a {', '.join(NAMES)} image, or damaged at the start; {_RESTORE}")
    if isinstance(error, MemoryError) or _UNPACKS_TOO_LARGE.search(str(error)):
        return PhotoError("too_large", f"decoding exceeds the memory or Pillow's limits ({detail})")
    if _ENDS_EARLY.search(str(error)) or _is_short_webp(data):
        return PhotoError("truncated", f"the file ends before the image is complete ({detail}); copy it again")
    return PhotoError("unreadable", f"the image is damaged ({detail}); {_RESTORE}")


def _is_short_webp(data: bytes) -> bool:
    """Return whether a WebP is truncated. (Its decoder reports only damage.)"""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)


_TAG_LOG = logging.getLogger("PIL.TiffImagePlugin")  # at DEBUG it logs every tag: positions, owners


def _hides_tags(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


class _QuietPillow:
    """Thread-safe context manager that mutes Pillow's warnings and tag logging.

    Pillow warns about damaged metadata and about sizes that are limited here anyway. `warnings.catch_warnings` is not
    thread-safe: it swaps a list shared by all threads. This class inserts one entry into the list and removes it after
    the last thread has left. The entry only ignores, so Python's registry of shown warnings stays valid.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._entry = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._entry not in self._filters():
                self._filters().insert(0, self._entry)
            _TAG_LOG.addFilter(_hides_tags)  # adding it twice has no effect
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    _TAG_LOG.removeFilter(_hides_tags)
                    with suppress(ValueError):  # other code restored an older list meanwhile
                        self._filters().remove(self._entry)

    @staticmethod
    def _filters() -> list[Any]:
        return cast("list[Any]", warnings.filters)


quiet_pillow = _QuietPillow().__call__
"""Context in which Pillow does not warn or log tag values; several threads may enter it."""
