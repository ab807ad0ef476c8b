"""JPEG XL, with pylibjxl (libjxl): the extra `jxl`."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from curation_features.errors import PhotoError
from curation_features.photos.boxes import is_cut
from curation_features.photos.decoders.extras import load_library
from curation_features.photos.decoders.pillow import to_stored
from curation_features.photos.limits import DecodeLimits, check_pixels
from curation_features.photos.stored import StoredImage

_PROFILE_SPACE = slice(16, 20)  # of an ICC profile: the colour space of its pixels


def read_jxl(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the first frame of a JPEG XL.

    libjxl applies the orientation of the codestream; by ISO/IEC 18181-2 the orientation in EXIF is not applied. 16-bit
    and float samples are scaled to 8 bits.
    """
    library = load_library("jxl", "JPEG XL")
    try:
        header = library.probe(data)
        check_pixels(header["width"], header["height"], limits)
        with library.JXL(threads=1, pool_size=1) as codec:
            pixels, metadata = codec.decode(data, metadata=True)
            if header["have_animation"]:  # these are the pixels of the last frame
                pixels = codec.decode(data)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _explain(data, error) from error
    profile = metadata.get("icc")
    if profile and profile[_PROFILE_SPACE] == b"CMYK":
        raise PhotoError("unsupported_format", "JPEG XL of CMYK is not read; export it as JPEG")
    return replace(to_stored(Image.fromarray(pixels)), profile=profile)


def _explain(data: bytes, error: Exception) -> PhotoError:
    """Explain an error: libjxl has the same for damage and a missing end; boxes show the length of the file."""
    if isinstance(error, MemoryError):
        return PhotoError("too_large", "decoding exceeds the memory")
    if is_cut(data):
        return PhotoError("truncated", f"the file ends before the image is complete ({error}); copy it again")
    return PhotoError("unreadable", f"the image is damaged or truncated ({error}); copy it again, or export it as JPEG")
