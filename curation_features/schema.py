"""The feature record, as data: every metric with its unit, range and direction, and the records that carry them.

Nothing here computes. Other modules look up names, ranges and defaults here instead of repeating them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCORE_DECIMALS = 6
"""Scores, cosines and confidences are rounded to this many decimals before they are written or digested."""

LABELS_PER_PHOTO = 5

PHOTO_REASONS = (
    "missing",  # no such file
    "not_a_file",  # a directory, FIFO, device or socket
    "permission_denied",
    "io_error",  # the disk or the network failed while the file was read
    "timed_out",  # the storage did not answer in time
    "forbidden_path",  # outside the allowed roots, or a path that is never legal
    "unsupported_uri",  # a scheme that nothing here can open
    "unsupported_format",  # not one of the image formats that are read, or a pixel type without a meaning in RGB
    "too_large",  # more pixels, bytes or parts than the limits; found before pixels are decoded
    "too_slow",  # decoding took more work than the limit
    "truncated",  # the file ends before the image does
    "unreadable",  # empty, damaged, or no image at all
)
"""Why a photo could not be read (`PhotoError.reason`, and `errors[].reason` where `stage` is `photo`)."""

STORAGE_REASONS = frozenset({"missing", "permission_denied", "io_error", "timed_out"})
"""Reasons of a photo that say nothing about the photo: its storage could not give it. It may be readable later."""

RETRYABLE_REASONS = STORAGE_REASONS | {"out_of_memory"}
"""Reasons, of a photo or of a part of it, that another run may not meet."""


@dataclass(frozen=True, slots=True)
class RawMeasurement:
    """A number kept beside a score, in the unit in which it was measured.

    Attributes:
        range: the least and the greatest value, where there are such.
        best: "low" where less is better; None where neither end is.
    """

    name: str
    unit: str
    description: str
    range: tuple[float, float] | None = None
    best: Literal["low"] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One technical score. All scores are finite and lie in [0, 1].

    Attributes:
        best: the end of the range that a good photo reaches.
        raw: what was measured on the way to the score.
    """

    name: str
    best: Literal[0, 1]
    description: str
    raw: tuple[RawMeasurement, ...]

    @property
    def default(self) -> float:
        """The worst score: it stands in where nothing was measured, so that such a photo outranks none."""
        return 1.0 - self.best


METRICS: tuple[Metric, ...] = (
    Metric(
        "sharpness",
        1,
        "tanh of the Tenengrad energy of the preview",
        (RawMeasurement("tenengrad", "gray level squared", "mean squared Sobel gradient (3x3, on 0..255)"),),
    ),
    Metric(
        "exposure",
        1,
        "midtone proximity and dynamic range less the clipped share",
        (
            RawMeasurement("p1", "share of full scale", "1st percentile of luma", (0.0, 1.0)),
            RawMeasurement("p50", "share of full scale", "median luma", (0.0, 1.0)),
            RawMeasurement("p99", "share of full scale", "99th percentile of luma", (0.0, 1.0)),
            RawMeasurement("clipped_low", "share of pixels", "pixels at or under the dark limit", (0.0, 1.0), "low"),
            RawMeasurement("clipped_high", "share of pixels", "pixels at or over the bright limit", (0.0, 1.0), "low"),
        ),
    ),
    Metric(
        "noise",
        0,
        "wavelet estimate of the noise sigma against the largest that is told apart",
        (
            RawMeasurement(
                "noise_sigma", "share of full scale", "robust wavelet estimate of Gaussian noise", best="low"
            ),
        ),
    ),
    Metric(
        "clip_iqa",
        1,
        "CLIP-IQA: the probability of 'Good photo.' against 'Bad photo.'",
        (),
    ),
    Metric(
        "brisque",
        1,
        "BRISQUE turned round: 1 - clamp(b / 100)",
        (
            RawMeasurement(
                "brisque_raw", "BRISQUE index", "BRISQUE as it is published; mostly 0..100, not bounded", best="low"
            ),
        ),
    ),
)

