"""Whether two photos may be of one moment, as far as their cameras say it.

Frames of a burst, a bracket or a focus stack on a tripod match like copies of one photo. Copies keep capture time and
mostly file number of their original, or lose them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curation_features.groups.moments import SECOND, file_number
from curation_features.groups.photos import Photo

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZONE = 900.0
"""Time zones differ by quarters of an hour: a clock that was corrected by them tells one moment."""

_ROUNDING = 1e-4


def may_be_one_moment(one: Photo, other: Photo) -> bool:
    """Return whether two photos may come from one exposure; true if a moment is unknown.

    Times without decimals that are equal leave a second of frames: then files of one series with other numbers are
    other frames.
    """
    if one.moment is None or other.moment is None:
        return True
    resolution = max(one.moment.resolution, other.moment.resolution)
    if is_another_moment(np.array(abs(one.moment.seconds - other.moment.seconds)), np.array(resolution)):
        return False
    return resolution < SECOND or not _are_two_files(one, other)


def is_another_moment(apart: NDArray[np.float64], resolution: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether times are of two moments, even if one clock was corrected by a time zone; false for NaN.

    Args:
        apart: seconds between two times, at least 0.
        resolution: the greater one of the two, s.
    """
    return np.asarray(np.minimum(apart % ZONE, -apart % ZONE) > resolution - _ROUNDING, np.bool_)


def _are_two_files(one: Photo, other: Photo) -> bool:
    first, second = file_number(one.path), file_number(other.path)
    return first is not None and second is not None and first[0] == second[0] and first[1] != second[1]
