"""Focus: the radius of the edges in the sharpest place, in pixels of the original.

A photo is critically sharp or not at its own pixels: 4 px of blur at 6000 px vanish at 512 px. Only a few tiles are
measured at full size: in each cell of a grid the tile with most fine detail, and the tiles with most detail of all.

The radius of a tile is that of Rice (see `edges`) in the worst direction. With the gradient g and the Hessian H at each
pixel, J = mean(g g^T) is the structure tensor (J. Bigun and G. H. Granlund, "Optimal orientation detection of linear
symmetry", ICCV 1987) and K = mean(H H^T). Straight edges of any directions, blurred by r, have
d^T J d = 2 r^2 d^T K d in every direction d, and the largest ratio is an eigenvalue. So edges of all directions give r;
the four directions of `blur_px` give up to a fifth more.

Noise is taken out of J and K. Second differences of wide edges are under the rounding of 8 bits, so each tile is also
measured at a half, a quarter and an eighth of its size; the finest size counts at which edges are above the noise.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from curation_features.signals.tile_radii import tile_radii
from curation_features.signals.views import LEAST_SIDE, gray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

MARGIN = 0.1
"""Share of each side that does not count: borders, captions, date stamps, and seldom a subject."""

GRID = 8, 6
"""Cells along the long and the short side."""

MOST_DETAILED = 24
"""Tiles that are measured beside those of the cells."""

TILES = ((3072, 128), (1536, 64), (0, 32))
"""Long side from which a tile has so many px."""

SAMPLED_ROWS = 4
"""Rows of each tile in which the search for detail looks."""

DETAIL_LIMIT = 64
"""Largest detail of a pixel in that search, gray levels: a few hot pixels do not make a tile."""

SPECKLE = 24
"""Gray levels by which a hot pixel differs from all its neighbours."""

SHARPEST = 16
"""The sharpest one in this many tiles decides, at least 3 tiles."""


_TURNS: Mapping[int, Callable[[float, float], tuple[float, float]]] = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
"""EXIF orientation -> where a place of the stored image is in the upright one, in shares (EXIF 2.32, table 6)."""


class Box(NamedTuple):
    """A part of the photo, px."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Focus:
    """The sharpness of a photo at full size.

    Attributes:
        focus_px: median radius of the edges in the sharpest tiles, px of the original; 0.35 for a step as sharp as
            pixels can be, lower is better.
        focus_median_px: median radius of the measured tiles with edges: how sharp the frame is as a whole.
        box: the tile to show at 1:1, one of the sharpest.
        tiles: number of tiles with edges.
    """

    focus_px: float
    focus_median_px: float
    box: Box
    tiles: int

    def values(self, width: int, height: int, orientation: int = 1) -> dict[str, float]:
        """The measurements by name, as in `schema.SIGNALS`, with the place in shares of the upright photo, not rounded.

        Args:
            width: of the measured pixels.
            height: of the measured pixels.
            orientation: EXIF orientation of the measured pixels, 1 to 8.
        """
        left, top, *_ = self.box
        corners = ((left, top), (left + self.box.width, top + self.box.height))
        turned = [_TURNS[orientation](x / width, y / height) for x, y in corners]
        (left_share, right), (top_share, bottom) = (sorted(ends) for ends in zip(*turned, strict=True))
        return {
            "focus_px": self.focus_px,
            "focus_median_px": self.focus_median_px,
            "focus_left": left_share,
            "focus_top": top_share,
            "focus_width": right - left_share,
            "focus_height": bottom - top_share,
        }


