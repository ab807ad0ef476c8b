"""TIFF."""

from __future__ import annotations

from PIL import ExifTags
from PIL.TiffImagePlugin import TiffImageFile

from curation_features.errors import PhotoError
from curation_features.photos.pillow import open_checked, to_stored
from curation_features.photos.stored import DecodeLimits, StoredImage

_REDUCED_IMAGE = 1  # bit of NewSubfileType: the first image of a camera raw file is a thumbnail


def read_tiff(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the first image of a TIFF."""
    image = open_checked(data, limits)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & _REDUCED_IMAGE:
        raise PhotoError(
            "unsupported_format",
            "its first image is a thumbnail of another one, as in unknown camera raw files; export it as JPEG",
        )
    return to_stored(image)
