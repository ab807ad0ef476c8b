"""The tasks of a decoder: what it does with a photo's bytes, and its results as JSON fields and buffers.

Both sides use it: `TASKS` runs in the child, `photo_from` and the others read its answers in the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from curation_features.errors import PhotoError
from curation_features.photos.copies import Copies, make_copies
from curation_features.photos.decode import Photo, decode
from curation_features.photos.decoders.extras import load_library
from curation_features.photos.decoders.pillow import quiet_pillow
from curation_features.photos.exif.fields import read_exif
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoFile
from curation_features.photos.thumbnail import ThumbnailKind, make_thumbnail
from curation_features.schema import PhotoInfo
from curation_features.signals.focus import focus

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arguments: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = tuple[dict[str, Any], Sequence["bytes | NDArray[np.uint8]"]]


def _decode(file: PhotoFile, limits: DecodeLimits, arguments: Arguments) -> Answer:
    photo = decode(file, limits)
    fields = {"info": asdict(photo.info), "shape": photo.rgb.shape, "source": photo.source, "notes": photo.notes}
    return fields, [photo.rgb]


def _make_copies(file: PhotoFile, limits: DecodeLimits, arguments: Arguments) -> Answer:
    copies = make_copies(file, limits)
    fields = {
        "info": asdict(copies.info),
        "exif": copies.exif,
        "sizes": [copies.ranking_size, copies.standard_size],
        "source": copies.source,
        "notes": copies.notes,
        "focus": copies.focus,
    }
    return fields, [copies.ranking, copies.standard]


def _read_exif(file: PhotoFile, limits: DecodeLimits, arguments: Arguments) -> Answer:
    return read_exif(file.data), []


def _make_thumbnail(file: PhotoFile, limits: DecodeLimits, arguments: Arguments) -> Answer:
    kind = ThumbnailKind(**arguments["kind"])
    thumbnail = make_thumbnail(file, kind, limits)
    return {}, [] if thumbnail is None else [thumbnail]


TASKS: Mapping[str, Callable[[PhotoFile, DecodeLimits, Arguments], Answer]] = {
    "decode": _decode,
    "make_copies": _make_copies,
    "read_exif": _read_exif,
    "make_thumbnail": _make_thumbnail,
}
"""Name -> function of a file, limits and JSON arguments; it returns JSON fields and buffers."""


def photo_from(fields: Mapping[str, Any], buffers: Sequence[bytearray]) -> Photo:
    """Return the result of `decode`."""
    pixels = np.frombuffer(buffers[0], dtype=np.uint8).reshape(fields["shape"])
    return Photo(PhotoInfo(**fields["info"]), pixels, fields["source"], tuple(fields["notes"]))


def copies_from(fields: Mapping[str, Any], buffers: Sequence[bytearray]) -> Copies:
    """Return the result of `make_copies`."""
    ranking_size, standard_size = (tuple(size) for size in fields["sizes"])
    return Copies(
        PhotoInfo(**fields["info"]),
        fields["exif"],
        bytes(buffers[0]),
        bytes(buffers[1]),
        ranking_size,
        standard_size,
        fields["source"],
        tuple(fields["notes"]),
        fields["focus"],
    )


def exif_from(fields: Mapping[str, Any], buffers: Sequence[bytearray]) -> dict[str, Any]:
    """Return the result of `read_exif`."""
    del buffers
    return dict(fields)


def thumbnail_from(fields: Mapping[str, Any], buffers: Sequence[bytearray]) -> bytes | None:
    """Return the result of `make_thumbnail`."""
    del fields
    return bytes(buffers[0]) if buffers else None


def preload(extras: Sequence[str]) -> None:
    """Load every module that a task may need, as a process that can open no file cannot.

    Args:
        extras: extras of this package whose libraries are loaded, too.
    """
    Image.init()
    import_module("PIL.ImageCms")  # `colour` imports it for the first profile
    focus(np.kron(np.indices((16, 16)).sum(0) % 2, np.full((8, 8), 255)).astype(np.uint8)[..., None].repeat(3, 2))
    image = Image.new("RGB", (16, 16))
    with quiet_pillow():
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"):
            buffer = BytesIO()
            image.save(buffer, kind)
            file = PhotoFile(buffer.getvalue(), "")
            make_copies(file, DecodeLimits(max_pixels=256))
            make_thumbnail(file, ThumbnailKind(8, 5000, is_exact=True), DecodeLimits(max_pixels=256))
    for extra in extras:
        with suppress(PhotoError):  # the task reports it
            load_library(extra, extra)
