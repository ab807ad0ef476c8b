"""Versions of results: a short digest of everything that decides a number, apart from the photo itself.

Each part of a result (`schema.PARTS`) has a version of its own, so that a
change of one constant, model or library recomputes that part and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from curation_features.schema import PARTS
from curation_features.settings import Settings

ALGORITHMS: Mapping[str, int] = dict.fromkeys(PARTS, 1)
"""Raised by hand when our own computation of a part changes its numbers."""

_DECODE = ("pillow", "simplejpeg", "opencv-python", "numpy")
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "sharpness": _DECODE,
    "exposure": _DECODE,
    "noise": _DECODE,
    "brisque": (*_DECODE, "piq", "torch"),
    "clip_iqa": (*_DECODE, "piq", "torch"),
    "embedding": ("pillow", "simplejpeg", "open_clip_torch", "torch", "torchvision"),
    "labels": ("numpy",),
}
"""The libraries whose release (major and minor) can change the numbers of a part."""

_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {"opencv-python": ("opencv-python-headless", "opencv-python")}
"""Distributions of a library that comes in several; `LIBRARIES` keeps one name, so that versions do not change."""


def digest(content: Any) -> str:
    """SHA-256 (hex) of `content` as canonical JSON; dictionaries are compared without regard to order."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def part_version(part: str, settings: Settings, model: str = "", **inputs: str) -> str:
    """Version of `part`: its algorithm, constants, libraries, model and `inputs` (versions that it builds on)."""
    content = {
        "algorithm": ALGORITHMS[part],
        "constants": settings.constants(part),
        "libraries": {name: _release(name) for name in LIBRARIES[part]},
        "model": model,
        "inputs": inputs,
    }
    return f"{ALGORITHMS[part]}-{digest(content)[:16]}"


def text_version(settings: Settings, model: str = "") -> str:
    """Version of a model's vectors of texts: that of its vectors of images, but that int8 leaves texts as they are."""
    exact = settings.replace(precision="auto") if settings.precision == "int8" else settings
    return part_version("embedding", exact, model)


def combined(versions: Mapping[str, str]) -> str:
    """One version for several parts."""
    return digest(dict(versions))[:16]


@cache
def _release(library: str) -> str:
    """Return major and minor version of an installed library; patch releases are assumed to keep numbers."""
    for distribution in _DISTRIBUTIONS.get(library, (library,)):
        with suppress(PackageNotFoundError):
            return ".".join(version(distribution).split(".")[:2])
    return ""