METRIC: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in METRICS})
METRIC_NAMES = tuple(METRIC)
CPU_METRICS = tuple(name for name in METRIC_NAMES if name != "clip_iqa")


class Part(NamedTuple):
    """One result of a photo that has a version and a cache entry of its own.

    Attributes:
        name: in versions, the cache and settings.
        stage: in `errors[].stage` of the features.
        asset: the Dagster asset that holds it.
    """

    name: str
    stage: str
    asset: str


PARTS: Mapping[str, Part] = MappingProxyType(
    {name: Part(name, name, "technical_metrics") for name in METRIC_NAMES}
    | {
        "embedding": Part("embedding", "image_embedding", "image_embeddings"),
        "labels": Part("labels", "clip_labels", "clip_labels"),
    }
)
"""Every part of a photo's result, in the order in which they are computed."""

PHOTO_ASSETS = tuple(dict.fromkeys(part.asset for part in PARTS.values()))
"""The assets that hold a row per photo, in the order in which they are computed."""


ASSETS = ("label_embeddings", *PHOTO_ASSETS, "features")
"""Every asset of a batch, upstream first."""

LABEL_ASSETS = ("label_embeddings", PARTS["labels"].asset, "features")
"""The assets that depend on the labels and templates."""

Status: TypeAlias = Literal["ok", "degraded", "failed"]
"""How much of a photo was measured: everything, a part, or nothing."""

STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class FeatureError:
    """Why a value is a default.

    Attributes:
        stage: `photo`, the name of a metric, `image_embedding` or `clip_labels`.
        reason: short and stable, for programs.
        message: for people.
    """

    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PhotoInfo:
    """What was decoded. `sha256` is the digest of exactly those bytes; sizes are of the upright image, in pixels."""

    sha256: str
    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A score in [0, 1] with what was measured on the way, or the error that stands in its place."""

    score: float | None = None
    raw: Mapping[str, float] = field(default_factory=dict)
    error: FeatureError | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """A photo's CLIP vector (float32, unit norm), or the error that stands in its place."""

    vector: NDArray[np.float32] | None = None
    error: FeatureError | None = None


class LabelScore(NamedTuple):
    """One label of a photo: its softmax probability and its cosine limited to [0, 1].

    A named tuple, as there are five for every photo: it is made and turned into a dictionary in half the time.
    """

    label: str
    confidence: float
    cosine_score: float


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The labels of one photo, or the error that stands in their place.

    Attributes:
        labels: the `LABELS_PER_PHOTO` most probable labels, most probable first.
        cosines: the cosine of every label in vocabulary order, in [-1, 1].
        margin: confidence of the first label less that of the second.
    """

    labels: tuple[LabelScore, ...] = ()
    cosines: tuple[float, ...] = ()
    margin: float | None = None
    error: FeatureError | None = None


PERMANENT_REASONS = ("flat_image", "too_small", "undefined_statistics")
"""Reasons that follow from the pixels alone: such an error is a result, and is cached like one."""


@dataclass(slots=True)
class PhotoRecord:
    """All that a run knows of one photo of a batch.

    Attributes:
        failure: why the photo could not be read; then nothing else was measured.
        cached: whether all parts that are computed from pixels came from the cache.
        partly_cached: whether only some of them did.
        labels_cached: whether the labels came from the cache; None: not labelled.
    """

    photo_id: str
    image_uri: str
    info: PhotoInfo | None = None
    failure: FeatureError | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    embedding: Embedding | None = None
    prediction: LabelPrediction | None = None
    cached: bool = False
    partly_cached: bool = False
    labels_cached: bool | None = None

    @property
    def is_cached(self) -> bool:
        """Whether the photo's whole result came from the cache."""
        return self.cached and self.labels_cached is not False

    @property
    def is_retryable(self) -> bool:
        """Whether an error of this photo, or of a part of it, is one that another run may not meet."""
        results = (*self.measurements.values(), self.embedding, self.prediction)
        errors = (self.failure, *(result.error for result in results if result is not None))
        return any(error is not None and error.reason in RETRYABLE_REASONS for error in errors)
