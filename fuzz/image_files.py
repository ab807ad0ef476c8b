"""Write intact image files of every supported format with several encoder options, to be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from skimage import data as bundled

PHOTOS = {
    "cat": bundled.chelsea()[60:132, 100:196],
    "astronaut": bundled.astronaut()[20:100, 180:290],
    "coffee": bundled.coffee()[120:210, 200:300],
    "moon": bundled.moon()[100:180, 100:220],  # gray
}


def image_files(shared: Path | None = None) -> dict[str, bytes]:
    """Yield names and bytes of image files.

    Args:
        shared: a folder with `corrupt/` and `photos/`, whose files are added.
    """
    files = {f"{name} {label}": data for name in PHOTOS for label, data in _encodings(Image.fromarray(PHOTOS[name]))}
    if shared is not None:
        found = (path for folder in ("corrupt", "photos") for path in sorted((shared / folder).iterdir()))
        files |= {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found if path.is_file()}
    return files


def _encodings(photo: Image.Image) -> Iterator[tuple[str, bytes]]:
    metadata = {"exif": _exif(), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    alpha = photo.convert("RGBA")
    alpha.putalpha(photo.convert("L"))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(photo.convert("L"), dtype=np.float32) / 255)
    frames: dict[str, Any] = {"save_all": True}
    variants: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("baseline", photo, "JPEG", {}),
        ("progressive", photo, "JPEG", {"progressive": True, "quality": 90}),
        ("4:4:4", photo, "JPEG", {"quality": 95, "subsampling": "4:4:4"}),
        ("restarts", photo, "JPEG", {"restart_marker_rows": 1, "optimize": True}),
        ("cmyk", photo.convert("CMYK"), "JPEG", {}),
        ("metadata", photo, "JPEG", {**metadata, "comment": b"a comment", "xmp": b'<x tiff:Orientation="3"/>'}),
        ("frames", photo, "MPO", frames),
        ("plain", photo, "PNG", {}),
        ("palette", photo.convert("P"), "PNG", {"transparency": 3}),
        ("bilevel", photo.convert("1"), "PNG", {}),
        ("16 bits", deep, "PNG", {}),
        ("alpha", alpha, "PNG", metadata),
        ("frames", photo, "PNG", frames),
        ("lossy", photo, "WEBP", metadata),
        ("lossless", alpha, "WEBP", {"lossless": True}),
        ("frames", photo, "WEBP", frames),
        ("raw", photo, "TIFF", {"exif": metadata["exif"]}),
        ("lzw", photo, "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 16}}),
        ("deflate", alpha, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("jpeg", photo, "TIFF", {"compression": "jpeg"}),
        ("packbits", photo.convert("P"), "TIFF", {"compression": "packbits"}),
        ("fax", photo.convert("1"), "TIFF", {"compression": "group4"}),
        ("16 bits", deep, "TIFF", {"compression": "tiff_lzw"}),
        ("floats", floats, "TIFF", {"compression": "tiff_lzw"}),
        ("cmyk", photo.convert("CMYK"), "TIFF", {}),
        ("frames", photo, "TIFF", frames),
        ("24 bits", photo, "BMP", {}),
        ("palette", photo.convert("P"), "BMP", {}),
        ("one", photo, "GIF", {"comment": b"a comment"}),
        ("frames", photo, "GIF", frames),
        ("lossy", photo, "AVIF", metadata),
        ("frames", alpha, "AVIF", frames),
    ]
    for label, image, kind, options in variants:
        buffer = BytesIO()
        image = (
            image.copy()
        )  # a copy: an encoder stores its settings in the image, and Pillow passes them to the next encoder
        more = {"append_images": [image.rotate(90), image.rotate(180)]} if options is frames else {}
        image.save(buffer, kind, **options, **more)
        yield f"{kind} {label}", buffer.getvalue()
    yield "TIFF tiles", _tiled_tiff(np.asarray(photo.convert("L").resize((96, 64))))


def _exif() -> bytes:
    """Make EXIF with orientation, camera, exposure and position."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Make"
    exif[ExifTags.Base.Model] = "Model"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.ExposureTime: 1 / 60,
            ExifTags.Base.FNumber: 1.8,
            ExifTags.Base.ISOSpeedRatings: 64,
            ExifTags.Base.DateTimeOriginal: "2024:12:25 11:25:57",
        }
    )
    place = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (48.0, 51.0, 29.6)}
    place |= {ExifTags.GPS.GPSLongitudeRef: "E", ExifTags.GPS.GPSLongitude: (2.0, 17.0, 40.2)}
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(place)
    return exif.tobytes()


def _tiled_tiff(gray: np.ndarray[Any, Any], tile: int = 32) -> bytes:
    """Make an uncompressed TIFF in tiles, which Pillow reads but does not write."""
    height, width = gray.shape
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    pixels = b"".join(gray[y : y + tile, x : x + tile].tobytes() for y, x in corners)
    entries = {256: [width], 257: [height], 258: [8], 259: [1], 262: [1], 277: [1], 322: [tile], 323: [tile]}
    lists_at = 8 + 2 + 12 * (len(entries) + 2) + 4
    pixels_at = lists_at + 8 * len(corners)
    offsets = [pixels_at + index * tile * tile for index in range(len(corners))]
    directory = b"".join(_entry(tag, 1, values[0]) for tag, values in entries.items())
    directory += _entry(324, len(corners), lists_at) + _entry(325, len(corners), lists_at + 4 * len(corners))
    lists = np.array(offsets + [tile * tile] * len(corners), "<u4").tobytes()
    count = (len(entries) + 2).to_bytes(2, "little")
    return b"II*\0" + (8).to_bytes(4, "little") + count + directory + bytes(4) + lists + pixels


def _entry(tag: int, count: int, value: int) -> bytes:
    long = 4
    return b"".join(number.to_bytes(size, "little") for number, size in ((tag, 2), (long, 2), (count, 4), (value, 4)))
