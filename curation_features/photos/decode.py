"""Strict decoding of photo files to upright RGB."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from curation_features.errors import TOO_MANY_FILES, PhotoError, ResourceError, too_many_files
from curation_features.photos.jpeg import jpeg_pixels
from curation_features.photos.limits import FORMATS, MAX_SECONDS, check_before_pixels, open_image, read_tags
from curation_features.photos.reader import PhotoFile
from curation_features.schema import PhotoInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo: `rgb` is (height, width, 3), uint8, 0..255, upright, C-contiguous. No side is 0."""

    info: PhotoInfo
    rgb: NDArray[np.uint8]


_UPRIGHT = {  # EXIF orientation -> transposition of the stored pixels
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRAIGHT_ALPHA = {"La": "LA", "RGBa": "RGBA"}
_RGB_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_REDUCED_IMAGE = 1  # bit of TIFF's NewSubfileType: the first image of a camera raw file is a thumbnail
_OTHER_FORMATS = {  # known formats that are not read, by their first bytes
    "HEIC": re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    "Photoshop": re.compile(rb"8BPS"),
    "icon": re.compile(rb"\x00\x00[\x01\x02]\x00"),
    "PDF": re.compile(rb"%PDF-"),
    "camera raw": re.compile(rb"FUJIFILM|IIU\x00|II\*\x00....CR|II(RO|RS)", re.DOTALL),
}
_RESTORE = "copy it again, or export it as JPEG"
_ENDS_EARLY = re.compile(r"truncated|incomplete", re.IGNORECASE)  # in messages of Pillow and its codecs
_UNPACKS_TOO_LARGE = re.compile(r"MAX_TEXT_CHUNK|MAX_TEXT_MEMORY")  # limits of PNG texts and profiles: 1 MB and 64 MB


def decode(file: PhotoFile, *, max_pixels: int, max_seconds: float = MAX_SECONDS) -> Photo:
    """Decode the first frame of a photo as upright 8-bit RGB.

    The EXIF or XMP orientation is applied. Transparency is composited on white, 16-bit gray is scaled by 1/257, and
    gray becomes three equal channels. Colour profiles are not applied. Unreadable metadata is ignored; unreadable
    pixels are an error. The checksums of a PNG are verified. A JPEG has none: a truncated file, a broken structure, or
    entropy-coded data that libjpeg reports as corrupt is refused; a flipped bit that gives a valid code goes unnoticed.

    Args:
        max_pixels: maximum width times height, checked before pixels are decoded. Pillow's limit, twice
            `PIL.Image.MAX_IMAGE_PIXELS` (by default 179 million), applies as well.
        max_seconds: maximum CPU time of this thread for parsing. A single call of a decoder cannot be interrupted;
            `limits` bounds its input.

    Raises:
        PhotoError: `too_large`, `too_slow`, `truncated`, `unsupported_format` or `unreadable`.
        ResourceError: the process has too many open files.
    """
    with quiet_pillow():
        try:
            image = _open_checked(file.data, max_pixels, max_seconds)
            is_plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
            pixels = jpeg_pixels(file.data) if is_plain_jpeg else None
            if pixels is None:
                image.load()
                pixels = np.array(_to_rgb(image))
            turn = _UPRIGHT.get(_read_orientation(image))
            if turn is not None:
                pixels = np.array(Image.fromarray(pixels).transpose(turn))
        except PhotoError:
            raise
        except Image.DecompressionBombError as error:
            raise PhotoError("too_large", f"{error}; PIL.Image.MAX_IMAGE_PIXELS sets this limit") from error
        except Exception as error:  # hostile bytes can raise any exception
            if too_many_files(error):  # Pillow loads a decoder on first use
                raise ResourceError(f"{error}; {TOO_MANY_FILES}") from error
            raise _explain(file.data, error) from error
    height, width = pixels.shape[:2]
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return Photo(PhotoInfo(file.sha256, kind, width, height), pixels)


def upright(image: Image.Image) -> Image.Image:
    """Return a loaded image as upright RGB, with transparency on white.

    Raises:
        PhotoError: `unsupported_format`; `too_slow`.
    """
    rgb, turn = _to_rgb(image), _UPRIGHT.get(_read_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8. 1 if missing or unreadable."""
    try:
        value = read_tags(image).get(ExifTags.Base.Orientation, 1)
    except PhotoError:  # `too_slow`
        raise
    except Exception:  # broken metadata can raise any exception; the pixels are valid
        return 1
    return value if value in _UPRIGHT else 1


def _open_checked(data: bytes, max_pixels: int, max_seconds: float) -> Image.Image:
    """Open an image, check the limits, and verify a PNG's checksums."""
    image = open_image(data, seconds=max_seconds)
    check_before_pixels(image, data, max_pixels)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & _REDUCED_IMAGE:
        raise PhotoError(
            "unsupported_format", "camera raw files are not read (only their thumbnail could be); export it as JPEG"
        )
    if image.format != "PNG":
        return image
    image.verify()  # `load()` does not check them; a verified image cannot be loaded
    return open_image(data, formats=("PNG",), seconds=max_seconds)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to RGB, with transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
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


def _explain(data: bytes, error: Exception) -> PhotoError:
    """Return the `PhotoError` for an error of Pillow."""
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        for name, start in _OTHER_FORMATS.items():
            if start.match(data):
                return PhotoError("unsupported_format", f"{name} files are not read; export it as JPEG")
        return PhotoError("unreadable", f"not a {', '.join(FORMATS)} image, or damaged at the start; {_RESTORE}")
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
