"""Strict decoding of photo files to upright sRGB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from curation_features.errors import TOO_MANY_FILES, PhotoError, ResourceError, too_many_files
from curation_features.photos.colour.conversion import to_srgb
from curation_features.photos.decoders.avif import read_avif
from curation_features.photos.decoders.heic import read_heic
from curation_features.photos.decoders.jpeg.reader import read_jpeg
from curation_features.photos.decoders.jxl import read_jxl
from curation_features.photos.decoders.pillow import explain, quiet_pillow, read_with_pillow
from curation_features.photos.decoders.png import read_png
from curation_features.photos.decoders.raw import read_raw
from curation_features.photos.decoders.tiff.reader import read_tiff
from curation_features.photos.formats import RAW_FORMATS, identify
from curation_features.photos.jpeg_segments import find_frame
from curation_features.photos.limits import LARGE_PIXELS, DecodeLimits
from curation_features.photos.reader import PhotoFile
from curation_features.photos.reduction import reduce
from curation_features.photos.stored import StoredImage
from curation_features.schema import PhotoInfo, SignalValue
from curation_features.signals.focus import focus
from curation_features.signals.table import rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

READERS: Mapping[str, Callable[[bytes, DecodeLimits], StoredImage]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "TIFF": read_tiff,
    "AVIF": read_avif,
    "HEIC": read_heic,
    "JXL": read_jxl,
    **dict.fromkeys(RAW_FORMATS, read_raw),
}
"""Format -> decoder. Pillow decodes all others. A library of an extra is imported when its first photo is decoded."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo.

    Attributes:
        rgb: (height, width, 3), uint8, 0..255, upright sRGB, C-contiguous. No side is 0.
        source: see `StoredImage.source`.
        notes: see `StoredImage.notes`.
        focus: the signals of `signals.focus` at full size; None if they were not wanted, or are undefined.
    """

    info: PhotoInfo
    rgb: NDArray[np.uint8]
    source: str = "image"
    notes: tuple[str, ...] = ()
    focus: Mapping[str, SignalValue] | None = None


def decode(
    file: PhotoFile, limits: DecodeLimits, *, side: int = 0, scaled: bool = False, with_focus: bool = False
) -> Photo:
    """Decode the first frame of a photo as upright 8-bit sRGB.

    The EXIF or XMP orientation and the colour profile are applied. Transparency is composited on white, 16 bits are
    scaled by 1/257, and gray becomes three equal channels. Unreadable metadata is ignored; unreadable pixels are an
    error. The checksums of a PNG are verified. A JPEG has none: a truncated file, a broken structure, or entropy-coded
    data that libjpeg reports as corrupt is refused; a flipped bit that gives a valid code goes unnoticed.

    Args:
        limits: a single call of a decoder cannot be interrupted; `photos.limits` bounds its input.
        side: if above 0, the long side is reduced by area to at most this many px.
        scaled: the decoder may give a smaller image of at least `side` px, which is faster and less exact. A large
            JPEG (`limits.LARGE_PIXELS`) is always decoded so if `side` is given.
        with_focus: also measure the focus, if the decoder gives all pixels, in RGB or gray.

    Raises:
        PhotoError: `too_large`, `too_slow`, `truncated`, `unsupported_format` or `unreadable`.
        ResourceError: the process has too many open files.
    """
    kind = identify(file.data)
    with quiet_pillow():
        try:
            if kind == "JPEG":
                stored = read_jpeg(file.data, limits, min_side=side if scaled or _is_large(file.data) else 0)
            else:
                stored = READERS.get(kind, read_with_pillow)(file.data, limits)
            in_focus = _measure_focus(stored) if with_focus else None
            pixels = reduce(stored.pixels, side) if side else stored.pixels
            rgb, colour_notes = to_srgb(pixels, stored.profile)
            rgb = upright(rgb, stored.orientation)
        except PhotoError:
            raise
        except Image.DecompressionBombError as error:
            raise PhotoError("too_large", f"{error}; PIL.Image.MAX_IMAGE_PIXELS sets this limit") from error
        except Exception as error:  # hostile bytes can raise any exception
            if too_many_files(error):  # Pillow loads a decoder on first use
                raise ResourceError(f"{error}; {TOO_MANY_FILES}") from error
            raise explain(file.data, error) from error
    width, height = stored.size if stored.orientation < 5 else stored.size[::-1]
    return Photo(
        PhotoInfo(file.sha256, kind, width, height), rgb, stored.source, (*stored.notes, *colour_notes), in_focus
    )


def _measure_focus(stored: StoredImage) -> Mapping[str, SignalValue] | None:
    """Measure the focus of a stored image, if these are all its pixels; the place is that in the upright photo."""
    width, height = stored.size
    if stored.pixels.shape != (height, width, 3):
        return None
    found = focus(stored.pixels)
    return rounded(found.values(width, height, stored.orientation)) if found else None


def _is_large(data: bytes) -> bool:
    frame = find_frame(data)
    return frame is not None and frame.width * frame.height > LARGE_PIXELS


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels upright, by their EXIF orientation, 1 to 8 (EXIF 2.32, table 6)."""
    if orientation > 4:  # rows of the stored image are columns
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(_TURNS[orientation](pixels))


_TURNS: Mapping[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels,
    6: lambda pixels: pixels[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1],
    8: lambda pixels: pixels[::-1],
}
