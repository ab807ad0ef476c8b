"""The layout of the pixels of a TIFF: its tags, checked (TIFF 6.0, with the BigTIFF and Adobe supplements)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from PIL.ExifTags import Base as Tag

from curation_features.errors import PhotoError

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
"""Values of SampleFormat."""

ASSOCIATED, UNASSOCIATED = 1, 2
"""Alpha, as values of ExtraSamples: multiplied into the colours, or not."""

_COREL_ALPHA = 999  # ExtraSamples of Corel Draw 10: unassociated
_CMYK_INKS = 1  # InkSet
_UNDEFINED_FORMAT = 4
_PLANAR = 2
_MAX_SAMPLES = 64  # per pixel
_MAX_BLOCK_BYTES = 160_000_000  # an unpacked strip or row of tiles; Pillow refuses 179 million


class Photometric(IntEnum):
    """Values of PhotometricInterpretation that are read."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    SEPARATED = 5
    YCBCR = 6
    CIELAB = 8
    ICCLAB = 9


COLOURS: Mapping[Photometric, int] = {
    Photometric.WHITE_IS_ZERO: 1,
    Photometric.BLACK_IS_ZERO: 1,
    Photometric.RGB: 3,
    Photometric.PALETTE: 1,
    Photometric.SEPARATED: 4,
    Photometric.YCBCR: 3,
    Photometric.CIELAB: 3,
    Photometric.ICCLAB: 3,
}
"""Photometric interpretation -> samples of its colour."""

