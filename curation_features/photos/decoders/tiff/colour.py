"""The colours of a TIFF: samples of each photometric interpretation as 8-bit RGB or CMYK (TIFF 6.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.ExifTags import Base as Tag

from curation_features.errors import PhotoError
from curation_features.photos.decoders.tiff.lab import lab_to_srgb
from curation_features.photos.decoders.tiff.layout import COLOURS, FLOAT, SIGNED, UNSIGNED, Layout, Photometric

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INK = (Photometric.WHITE_IS_ZERO, Photometric.SEPARATED)  # 0 is paper
_LAB = (Photometric.CIELAB, Photometric.ICCLAB)
_BT601 = (0.299, 0.587, 0.114)  # default of YCbCrCoefficients
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)  # default of ReferenceBlackWhite for YCbCr


class Colours:
    """Converts samples of one image to RGB or CMYK.

    Raises:
        PhotoError: `unsupported_format` or `unreadable`: the tags or, when samples are converted, their values.
    """

    def __init__(self, tags: Mapping[int, Any], layout: Layout) -> None:
        self._layout = layout
        self._colours = COLOURS[layout.photometric]
        if layout.is_associated and layout.photometric in (Photometric.PALETTE, Photometric.YCBCR, *_LAB):
            raise PhotoError(
                "unsupported_format", "associated alpha of this colour space is not read; export it as RGB"
            )
        if layout.photometric == Photometric.PALETTE:
            self._palette = _read_palette(tags, layout)
        if layout.photometric == Photometric.YCBCR:
            self._luma = _read_numbers(tags, Tag.YCbCrCoefficients, _BT601)
            self._range = _read_numbers(tags, Tag.ReferenceBlackWhite, _FULL_RANGE)
        if layout.photometric in _LAB and layout.format == FLOAT:
            raise PhotoError("unsupported_format", "floating-point Lab is not read; export it as RGB")

    @property
    def channels(self) -> int:
        """Channels of the result: 4 for CMYK, else 3."""
        return 4 if self._layout.photometric == Photometric.SEPARATED else 3

    def convert(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert samples (rows, width, samples) to (rows, width, `channels`), gray to one channel.

        Transparency is composited on white.
        """
        layout = self._layout
        colours = self._to_levels(values[..., : self._colours])
        if layout.alpha is not None:
            alpha = to_levels(values[..., layout.alpha, None], layout.bits, layout.format)
            colours = _composite(colours, alpha, layout.is_associated, 0 if layout.photometric in _INK else 255)
        if layout.photometric == Photometric.WHITE_IS_ZERO:
            colours = 255 - colours
        return colours

    def _to_levels(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return gray, RGB or CMYK; of white-is-zero, the ink."""
        layout = self._layout
        if layout.photometric == Photometric.PALETTE:
            colours: NDArray[np.uint8] = self._palette[values[..., 0]]
            return colours
        if layout.photometric in _LAB:
            return lab_to_srgb(_to_lab(values, layout))
        levels = to_levels(values, layout.bits, layout.format)
        return self._from_ycbcr(levels) if layout.photometric == Photometric.YCBCR else levels

    def _from_ycbcr(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert YCbCr (TIFF 6.0, section 21)."""
        codes = levels.astype(np.float32)
        black, white = self._range[::2], self._range[1::2]
        luma, blue, red = (
            (codes[..., one] - black[one]) * ((255 if one == 0 else 127) / ((white[one] - black[one]) or 1))
            for one in range(3)
        )
        of_red, of_green, of_blue = self._luma
        red = red * (2 - 2 * of_red) + luma
        blue = blue * (2 - 2 * of_blue) + luma
        green = (luma - of_blue * blue - of_red * red) / (of_green or 1)
        return _round(np.clip(np.dstack([red, green, blue]), 0, 255))


def to_levels(values: NDArray[Any], bits: int, format: int) -> NDArray[np.uint8]:
    """Scale samples to 0..255: unsigned ones by their bits, floats from 0..1.

    32-bit signed samples of 0..65535 are scaled by 1/257: Pillow stores gray of 16 bits so.

    Raises:
        PhotoError: `unsupported_format`: values have another range.
    """
    if format == FLOAT:
        _check_range(values, 1)
        return _round(values.astype(np.float32, copy=False) * np.float32(255))
    if format == SIGNED:
        if bits != 32:
            raise PhotoError("unsupported_format", "signed samples have no white or black; export it as unsigned")
        _check_range(values, 65535)
        return to_levels(values.astype(np.uint16), 16, UNSIGNED)
    if bits == 8:
        return np.asarray(values, np.uint8)
    if bits > 16:
        return _round(values * (255 / (2**bits - 1)))
    levels: NDArray[np.uint8] = _round(np.arange(2**bits) * (255 / (2**bits - 1)))[values]
    return levels


def _round(levels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(levels), np.uint8)


def _check_range(values: NDArray[Any], limit: int) -> None:
    if not (values.min() >= 0 and values.max() <= limit):  # NaN fails too
        raise PhotoError("unsupported_format", f"samples are outside 0..{limit}; export it as 8 or 16 bits")


def _composite(
    colours: NDArray[np.uint8], alpha: NDArray[np.uint8], is_associated: bool, white: int
) -> NDArray[np.uint8]:
    """Composite on white; `white` is its level."""
    weights = alpha.astype(np.uint32)
    shares = colours.astype(np.uint32) * (255 if is_associated else weights) + white * (255 - weights)
    return np.asarray((np.minimum(shares, 255 * 255) + 127) // 255, np.uint8)


def _to_lab(values: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    """Return L*, a*, b* of unsigned samples (TIFF 6.0, section 23; ICC.1, annex A for ICCLab)."""
    if layout.bits not in (8, 16):
        raise PhotoError("unsupported_format", f"{layout.bits}-bit Lab is not read; export it as RGB")
    unit = 1 if layout.bits == 8 else 256
    if layout.photometric == Photometric.CIELAB:  # a and b are signed
        whole = 255 if layout.bits == 8 else 65535
        opponents = values[..., 1:].view(f"=i{layout.bits // 8}").astype(np.float32) / unit
    else:
        whole = 255 * unit
        opponents = values[..., 1:].astype(np.float32) / unit - 128
    lightness = values[..., :1].astype(np.float32) * np.float32(100 / whole)
    return np.concatenate([np.minimum(lightness, 100), opponents], axis=-1)


def _read_palette(tags: Mapping[int, Any], layout: Layout) -> NDArray[np.uint8]:
    """Return the colours, (2 ** bits, 3), of 16 bits or, by a common fault, of 8."""
    if layout.bits > 16 or layout.format != UNSIGNED:
        raise PhotoError("unreadable", f"a palette TIFF has {layout.bits}-bit samples")
    values = tags.get(Tag.ColorMap, ())
    if len(values) != 3 * 2**layout.bits:
        raise PhotoError("unreadable", f"the palette has {len(values)} values, not {3 * 2**layout.bits}")
    colours = np.array(values, np.uint16).reshape(3, -1).T
    return to_levels(colours, 8 if colours.max() < 256 else 16, UNSIGNED)


def _read_numbers(tags: Mapping[int, Any], tag: int, default: tuple[float, ...]) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in tags.get(tag, default))
    except (TypeError, ValueError, ZeroDivisionError):
        return default
    return values if len(values) == len(default) and np.isfinite(values).all() else default
