"""`measure_signals`: the signals and flags of a single image, without a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation_features.photos.inputs import read_image
from curation_features.schema import SIGNAL_PARTS, SIGNALS, FeatureError, SignalValue
from curation_features.settings import Settings, load_settings
from curation_features.signals.flags import Flag, flags, limits_of
from curation_features.signals.table import measure_parts
from curation_features.signals.views import Views

if TYPE_CHECKING:
    from curation_features.photos.inputs import ImageLike


@dataclass(frozen=True, slots=True)
class PhotoSignals:
    """The signals of an image, and the flags and hints that follow from them.

    Attributes:
        values: every signal by name, in physical units (see docs/scores.md); None where undefined or unknown.
        flags: flags, then hints, each with its `name`, `kind` ("flag" or "hint") and `reason` in words.
        errors: why signals could not be computed; usually empty.
    """

    values: Mapping[str, SignalValue]
    flags: tuple[Flag, ...]
    errors: tuple[FeatureError, ...] = ()


def measure_signals(image: ImageLike, settings: Settings | None = None) -> PhotoSignals:
    """Measure the signals of an image: blur, noise, light, focus; flag those over the limits of the settings.

        found = measure_signals("data/input/beach.jpg")
        found.values["blur_px"]                                # 0.93
        [(flag.name, flag.reason) for flag in found.flags]
        # [("blurred", "edges 0.93 px wide at 512 px, limit 0.85")]

    No model is needed. `focus_px` and `megapixels` are those of the given pixels: of a reduced copy, they are not those
    of the original. `blocks` is known only for the path of a JPEG file.

    Args:
        image: upright RGB array or torch tensor (H, W, 3) of uint8, PIL image or path; relative paths start at the
            project's root.
        settings: by default those of the current folder and environment.

    Raises:
        PhotoError: a path is not a readable photo.
        TypeError: an image of another type, shape or dtype.
    """
    settings = settings or load_settings()
    rgb, info = read_image(image, settings)
    is_jpeg = info is not None and info.format == "JPEG"
    measured = measure_parts(Views(rgb), [part for part in SIGNAL_PARTS if is_jpeg or part != "blocking"])
    found = {name: value for part in measured.values() for name, value in part.values.items()}
    values = {signal.name: found.get(signal.name) for signal in SIGNALS}
    errors = tuple(part.error for part in measured.values() if part.error)
    return PhotoSignals(values, tuple(flags(values, limits_of(settings))), errors)