_OTHER_PHOTOMETRICS = {4: "a transparency mask", 10: "ITULAB colour", 32844: "LogL", 32845: "LogLuv"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Structure of the pixels of one image of a TIFF.

    Blocks are its strips or tiles. A strip is as wide as the image; the last may be shorter.

    Attributes:
        size: width and height, px.
        bits: of each sample.
        samples: per pixel; in a planar image each has its own plane.
        format: SampleFormat: `UNSIGNED`, `SIGNED` or `FLOAT`.
        order: byte order of samples, as in `struct`.
        alpha: index of the alpha sample; None if there is none.
        is_associated: whether colours are multiplied by alpha.
        subsampling: horizontal and vertical, of the chroma of YCbCr.
        block: width and height of a block, px.
        offsets: position of each block in the file.
        counts: number of bytes of each block.
    """

    size: tuple[int, int]
    bits: int
    samples: int
    format: int
    order: str
    photometric: Photometric
    alpha: int | None
    is_associated: bool
    subsampling: tuple[int, int]
    is_planar: bool
    compression: int
    predictor: int
    fill_order: int
    is_tiled: bool
    block: tuple[int, int]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def planes(self) -> int:
        """Number of planes: 1 if the samples of a pixel are next to each other."""
        return self.samples if self.is_planar else 1

    @property
    def across(self) -> int:
        """Blocks next to each other."""
        return -(-self.size[0] // self.block[0])

    @property
    def down(self) -> int:
        """Blocks below each other, of one plane."""
        return -(-self.size[1] // self.block[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of one block, unpacked."""
        return -(-self.block[0] * (self.samples // self.planes) * self.bits // 8)

    @property
    def is_plain(self) -> bool:
        """Whether Pillow reads the pixels right: 8-bit gray, RGB or CMYK in one plane, or black and white."""
        colours = COLOURS[self.photometric]
        if self.is_planar or self.format != UNSIGNED or self.samples != colours:
            return False
        gray = (Photometric.WHITE_IS_ZERO, Photometric.BLACK_IS_ZERO)
        plain = (Photometric.BLACK_IS_ZERO, Photometric.RGB, Photometric.SEPARATED)
        return (self.bits == 8 and self.photometric in plain) or (self.bits == 1 and self.photometric in gray)


def read_layout(tags: Mapping[int, Any], order: str, max_pixels: int) -> Layout:
    """Return the checked layout of an image.

    Args:
        tags: of its directory.
        order: byte order of the file, as in `struct`.
        max_pixels: maximum width times height of the image, and of a tile.

    Raises:
        PhotoError: `unreadable`: a tag is missing or contradicts others; `unsupported_format`; `too_large`.
    """
    width, height = _integer(tags, Tag.ImageWidth), _integer(tags, Tag.ImageLength)
    if width * height > max_pixels:
        raise PhotoError("too_large", f"the image has {width} x {height} px, more than max_pixels ({max_pixels})")
    photometric = _read_photometric(tags)
    samples = _integer(tags, Tag.SamplesPerPixel, COLOURS[photometric] if photometric == Photometric.YCBCR else 1)
    if photometric == Photometric.YCBCR and samples == 1:  # gray of a JPEG
        photometric = Photometric.BLACK_IS_ZERO
    if not COLOURS[photometric] <= samples <= _MAX_SAMPLES:
        raise PhotoError("unreadable", f"the TIFF has {samples} samples per pixel of {photometric.name}")
    is_tiled = Tag.TileOffsets in tags
    block = (width, min(_integer(tags, Tag.RowsPerStrip, height), height))
    if is_tiled:
        block = (_integer(tags, Tag.TileWidth), _integer(tags, Tag.TileLength))
        if block[0] * block[1] > max_pixels:
            raise PhotoError("too_large", f"a tile has {block[0]} x {block[1]} px, more than max_pixels ({max_pixels})")
    alpha, is_associated = _read_alpha(tags, COLOURS[photometric], samples)
    subsampling = _integers(tags, Tag.YCbCrSubSampling, (2, 2))[:2]
    return Layout(
        size=(width, height),
        bits=_read_common(tags, Tag.BitsPerSample, samples, 1),
        samples=samples,
        format=_read_format(tags, photometric, samples),
        order=order,
        photometric=photometric,
        alpha=alpha,
        is_associated=is_associated,
        subsampling=(subsampling[0], subsampling[-1]) if photometric == Photometric.YCBCR else (1, 1),
        is_planar=samples > 1 and _integer(tags, Tag.PlanarConfiguration, 1) == _PLANAR,
        compression=_integer(tags, Tag.Compression, 1),
        predictor=_integer(tags, Tag.Predictor, 1),
        fill_order=_integer(tags, Tag.FillOrder, 1),
        is_tiled=is_tiled,
        block=block,
        offsets=_integers(tags, Tag.TileOffsets if is_tiled else Tag.StripOffsets, ()),
        counts=_integers(tags, Tag.TileByteCounts if is_tiled else Tag.StripByteCounts, ()),
    )


def _read_photometric(tags: Mapping[int, Any]) -> Photometric:
    value = 6 if _integer(tags, Tag.Compression, 1) == 6 else _integer(tags, Tag.PhotometricInterpretation, 0, least=0)
    if value == Photometric.SEPARATED and _integer(tags, Tag.InkSet, _CMYK_INKS, least=0) != _CMYK_INKS:
        raise PhotoError("unsupported_format", "a TIFF of inks other than CMYK is not read; export it as RGB")
    try:
        return Photometric(value)
    except ValueError:
        name = _OTHER_PHOTOMETRICS.get(value, f"PhotometricInterpretation {value}")
        raise PhotoError("unsupported_format", f"a TIFF of {name} is not read; export it as RGB") from None


def _read_alpha(tags: Mapping[int, Any], colours: int, samples: int) -> tuple[int | None, bool]:
    """Return the index of the alpha sample, and whether it is associated."""
    kinds = _integers(tags, Tag.ExtraSamples, (), least=0)
    if not kinds and samples == colours + 1:
        kinds = (UNASSOCIATED,)  # the tag is missing: Pillow and other readers assume alpha
    for number, kind in enumerate(kinds[: samples - colours]):
        if kind in (ASSOCIATED, UNASSOCIATED, _COREL_ALPHA):
            return colours + number, kind == ASSOCIATED
    return None, False


def _read_format(tags: Mapping[int, Any], photometric: Photometric, samples: int) -> int:
    """Return SampleFormat. In Lab the interpretation says which integers are signed, so the tag does not matter."""
    if photometric in (Photometric.CIELAB, Photometric.ICCLAB):
        return FLOAT if FLOAT in _integers(tags, Tag.SampleFormat, ()) else UNSIGNED
    value = _read_common(tags, Tag.SampleFormat, samples, UNSIGNED)
    return UNSIGNED if value == _UNDEFINED_FORMAT else value


def _read_common(tags: Mapping[int, Any], tag: int, samples: int, default: int) -> int:
    """Return the value that all samples share."""
    values = set(_integers(tags, tag, (default,), least=1)[:samples])
    if len(values) > 1:
        raise PhotoError("unsupported_format", f"the samples of the TIFF differ in {Tag(tag).name}; export it as RGB")
    return values.pop()


def _integer(tags: Mapping[int, Any], tag: int, default: int | None = None, *, least: int = 1) -> int:
    return _integers(tags, tag, None if default is None else (default,), least=least)[0]


def _integers(tags: Mapping[int, Any], tag: int, default: tuple[int, ...] | None, *, least: int = 0) -> tuple[int, ...]:
    """Return the integers of a tag."""
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    if (default != () and not values) or not all(isinstance(one, int) and one >= least for one in values):
        raise PhotoError("unreadable", f"TIFF tag {tag} is missing or invalid; copy the file again")
    return values


def check_number(layout: Layout) -> None:
    """Refuse an image with missing blocks. Raises `PhotoError`, `unreadable`."""
    needed = layout.planes * layout.across * layout.down
    if len(layout.offsets) < needed:
        raise PhotoError("unreadable", f"the TIFF stores {len(layout.offsets)} of {needed} strips or tiles")


def check_blocks(layout: Layout, file_bytes: int) -> None:
    """Refuse an image with truncated or too large blocks.

    Raises:
        PhotoError: `unreadable`, `truncated` or `too_large`.
    """
    if len(layout.counts) < layout.planes * layout.across * layout.down:
        raise PhotoError("unreadable", "the TIFF lacks the sizes of its strips or tiles")
    if any(start + count > file_bytes for start, count in zip(layout.offsets, layout.counts, strict=False)):
        raise PhotoError("truncated", "the file ends before the image is complete; copy it again")
    if layout.across * layout.block[1] * layout.row_bytes > _MAX_BLOCK_BYTES and layout.compression != 1:
        raise PhotoError("too_large", "the TIFF has one strip of all pixels; save it in smaller strips or uncompressed")