def focus(rgb: NDArray[np.uint8]) -> Focus | None:
    """Measure the sharpest place of a photo at full size.

    Args:
        rgb: (H, W, 3) of uint8, all pixels of the original: a reduced photo gives its own radius.

    Returns:
        None for a photo under 96 px, or without edges above the noise (flat, a gradient, a clear sky). Texture that is
        finer than its edges lowers the radius; a watermark in the middle of the frame counts as an edge. A radius over
        a twelfth of a tile reads low (8 px at 24 megapixels: 5 to 6), and a tile whose edges run along a motion is
        sharp.
    """
    height, width = rgb.shape[:2]
    side = next(tile for long, tile in TILES if max(height, width) >= long)
    top, left = round(MARGIN * height) + 2, round(MARGIN * width) + 2
    rows, columns = (height - 2 * top) // side, (width - 2 * left) // side
    if max(height, width) < LEAST_SIDE or min(rows, columns) < 1:
        return None
    detail = _detail(rgb[top - 1 : top + rows * side + 1, left - 1 : left + columns * side + 1], side)
    corners = [(top + row * side, left + column * side) for row, column in _promising(detail)]
    radii = tile_radii(_cut(rgb, corners, side)).tolist()
    found = sorted((radius, corner) for radius, corner in zip(radii, corners, strict=True) if not math.isnan(radius))
    if not found:
        return None
    sharpest = found[: max(3, len(found) // SHARPEST)]
    shown = max(sharpest, key=lambda one: detail[(one[1][0] - top) // side, (one[1][1] - left) // side])[1]
    return Focus(
        float(np.median([radius for radius, _ in sharpest])),
        float(np.median([radius for radius, _ in found])),
        Box(shown[1], shown[0], side, side),
        len(found),
    )


def _detail(rgb: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Mean absolute Laplacian of a few rows of each tile, (rows, columns).

    Args:
        rgb: (rows * side + 2, columns * side + 2, 3): the tiles, with 1 px around them.
        side: of a tile, px.
    """
    step = side // SAMPLED_ROWS
    at = np.arange(1 + step // 2, rgb.shape[0] - 1, step)
    above, here, below = np.split(gray(rgb[np.concatenate([at - 1, at, at + 1])]).astype(np.int16), 3)
    laplacian = above[:, 1:-1] + below[:, 1:-1] + here[:, :-2] + here[:, 2:] - 4 * here[:, 1:-1]
    size = np.minimum(np.abs(laplacian), DETAIL_LIMIT).astype(np.float32)
    columns = size.shape[1] // side
    return np.asarray(size.reshape(-1, SAMPLED_ROWS, columns, side).mean((1, 3)), np.float32)


def _promising(detail: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Rows and columns of the tiles to measure: the best one of each cell, then the best of all."""
    cells = GRID if detail.shape[0] > detail.shape[1] else GRID[::-1]
    down, across = (
        np.array_split(np.arange(size), min(size, parts)) for size, parts in zip(detail.shape, cells, strict=True)
    )
    chosen = {
        max(itertools.product(rows.tolist(), columns.tolist()), key=lambda at: float(detail[at]))
        for rows, columns in itertools.product(down, across)
    }
    order = np.argsort(-detail, axis=None, kind="stable")
    ranked = (divmod(index, detail.shape[1]) for index in order.tolist())
    more = [at for at in ranked if at not in chosen][:MOST_DETAILED]
    return sorted([*chosen, *more])


def _cut(rgb: NDArray[np.uint8], corners: Sequence[tuple[int, int]], side: int) -> NDArray[np.float32]:
    """Luma of tiles with 1 px around each, without hot pixels, (N, side + 2, side + 2)."""
    cuts = [rgb[top - 2 : top + side + 2, left - 2 : left + side + 2] for top, left in corners]
    luma = gray(np.concatenate(cuts))  # one above the other: neighbours meet only in pixels that are cut off below
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    brightest, darkest = (np.asarray(find(luma, ring)) for find in (cv2.dilate, cv2.erode))
    cool = np.where(cv2.subtract(luma, brightest) > SPECKLE, brightest, luma)
    calm = np.where(cv2.subtract(darkest, luma) > SPECKLE, darkest, cool)
    return calm.reshape(len(corners), side + 4, side + 4)[:, 1:-1, 1:-1].astype(np.float32)
