"""The functions that measure the signals of `schema.SIGNALS`, by part."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from curation_features.schema import SIGNAL, SIGNAL_PARTS, SIGNALS, FeatureError, Signals, SignalValue
from curation_features.signals.blocking import blocking
from curation_features.signals.edges import edges
from curation_features.signals.facts import facts
from curation_features.signals.focus import focus
from curation_features.signals.grain import grain
from curation_features.signals.tones import tones
from curation_features.signals.views import Views

logger = logging.getLogger(__name__)


def rounded(values: Mapping[str, SignalValue]) -> dict[str, SignalValue]:
    """Round values to the digits of their signals. Raises ArithmeticError for a number that is not finite."""
    return {name: _rounded(name, value) for name, value in values.items()}


def _focus(views: Views) -> dict[str, SignalValue]:
    found = focus(views.rgb)
    values = found.values(views.width, views.height) if found else {}
    return {signal.name: values.get(signal.name) for signal in SIGNALS if signal.part == "focus"}


MEASURES: Mapping[str, Callable[[Views], dict[str, SignalValue]]] = MappingProxyType(
    {"edges": edges, "grain": grain, "tones": tones, "blocking": blocking, "facts": facts, "focus": _focus}
)
"""The function of each part."""


def measure_parts(views: Views, parts: Collection[str] = SIGNAL_PARTS) -> dict[str, Signals]:
    """Measure the signals of a photo, by part. A part that fails does not affect the others.

    Values are rounded, and None if undefined. They hold for the given pixels: `blocks` only if these are
    the pixels of a JPEG file, and the focus only if they are those of the original.

    Args:
        views: of the photo.
        parts: of `schema.SIGNAL_PARTS`.
    """
    return {part: measure_part(views, part) for part in SIGNAL_PARTS if part in parts}


def measure_part(views: Views, part: str) -> Signals:
    """Measure the signals of one part; see `measure_parts`."""
    try:
        return Signals(rounded(MEASURES[part](views)))
    except Exception as error:
        logger.exception("Unexpected error in the signals of %s", part)
        return Signals(error=FeatureError(part, "internal_error", str(error) or type(error).__name__))


def _rounded(name: str, value: SignalValue) -> SignalValue:
    if value is None or isinstance(value, bool):
        return value
    if not math.isfinite(value):
        raise ArithmeticError(f"{name} is not finite")
    return round(float(value), SIGNAL[name].digits) + 0.0
