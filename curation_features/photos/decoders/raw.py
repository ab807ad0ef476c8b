"""Camera raw, with rawpy (LibRaw): the extra `raw`. The embedded preview if it is large enough, else a demosaic."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.errors import PhotoError, too_many_files
from curation_features.photos.decoders.extras import load_library
from curation_features.photos.decoders.jpeg.reader import read_jpeg
from curation_features.photos.limits import DecodeLimits, check_pixels
from curation_features.photos.raw_kinds import is_cut_dng
from curation_features.photos.stored import StoredImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREVIEW_SIDE = 1024
"""Smallest long side of an embedded preview that is decoded, px: that of the reduced photos."""

PREVIEW_SHARE = 1 / 3
"""Smallest long side of such a preview, as a share of the sensor's."""

_ORIENTATIONS = (1, 2, 4, 3, 5, 8, 6, 7)  # of LibRaw's `flip`: bit 0 mirrors, bit 1 inverts, bit 2 transposes


def read_raw(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the preview that the camera made, or the sensor values.

    A demosaic has half the width and height: 2 x 2 sensor pixels become one. It has the camera's white balance, the
    colours and transfer of sRGB, and the recorded exposure: LibRaw's automatic brightening is off.

    Returns:
        `source`: `preview` or `demosaic`; `size`: that of the preview, or of the sensor's visible area;
        `notes`: `preview_unreadable`: the preview is large enough, but damaged or of an unsupported kind.
    """
    library = load_library("raw", "camera raw")
    if is_cut_dng(data):  # its preview may be whole
        raise PhotoError("truncated", "the file ends before the image is complete; copy it again")
    try:
        with library.RawPy() as raw:
            raw.open_buffer(BytesIO(data))
            sizes = raw.sizes  # before a demosaic, which resets the orientation
            check_pixels(sizes.width, sizes.height, limits)
            preview, notes = _read_preview(library, raw, limits)
            if preview is not None:
                return preview
            pixels = _demosaic(library, raw)
    except library.LibRawError as error:
        raise _explain(library, error) from error
    size = (sizes.width, sizes.height)
    return StoredImage(pixels, size, _ORIENTATIONS[sizes.flip & 7], source="demosaic", notes=notes)


def _read_preview(library: Any, raw: Any, limits: DecodeLimits) -> tuple[StoredImage | None, tuple[str, ...]]:
    """Return the largest preview; None if it is too small, and notes.

    A JPEG has its own orientation in EXIF, or that of the raw file, which LibRaw adds.
    """
    sizes = raw.sizes
    try:
        preview = raw.extract_thumb()
    except (library.LibRawNonFatalError, library.NotSupportedError):  # there is none, or one of another kind
        return None, ()
    if preview.format == library.ThumbFormat.BITMAP:
        pixels = np.ascontiguousarray(preview.data[..., :3])
        image = StoredImage(pixels, (pixels.shape[1], pixels.shape[0]), _ORIENTATIONS[sizes.flip & 7])
    else:
        try:
            image = read_jpeg(preview.data, limits)
        except Exception as error:  # hostile bytes can raise any exception
            if too_many_files(error) or (isinstance(error, PhotoError) and error.reason == "too_slow"):
                raise
            return None, ("preview_unreadable",)
    if max(image.size) < max(PREVIEW_SIDE, PREVIEW_SHARE * max(sizes.width, sizes.height)):
        return None, ()
    is_turned = image.orientation > 4 and (image.size[0] > image.size[1]) != (sizes.width > sizes.height)
    return replace(image, source="preview", orientation=1 if is_turned else image.orientation), ()


def _demosaic(library: Any, raw: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = raw.postprocess(
        half_size=True,
        use_camera_wb=True,
        output_color=library.ColorSpace.sRGB,
        output_bps=8,
        gamma=(2.4, 12.92),  # of sRGB
        no_auto_bright=True,
        adjust_maximum_thr=0.0,  # the brightest pixel does not become white
        user_flip=0,
    )
    return pixels


def _explain(library: Any, error: Exception) -> PhotoError:
    detail = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
    if isinstance(error, library.LibRawFileUnsupportedError | library.LibRawNotImplementedError):
        cause = "LibRaw does not read this camera's raw files, or the file is damaged at the start"
        return PhotoError("unsupported_format", f"{cause} ({detail}); export it as JPEG")
    if isinstance(error, library.LibRawTooBigError | library.LibRawUnsufficientMemoryError):
        return PhotoError("too_large", f"decoding exceeds the limits of LibRaw ({detail})")
    if isinstance(error, library.LibRawIOError):
        return PhotoError("truncated", f"the file ends before the image is complete ({detail}); copy it again")
    return PhotoError("unreadable", f"the image is damaged ({detail}); copy it again, or export it as JPEG")
