"""TIFF and BigTIFF: the first image, of any samples that have one meaning.

Pillow decodes plain images, and those whose compression knows samples, such as JPEG. It scrambles, inverts, truncates
or refuses many others, so `tiff_samples` and `tiff_colour` decode them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from curation_features.errors import PhotoError
from curation_features.photos.decoders.pillow import to_stored
from curation_features.photos.decoders.tiff.colour import Colours
from curation_features.photos.decoders.tiff.layout import COLOURS, SIGNED, Layout, Photometric, read_layout
from curation_features.photos.decoders.tiff.samples import BYTE_COMPRESSIONS, read_bands
from curation_features.photos.limits import DecodeLimits, TimedBytes, check_before_pixels, check_pixels, open_timed
from curation_features.photos.stored import StoredImage

_BIG_ENDIAN_BIGTIFF = b"MM\0+"  # Pillow takes it for a TIFF
_REDUCED_IMAGE = 1  # bit of NewSubfileType: the first image of a camera raw file is a thumbnail
_CFA, _LINEAR_RAW = 32803, 34892  # PhotometricInterpretation of camera raw files
_COMPRESSIONS = {33003: "JPEG 2000", 34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 50002: "JPEG XL"}
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


def read_tiff(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the first image of a TIFF.

    Raises:
        PhotoError: the image is damaged, exceeds a limit, or its samples have no known meaning.
        Exception: Pillow cannot parse or unpack the file.
    """
    file = open_timed(data, limits.max_seconds)
    tags = _read_tags(file)
    _refuse_camera_raw(tags)
    layout = read_layout(tags, _byte_order(tags), limits.max_pixels)
    check_pixels(*layout.size, limits)
    is_unknown = data.startswith(_BIG_ENDIAN_BIGTIFF) and layout.compression in BYTE_COMPRESSIONS
    if is_unknown or not is_left_to_pillow(layout):
        return read_samples(file, data, tags, layout)
    try:
        image = Image.open(file, formats=("TIFF",))
    except UnidentifiedImageError as error:
        raise _refuse(layout) from error
    check_before_pixels(image, data, limits)
    return to_stored(image)


def read_tiff_image(image: TiffImageFile, limits: DecodeLimits) -> StoredImage:
    """Return the pixels of an image that a caller opened with Pillow.

    Raises:
        PhotoError: as `read_tiff`; and `unsupported_format`: Pillow has loaded the pixels, and loads them wrong.
    """
    layout = read_layout(image.tag_v2, _byte_order(image.tag_v2), limits.max_pixels)
    if is_left_to_pillow(layout):
        return to_stored(image)
    if not image.tile or image.fp is None:  # it is loaded
        if _is_loaded_right(layout):
            return to_stored(image)
        raise PhotoError("unsupported_format", "Pillow loads the samples of this TIFF wrong; pass its path instead")
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(place)
    return read_samples(TimedBytes(data, limits.max_seconds), data, image.tag_v2, layout)


def is_left_to_pillow(layout: Layout) -> bool:
    """Return whether Pillow decodes the image right, or is the only decoder of its compression."""
    return layout.is_plain or layout.compression not in BYTE_COMPRESSIONS


def _is_loaded_right(layout: Layout) -> bool:
    """Return whether Pillow, if it reads the image at all, neither scrambles, inverts nor darkens it."""
    if layout.subsampling != (1, 1) or (layout.format == SIGNED and layout.bits != 32):
        return False
    if layout.is_planar:
        return layout.bits == 8
    is_gray = layout.photometric == Photometric.BLACK_IS_ZERO and layout.bits in (16, 32)
    return layout.bits <= 8 or (layout.bits == 16 and COLOURS[layout.photometric] > 1) or is_gray


def read_samples(file: TimedBytes, data: bytes, tags: Mapping[int, Any], layout: Layout) -> StoredImage:
    """Decode an image without Pillow's conversion of samples."""
    colours = Colours(tags, layout)
    width, height = layout.size
    bands = read_bands(data, layout, file.check_time)
    top, values = next(bands)  # before memory for all pixels is allocated
    pixels = np.empty((height, width, colours.channels), np.uint8)
    pixels[top : top + len(values)] = colours.convert(values)
    for top, values in bands:
        pixels[top : top + len(values)] = colours.convert(values)
    is_lab = layout.photometric in (Photometric.CIELAB, Photometric.ICCLAB)
    profile = None if is_lab else tags.get(Tag.InterColorProfile)
    return StoredImage(pixels, layout.size, _read_orientation(tags), profile if isinstance(profile, bytes) else None)


def _read_tags(file: TimedBytes) -> ImageFileDirectory_v2:
    """Return the tags of the first image."""
    head = file.read(16)
    if head.startswith(_BIG_ENDIAN_BIGTIFF):
        tags = ImageFileDirectory_v2(b"II+\0" + head[4:], b"MM")
    else:
        tags = ImageFileDirectory_v2(head if head[2] == 43 else head[:8])
    file.seek(tags.next)
    tags.load(file)
    file.seek(0)
    return tags


def _byte_order(tags: ImageFileDirectory_v2) -> str:
    return ">" if tags.prefix == b"MM" else "<"


def _refuse_camera_raw(tags: Mapping[int, Any]) -> None:
    """Refuse a camera raw file: its first image is a thumbnail, or the mosaic of the sensor."""
    is_thumbnail = tags.get(Tag.NewSubfileType, 0) & _REDUCED_IMAGE
    if is_thumbnail or Tag.DNGVersion in tags or tags.get(Tag.PhotometricInterpretation) in (_CFA, _LINEAR_RAW):
        raise PhotoError(
            "unsupported_format",
            "its first image is a thumbnail of another one, as in unknown camera raw files; export it as JPEG",
        )


def _refuse(layout: Layout) -> PhotoError:
    """Return the reason why Pillow does not know an image."""
    compression = _COMPRESSIONS.get(layout.compression, f"compression {layout.compression}")
    planes = "planar " if layout.is_planar else ""
    samples = f"{layout.samples} {planes}samples of {layout.bits} bits"
    message = f"a TIFF of {layout.photometric.name} with {samples} and {compression} is not read"
    return PhotoError("unsupported_format", f"{message}; export it without compression, or as JPEG")


def _read_orientation(tags: Mapping[int, Any]) -> int:
    """Return the orientation of the tag or, without one, of XMP; 1 if missing or invalid."""
    value = tags.get(Tag.Orientation)
    if value is None:
        xmp = tags.get(Tag.XMLPacket)
        found = _XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
        value = int(found[1]) if found else 1
    return value if value in range(1, 9) else 1
