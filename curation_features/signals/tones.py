"""Tones: how far a photo could be brightened, what is clipped in its middle, and its contrast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from curation_features.signals.views import histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.signals.views import Views

BRIGHTEST = 0.995
"""Quantile of max(R, G, B) that may become white; the rest may clip (lamps, reflections)."""

DARKEST_LINEAR = 1e-4
"""Added to linear light, so that black has a logarithm: the largest headroom is 13.3 EV."""

CLIPPED = 253
"""Lowest value that counts as clipped, after resampling and JPEG."""

CHANNELS = ("red", "green", "blue")


def _srgb_to_linear() -> NDArray[np.float64]:
    """Linear light of the 256 sRGB values (IEC 61966-2-1), 0..1."""
    encoded = np.arange(256) / 255
    return np.where(np.arange(256) <= 10, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


LINEAR = _srgb_to_linear()


def headroom_ev(brightest: NDArray[np.uint8]) -> float:
    """Return by how many EV the photo could be brightened before its brightest half per cent clips.

    `-log2(L(q))` with q the 99.5th percentile of max(R, G, B) and L the linear light of sRGB, from photographic
    practice ("expose to the right"). A silhouette against a bright sky has none: its sky is bright.

    Args:
        brightest: (H, W), max(R, G, B) of the preview.

    Returns:
        EV in [0, 13.3]; 0: the photo uses its range.
    """
    return max(0.0, -math.log2(LINEAR[_quantile(brightest, BRIGHTEST)] + DARKEST_LINEAR))


def contrast(preview: NDArray[np.uint8]) -> float:
    """Return the 99th minus the 1st percentile of luma, as a share of the range, in [0, 1]; higher is more contrast."""
    low, high = (_quantile(preview, share) / 255 for share in (0.01, 0.99))
    return high - low


def clipped_centre(plane: NDArray[np.uint8]) -> float:
    """Return the share of pixels of at least 253 in the middle half of width and height, in [0, 1]; 0 is best.

    A white ground and a lamp look the same.

    Args:
        plane: (H, W), max(R, G, B) or one channel of the preview.
    """
    height, width = plane.shape
    centre = plane[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(np.count_nonzero(centre >= CLIPPED)) / centre.size


def _quantile(plane: NDArray[np.uint8], share: float) -> int:
    """Lowest value that at least this share of pixels does not exceed."""
    cumulative = np.cumsum(histogram(plane)) / plane.size
    return int(np.searchsorted(cumulative, share))


def tones(views: Views) -> dict[str, float | None]:
    """Measure `headroom_ev`, `clipped_centre`, that of each channel, and `contrast`; None for a photo under 96 px."""
    by_channel = tuple(f"clipped_centre_{channel}" for channel in CHANNELS)
    if not views.is_measurable:
        return dict.fromkeys(("headroom_ev", "clipped_centre", *by_channel, "contrast"))
    channels = zip(by_channel, views.channels, strict=True)
    return {
        "headroom_ev": headroom_ev(views.brightest),
        "clipped_centre": clipped_centre(views.brightest),
        **{name: clipped_centre(channel) for name, channel in channels},
        "contrast": contrast(views.preview),
    }
