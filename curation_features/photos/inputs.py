"""Conversion of arrays, tensors, PIL images and paths to pixels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from curation_features.errors import PhotoError
from curation_features.photos.colour.conversion import to_srgb
from curation_features.photos.decode import upright
from curation_features.photos.decoders.pillow import explain, quiet_pillow, to_stored
from curation_features.photos.decoders.tiff.reader import read_tiff_image
from curation_features.photos.limits import DecodeLimits, check_before_pixels
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoFile, PhotoReader
from curation_features.schema import PhotoInfo
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
        PhotoError: the file cannot be read as a photo (names it), or the pixels of the PIL image have no known meaning.
        TypeError: the image has an unsupported type, shape or dtype.
    """
    return read_image(image, settings)[0]


def read_image(image: ImageLike, settings: Settings) -> tuple[NDArray[np.uint8], PhotoInfo | None]:
    """Return the same as `read_pixels`, with the format, size and digest of the file if the image is a path."""
    if isinstance(image, np.ndarray) or _is_tensor(image):
        return check_rgb(image), None
    if not isinstance(image, (Image.Image, Path, str)):
        raise TypeError(f"{_ACCEPTED}, not {type(image).__name__}")
    if isinstance(image, Image.Image):
        return _convert(image, DecodeLimits(settings.max_pixels, settings.max_decode_seconds)), None
    file = _read(str(image), settings)
    try:
        photo = Decoder(settings).decode(file)
    except PhotoError as error:
        raise PhotoError(error.reason, f"{str(image)!r}: {error}") from error
    return photo.rgb, photo.info


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


def _convert(image: Image.Image, limits: DecodeLimits) -> NDArray[np.uint8]:
    """Return a PIL image as upright sRGB, by its orientation and ICC profile."""
    with quiet_pillow():
        try:
            check_before_pixels(image, b"", limits)
            stored = read_tiff_image(image, limits) if isinstance(image, TiffImageFile) else to_stored(image)
            rgb, _ = to_srgb(stored.pixels, stored.profile)
            return check_rgb(upright(rgb, stored.orientation))
        except (PhotoError, TypeError):
            raise
        except Exception as error:  # loading hostile bytes can raise any exception
            raise explain(b"", error) from error
