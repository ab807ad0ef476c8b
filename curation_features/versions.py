"""Versions of results: digests of everything that determines numbers, except photos.

Each part of a result (`schema.PARTS`) has its own version, so that a change of one constant, model or library
recomputes that part only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from curation_features.schema import FINGERPRINT, GROUPS_VERSION, PARTS, SIGNAL_PARTS
from curation_features.settings import Settings

ALGORITHMS: Mapping[str, int] = {**dict.fromkeys(PARTS, 1), FINGERPRINT: 3}
"""Version of our implementation of each part; increment it when a change alters the part's numbers."""

_DECODE = ("pillow", "simplejpeg", "opencv-python", "numpy")
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "sharpness": _DECODE,
    "exposure": _DECODE,
    "noise": _DECODE,
    "brisque": (*_DECODE, "piq", "torch"),
    "clip_iqa": (*_DECODE, "piq", "torch"),
    **dict.fromkeys((*SIGNAL_PARTS, FINGERPRINT), _DECODE),
    "embedding": ("pillow", "simplejpeg", "open_clip_torch", "torch", "torchvision"),
    "labels": ("numpy",),
}
"""Libraries whose release (major and minor) can change the numbers of a part."""

_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {"opencv-python": ("opencv-python-headless", "opencv-python")}
"""Distributions of a library that comes in several; `LIBRARIES` keeps one name, so that versions do not change."""


def digest(content: Any) -> str:
    """SHA-256 (hex) of `content` as canonical JSON, independent of key order."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def part_version(part: str, settings: Settings, model: str = "", **inputs: str) -> str:
    """Version of `part`: algorithm, constants, libraries, model and `inputs` (versions it depends on)."""
    content = {
        "algorithm": ALGORITHMS[part],
        "constants": settings.constants(part),
        "libraries": {name: _read_release(name) for name in LIBRARIES[part]},
        "model": model,
        "inputs": inputs,
    }
    return f"{ALGORITHMS[part]}-{digest(content)[:16]}"


def text_version(settings: Settings, model: str = "") -> str:
    """Version of a model's text embeddings; bf16 and int8 affect image embeddings only."""
    exact = settings.replace(precision="auto") if settings.precision in ("bf16", "int8") else settings
    return part_version("embedding", exact, model)


def grouping_rules(settings: Settings) -> list[Any]:
    """Return what determines the groups of given photos: the version of the grouping, and its constants."""
    return [GROUPS_VERSION, settings.constants("groups")]


def combined(versions: Mapping[str, str]) -> str:
    """Combine the versions of several parts into one."""
    return digest(dict(versions))[:16]


@cache
def _read_release(library: str) -> str:
    """Return major and minor version of an installed library; patch releases are assumed to keep numbers."""
    for distribution in _DISTRIBUTIONS.get(library, (library,)):
        with suppress(PackageNotFoundError):
            return ".".join(version(distribution).split(".")[:2])
    return ""
