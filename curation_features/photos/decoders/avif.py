"""AVIF, with Pillow (libavif)."""

from __future__ import annotations

from dataclasses import replace

from curation_features.photos.boxes import find_auxiliary, read_nclx
from curation_features.photos.colour.nclx import to_profile
from curation_features.photos.decoders.pillow import open_checked, to_stored
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.stored import StoredImage


def read_avif(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the first frame of an AVIF.

    Pillow gives `irot` and `imir` as an EXIF orientation; by ISO/IEC 23008-12 those of EXIF and XMP are not applied.
    Without an ICC profile, the code points of `nclx` are the colours.
    """
    image = open_checked(data, limits)
    image.info.pop("xmp", None)  # its orientation
    own = image.info.get("icc_profile")
    profile, notes = (own, ()) if own else to_profile(*(read_nclx(data) or (None, None)))
    return replace(to_stored(image), profile=profile, notes=(*find_auxiliary(data), *notes))
