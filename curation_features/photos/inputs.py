"""Images that a caller hands over directly: arrays, PIL images and paths, as pixels."""

from __future__ import annotations

import hashlib
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from curation_features.photos.reader import PhotoFile, PhotoReader, decode, quiet_pillow
from curation_features.settings import Settings

IMAGE_TYPES = (np.ndarray, Image.Image, Path, str)
"""The types of a single `ImageLike`; anything else is a sequence of them."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    ImageLike: TypeAlias = NDArray[np.uint8] | Image.Image | Path | str
    """An upright RGB array (H, W, 3) of uint8, a PIL image, or a path."""


def pixels(image: ImageLike, settings: Settings) -> NDArray[np.uint8]:
    """The image as upright RGB, (H, W, 3).

    A path starts at `settings.root` and may lie in any folder, since the caller chose it; a URI must lie within
    `settings.photo_roots`.

    Raises:
        PhotoError: a file that cannot be read as a photo.
        ValueError: an array that is no RGB image of uint8.
    """
    if isinstance(image, np.ndarray):
        return checked_rgb(image)
    file = _as_file(image) if isinstance(image, Image.Image) else _read(str(image), settings)
    return decode(file, max_pixels=settings.max_pixels, max_seconds=settings.max_decode_seconds).rgb


def checked_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`rgb` itself; raises `ValueError` where it is no RGB image."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise ValueError(
            f"expected an RGB image as an array (H, W, 3) of uint8, not {rgb.shape} of {rgb.dtype}; "
            "pass a path or a PIL image to have it converted"
        )
    return rgb


def _read(uri: str, settings: Settings) -> PhotoFile:
    if "://" in uri:
        return PhotoReader(settings).read(uri)
    path = Path(os.path.realpath(settings.root / uri))
    return PhotoReader(settings.replace(photo_roots=(str(path.parent),))).read(str(path))


def _as_file(image: Image.Image) -> PhotoFile:
    """A PIL image as an uncompressed file, so that its colours and orientation are treated as those of any photo."""
    buffer, exif = BytesIO(), Image.Exif()
    with quiet_pillow():
        exif[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        image.save(buffer, "TIFF", exif=exif)
    data = buffer.getvalue()
    return PhotoFile(data, hashlib.sha256(data).hexdigest())
