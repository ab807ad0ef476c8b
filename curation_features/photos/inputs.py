"""Conversion of arrays, tensors, PIL images and paths to pixels."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from curation_features.errors import PhotoError
from curation_features.photos.isolation import Decoder
from curation_features.photos.pillow import quiet_pillow
from curation_features.photos.reader import PhotoFile, PhotoReader
from curation_features.settings import Settings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from typing_extensions import TypeIs

    ImageLike: TypeAlias = NDArray[np.uint8] | torch.Tensor | Image.Image | Path | str
    """An upright RGB image (H, W, 3) of uint8 as a NumPy array or torch tensor, a PIL image, or a path."""

_ACCEPTED = "expected a path, a PIL image, or an RGB image (H, W, 3) of uint8 as a NumPy array or torch tensor"


def is_image(images: object) -> TypeIs[ImageLike]:
    """Return whether an argument is one image, not an iterable of images.

    An object of an unsupported type, such as `bytes`, counts as one image, which `pixels` refuses.
    """
    single = (np.ndarray, Image.Image, Path, str, bytes, bytearray, memoryview)
    return isinstance(images, single) or _is_tensor(images) or not isinstance(images, Iterable)


def read_pixels(image: ImageLike, settings: Settings) -> NDArray[np.uint8]:
    """Return an image as upright RGB, (H, W, 3).

    A relative path starts at `settings.root`. A path may be in any folder, since the caller chose it; a URI must be in
    `settings.photo_roots`.

    Raises:
        PhotoError: the file cannot be read as a photo; names it.
        TypeError: the image has an unsupported type, shape or dtype.
    """
    if isinstance(image, np.ndarray) or _is_tensor(image):
        return check_rgb(image)
    if not isinstance(image, (Image.Image, Path, str)):
        raise TypeError(f"{_ACCEPTED}, not {type(image).__name__}")
    file = _to_file(image) if isinstance(image, Image.Image) else _read(str(image), settings)
    try:
        return Decoder(settings).decode(file).rgb
    except PhotoError as error:
        if isinstance(image, Image.Image):
            raise
        raise PhotoError(error.reason, f"{str(image)!r}: {error}") from error


def check_rgb(rgb: Any) -> NDArray[np.uint8]:
    """Return an RGB image of uint8 as an array. Raises `TypeError` for others."""
    shape, dtype = tuple(rgb.shape), str(rgb.dtype).removeprefix("torch.")
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != "uint8":
        raise TypeError(f"{_ACCEPTED}, not {shape} of {dtype}")
    return rgb if isinstance(rgb, np.ndarray) else np.ascontiguousarray(rgb.detach().cpu().numpy())


def _is_tensor(image: object) -> bool:
    torch = sys.modules.get("torch")  # not imported: tensors exist only after its import
    return torch is not None and isinstance(image, torch.Tensor)


def _read(uri: str, settings: Settings) -> PhotoFile:
    if "://" in uri:
        return PhotoReader(settings).read(uri)
    path = Path(os.path.realpath(settings.root / uri))
    return PhotoReader(settings.replace(photo_roots=(str(path.parent),))).read(str(path))


def _to_file(image: Image.Image) -> PhotoFile:
    """Save a PIL image as an uncompressed file, to be decoded like any photo."""
    buffer, exif = BytesIO(), Image.Exif()
    with quiet_pillow():
        exif[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        image.save(buffer, "TIFF", exif=exif)
    data = buffer.getvalue()
    return PhotoFile(data, hashlib.sha256(data).hexdigest())
