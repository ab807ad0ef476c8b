"""The feature record of one photo: fields, types, ranges and defaults."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from curation_features.groups.photos import Kind
from curation_features.schema import (
    EMBEDDING_NORM,
    FINGERPRINT,
    LABELS_PER_PHOTO,
    METRIC_NAMES,
    METRICS,
    SIGNAL_PARTS,
    SIGNALS,
    Signal,
)
from curation_features.verification.values import format_value

_VALUES_OF_STAGE: Mapping[str, tuple[str, ...]] = {
    "photo": (*METRIC_NAMES, *SIGNAL_PARTS, "clip_labels", "embedding_norm", "group"),
    **{name: (name,) for name in (*METRIC_NAMES, *SIGNAL_PARTS, FINGERPRINT)},
    "image_embedding": ("clip_labels",),
    "clip_labels": ("clip_labels",),
}
_SCORES_AND_LABELS = frozenset({*METRIC_NAMES, "clip_labels"})


class _OrNull(NamedTuple):
    """The shape of a value that may be null."""

    shape: Any


# Every float is in [0, 1], every int at least 1; a tuple lists the texts that are possible.
_RECORD = {
    "tech": dict.fromkeys(METRIC_NAMES, float),
    "clip_labels": [{"label": str, "confidence": float, "cosine_score": float}],
    "status": str,
    "errors": [{"stage": tuple(_VALUES_OF_STAGE), "reason": str, "message": str}],
    "version": {"technical": str, "clip": str, "signals": str, "groups": str},
    "signals": {signal.name: signal for signal in SIGNALS},
    "flags": [{"name": str, "kind": ("flag", "hint"), "reason": str}],
    "embedding_norm": EMBEDDING_NORM,
    "group": _OrNull(
        {
            "id": str,
            "kind": get_args(Kind),
            "what": str,
            "rank": int,
            "size": int,
            "similarity": float,
            "copy_of": _OrNull(str),
            "copy_of_path": _OrNull(str),
            "reason": str,
        }
    ),
}
_LATER_FIELDS = {"embedding_norm", "group", "groups"}  # features of an earlier release lack them, and stay valid


def defaults_of(errors: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """Return the names of the values that `errors` make defaults or null: metrics, `clip_labels`, ..."""
    return frozenset(name for error in errors for name in _VALUES_OF_STAGE[error["stage"]])


def feature_problems(features: Any) -> list[str]:
    """Return the problems of one feature record, each with its field."""
    return list(_shape_problems(features, _RECORD, "features")) or list(_rule_problems(features))


def _shape_problems(value: Any, shape: Any, path: str) -> Iterator[str]:
    if isinstance(shape, _OrNull):
        if value is not None:
            yield from _shape_problems(value, shape.shape, path)
    elif isinstance(shape, dict):
        if not isinstance(value, dict) or not shape.keys() - _LATER_FIELDS <= value.keys() <= shape.keys():
            yield f"{path}: needs exactly the fields {', '.join(shape)}"
            return
        for name, item in value.items():
            yield from _shape_problems(item, shape[name], f"{path}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path}: is not a list"
            return
        for index, item in enumerate(value):
            yield from _shape_problems(item, shape[0], f"{path}[{index}]")
    elif isinstance(shape, Signal):
        if not _is_legal(shape, value):
            yield f"{path}: {format_value(value)} is neither null nor a number of its range"
    elif isinstance(shape, tuple):
        if value not in shape:
            yield f"{path}: {format_value(value)} is none of {', '.join(shape)}"
    elif type(value) is not shape:
        yield f"{path}: {format_value(value)} is not {_TYPES[shape]}"
    elif shape is int and value < 1:
        yield f"{path}: {value} is less than 1"
    elif shape is float and not 0.0 <= value <= 1.0:  # NaN is in no range
        yield f"{path}: {value} is not in [0, 1]"


_TYPES: Mapping[type, str] = {float: "a float", str: "a text", int: "a whole number"}


def _is_legal(signal: Signal, value: Any) -> bool:
    """Whether a value of a signal is null, or finite and within its range; `is_gray` is a boolean."""
    if value is None or signal.name == "is_gray":
        return value is None or isinstance(value, bool)
    high = math.inf if signal.high is None else signal.high
    return type(value) in (int, float) and math.isfinite(value) and signal.low <= value <= high


def _rule_problems(features: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of a record in which every field has its type."""
    defaults = defaults_of(features["errors"])
    for metric in METRICS:
        if metric.name in defaults and features["tech"][metric.name] != metric.default:
            yield f"features.tech.{metric.name}: has an error, so it should be the default {metric.default}"
    for signal in SIGNALS:
        if signal.part in defaults and features["signals"][signal.name] is not None:
            yield f"features.signals.{signal.name}: has an error, so it should be null"
    if "embedding_norm" in defaults and features.get("embedding_norm") is not None:
        yield "features.embedding_norm: has an error, so it should be null"
    yield from _group_problems(features.get("group"), defaults)
    labels = features["clip_labels"]
    confidences = [label["confidence"] for label in labels]
    if len(labels) != LABELS_PER_PHOTO:
        yield f"features.clip_labels: is not a list of {LABELS_PER_PHOTO}"
    if len({label["label"] for label in labels}) < len(labels):
        yield "features.clip_labels: contains a label more than once"
    if confidences != sorted(confidences, reverse=True):
        yield "features.clip_labels: is not sorted by confidence, descending"
    if "clip_labels" in defaults and any(label["confidence"] or label["cosine_score"] for label in labels):
        yield "features.clip_labels: has an error, so all numbers should be the default 0.0"
    status = "ok" if not defaults else "failed" if defaults >= _SCORES_AND_LABELS else "degraded"
    if features["status"] != status:
        yield f"features.status: is {format_value(features['status'])}, should be {status} by the errors"


def _group_problems(group: Mapping[str, Any] | None, defaults: frozenset[str]) -> Iterator[str]:
    if group is None:
        return
    if "group" in defaults:
        yield "features.group: has an error, so it should be null"
    if group["size"] < 2:
        yield f"features.group.size: is {group['size']}, but a group has at least 2 photos"
    if group["rank"] > group["size"]:
        yield f"features.group.rank: is {group['rank']} of {group['size']}"
