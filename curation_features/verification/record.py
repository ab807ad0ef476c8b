"""The feature record of one photo: are its fields, ranges and defaults as they should be?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from curation_features.schema import LABELS_PER_PHOTO, METRIC_NAMES, METRICS
from curation_features.verification.text import shown

_FEATURES = ("tech", "clip_labels", "status", "errors", "version")
_LABEL = ("label", "confidence", "cosine_score")
_ERROR = ("stage", "reason", "message")
_VALUES_OF_STAGE: Mapping[str, tuple[str, ...]] = {
    "photo": (*METRIC_NAMES, "clip_labels"),
    **{name: (name,) for name in METRIC_NAMES},
    "image_embedding": ("clip_labels",),
    "clip_labels": ("clip_labels",),
}


def defaults_of(errors: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The values that are defaults, because `errors` say so: names of metrics, and `clip_labels`."""
    return frozenset(name for error in errors for name in _VALUES_OF_STAGE[error["stage"]])


def feature_problems(features: Any) -> Iterator[str]:
    """What is wrong with one feature record: the field, and why."""
    if not _has_fields(features, _FEATURES):
        yield f"features: needs exactly the fields {', '.join(_FEATURES)}"
        return
    errors = list(_error_problems(features["errors"]))
    yield from errors
    defaults = frozenset() if errors else defaults_of(features["errors"])
    yield from _tech_problems(features["tech"], defaults)
    yield from _label_problems(features["clip_labels"], "clip_labels" in defaults)
    status = "ok" if not defaults else "failed" if len(defaults) == len(_VALUES_OF_STAGE["photo"]) else "degraded"
    if features["status"] != status and not errors:
        yield f"features.status: is {shown(features['status'])}, and should be {status} by the errors"
    version = features["version"]
    if not _has_fields(version, ("technical", "clip")) or not all(isinstance(text, str) for text in version.values()):
        yield "features.version: needs exactly the texts technical and clip"


def _error_problems(errors: Any) -> Iterator[str]:
    if not isinstance(errors, list):
        yield "features.errors: is not a list"
        return
    for index, error in enumerate(errors):
        where = f"features.errors[{index}]"
        if not _has_fields(error, _ERROR):
            yield f"{where}: needs exactly the fields {', '.join(_ERROR)}"
        elif not all(isinstance(text, str) for text in error.values()):
            yield f"{where}: its fields are not all text"
        elif error["stage"] not in _VALUES_OF_STAGE:
            yield f"{where}.stage: {shown(error['stage'])} is none of {', '.join(_VALUES_OF_STAGE)}"


def _tech_problems(tech: Any, defaults: frozenset[str]) -> Iterator[str]:
    if not _has_fields(tech, METRIC_NAMES):
        yield f"features.tech: needs exactly the scores {', '.join(METRIC_NAMES)}"
        return
    for metric in METRICS:
        score = tech[metric.name]
        if not _is_share(score):
            yield f"features.tech.{metric.name}: {shown(score)} is no float in [0, 1]"
        elif metric.name in defaults and score != metric.default:
            yield f"features.tech.{metric.name}: {score} has an error, so it should be the default {metric.default}"


def _label_problems(labels: Any, default: bool) -> Iterator[str]:
    if not isinstance(labels, list) or len(labels) != LABELS_PER_PHOTO:
        yield f"features.clip_labels: is not a list of {LABELS_PER_PHOTO}"
        return
    wrong = [index for index, label in enumerate(labels) if not _is_label(label)]
    for index in wrong:
        yield f"features.clip_labels[{index}]: needs exactly {', '.join(_LABEL)}: a text and two floats in [0, 1]"
    if wrong:
        return
    if len({label["label"] for label in labels}) < len(labels):
        yield "features.clip_labels: a label is there more than once"
    confidences = [label["confidence"] for label in labels]
    if confidences != sorted(confidences, reverse=True):
        yield "features.clip_labels: are not by confidence, descending"
    if default and any(label["confidence"] or label["cosine_score"] for label in labels):
        yield "features.clip_labels: have an error, so they should be defaults at 0.0"


def _is_label(label: Any) -> bool:
    return (
        _has_fields(label, _LABEL)
        and isinstance(label["label"], str)
        and _is_share(label["confidence"])
        and _is_share(label["cosine_score"])
    )


def _has_fields(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, dict) and value.keys() == set(names)


def _is_share(value: Any) -> bool:
    """Whether it is a float in [0, 1]; NaN is in no range."""
    return isinstance(value, float) and 0.0 <= value <= 1.0
