"""Rank the photos of a group by how sharp they are.

Only a radius of edges ranks: `focus_px` (pixels of the original) or `blur_px` (preview), and one of them for the whole
group. Other measurements must not rank takes of one scene: `noise_luma` is lower for a blurred or heavily compressed
take, `contrast` follows exposure and haze, and BRISQUE changes when a photo is mirrored or turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TIE = 0.05
"""Relative difference of radii up to which two takes count as equally sharp; noise and JPEG change radii, too."""


def sharpest(radii: Sequence[float | None], tie: float = TIE) -> list[int]:
    """Rank photos by the radius of their edges; 1 is the sharpest.

    A photo shares the rank of the sharpest photo of that rank if its radius is at most `tie` larger. The next rank
    counts the photos before it (1, 1, 3), as in sports. Radii are not compared along a chain: of 1.00, 1.04 and 1.08,
    the last has rank 3.

    Args:
        radii: px, at least 0, of the same signal; None or NaN if undefined: these photos share the last rank.
        tie: share of the radius of the best photo of a rank, at least 0.

    Returns:
        The rank of each photo, in the given order; independent of the order of other photos.

    Raises:
        ValueError: a radius is negative or infinite, or `tie` is negative.
    """
    if not tie >= 0:
        raise ValueError(f"tie is at least 0, not {tie}")
    known = sorted(radius for radius in radii if radius is not None and not math.isnan(radius))
    if known and not 0 <= known[0] <= known[-1] < math.inf:
        raise ValueError("a radius is at least 0 and finite, or None")
    ranks: dict[float, int] = {}
    best, rank = -math.inf, 0
    for position, radius in enumerate(known, 1):
        if radius > best * (1 + tie):
            best, rank = radius, position
        ranks[radius] = rank
    return [len(known) + 1 if radius is None or math.isnan(radius) else ranks[radius] for radius in radii]
