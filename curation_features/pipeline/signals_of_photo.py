"""The signals of a photo, from those of the image that was measured.

The image is often a reduced copy of the original. Then its size, its JPEG blocks and its focus are those of the copy:
the size and the focus of the original come from the manifest, and the blocks are unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from curation_features.schema import FOCUS_VERSION, SIGNAL, SIGNALS, PhotoRecord, SignalValue

_FOCUS = tuple(signal.name for signal in SIGNALS if signal.part == "focus")


def signals_of_photo(record: PhotoRecord, artifact: Mapping[str, Any]) -> dict[str, SignalValue]:
    """Return every signal of a photo by name, in the order of `schema.SIGNALS`; None where undefined or unknown.

    Args:
        artifact: of the photo. Of its `processing_metadata`, `original_size` and `focus` are used, as `ingest` writes
            them; implausible values count as missing.
    """
    measured = {name: value for part in record.signals.values() for name, value in part.values.items()}
    found: dict[str, SignalValue] = {signal.name: measured.get(signal.name) for signal in SIGNALS}
    if record.info is None:
        return found
    original = original_size(artifact)
    is_reduced = original is not None and sorted(original) != sorted((record.info.width, record.info.height))
    if original is not None and found["megapixels"] is not None:
        found["megapixels"] = round(math.prod(original) / 1e6, SIGNAL["megapixels"].digits)
    if is_reduced or record.info.format != "JPEG":
        found["blocks"] = None
    if is_reduced:
        found.update(_focus(_processing(artifact).get("focus")))
    return found


def original_size(artifact: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of a photo's original, as its manifest has them; None if it has none."""
    value = _processing(artifact).get("original_size")
    if not isinstance(value, list) or len(value) != 2 or any(type(side) is not int or side < 1 for side in value):
        return None
    return value[0], value[1]


def _processing(artifact: Mapping[str, Any]) -> Mapping[str, Any]:
    value = artifact.get("processing_metadata")
    return value if isinstance(value, dict) else {}


def _focus(value: Any) -> dict[str, SignalValue]:
    """Return the focus signals of a manifest: all of them, or none; none of another version."""
    fields = value if isinstance(value, dict) else {}
    numbers = {name: fields.get(name) for name in _FOCUS}
    if fields.get("version") == FOCUS_VERSION and all(_is_plausible(name, number) for name, number in numbers.items()):
        return numbers
    return dict.fromkeys(_FOCUS)


def _is_plausible(name: str, number: Any) -> bool:
    signal = SIGNAL[name]
    if type(number) not in (int, float) or not math.isfinite(number):
        return False
    return bool(signal.low <= number and (signal.high is None or number <= signal.high))
