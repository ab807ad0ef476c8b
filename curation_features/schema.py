"""The feature record as data: metrics, parts, assets and record types.

Metrics have unit, range and direction. Nothing here computes. Other modules take names, ranges and defaults from here.
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
"""Decimals to which scores, cosines and confidences are rounded before they are written or digested."""

UNIT_NORM_TOLERANCE = 1e-3
"""Largest deviation of an embedding's norm from 1."""

LABELS_PER_PHOTO = 5

PHOTO_REASONS = (
    "missing",
    "not_a_file",  # a directory, FIFO, device or socket
    "permission_denied",
    "io_error",  # the disk or the network failed during reading
    "timed_out",  # the storage did not answer in time
    "forbidden_path",  # outside the allowed roots, or never legal
    "unsupported_uri",  # no reader for the scheme
    "unsupported_format",  # no decoder for the image format, or a pixel type that RGB cannot represent
    "too_large",  # over the limits of pixels, bytes or parts; detected before pixels are decoded
    "too_slow",  # over the limit of decoding work
    "truncated",  # the file ends before the image does
    "unreadable",  # empty, damaged, or not an image
)
"""Why a photo could not be read: `PhotoError.reason`, and `errors[].reason` if `stage` is `photo`."""

STORAGE_REASONS = frozenset({"missing", "permission_denied", "io_error", "timed_out"})
"""Reasons caused by the storage, not by the photo; it may be readable later."""

RETRYABLE_REASONS = STORAGE_REASONS | {"out_of_memory"}
"""Reasons, of a photo or of a part of it, that another run may not have."""


def round_score(value: float) -> float:
    """Round to `SCORE_DECIMALS`; 0 has no sign."""
    return round(float(value), SCORE_DECIMALS) + 0.0


@dataclass(frozen=True, slots=True)
class RawMeasurement:
    """A measurement that is stored next to a score, in its own unit.

    Attributes:
        range: minimum and maximum; None: unbounded.
        best: "low": lower is better; None: neither end is.
    """

    name: str
    unit: str
    description: str
    range: tuple[float, float] | None = None
    best: Literal["low"] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A technical score: finite, in [0, 1].

    Attributes:
        best: the score of a perfect photo.
        raw: the measurements behind the score.
    """

    name: str
    best: Literal[0, 1]
    description: str
    raw: tuple[RawMeasurement, ...]

    @property
    def default(self) -> float:
        """The worst score; replaces a missing one, so that unmeasured photos rank last."""
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
        "midtone proximity and dynamic range, minus the clipped fraction",
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
        "wavelet estimate of the noise sigma, relative to the largest distinguishable one",
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
        "inverted BRISQUE: 1 - clamp(b / 100)",
        (RawMeasurement("brisque_raw", "BRISQUE index", "published BRISQUE; mostly 0..100, unbounded", best="low"),),
    ),
)


@dataclass(frozen=True, slots=True)
class Signal:
    """A measurement in a physical unit, beside the scores; None if it is undefined for a photo.

    Attributes:
        part: the part of a photo's result that it belongs to.
        low: least value.
        high: largest value; None without a limit.
        best: the better direction; None if neither is.
        digits: decimals to which it is rounded.
        description: a short explanation.
    """

    name: str
    part: str
    unit: str
    low: float
    high: float | None
    best: Literal["low", "high"] | None
    digits: int
    description: str


SIGNALS: tuple[Signal, ...] = (
    Signal("blur_px", "edges", "px at 512 px", 0, 50, "low", 3, "radius of the edges, in the worst direction"),
    Signal("streak", "edges", "ratio", 1, None, "low", 3, "how much wider edges are in one direction than across it"),
    Signal("noise_luma", "grain", "gray level at 1024 px", 0, None, "low", 3, "noise of brightness"),
    Signal("noise_chroma", "grain", "gray level at 256 px", 0, None, "low", 3, "blotches of colour"),
    Signal("headroom_ev", "tones", "EV", 0, 13.3, "low", 3, "EV by which the photo could be brightened"),
    Signal("clipped_centre", "tones", "share of pixels", 0, 1, "low", 4, "clipped to white in the middle"),
    Signal("clipped_centre_red", "tones", "share of pixels", 0, 1, "low", 4, "red clipped in the middle"),
    Signal("clipped_centre_green", "tones", "share of pixels", 0, 1, "low", 4, "green clipped in the middle"),
    Signal("clipped_centre_blue", "tones", "share of pixels", 0, 1, "low", 4, "blue clipped in the middle"),
    Signal("contrast", "tones", "share of full scale", 0, 1, None, 4, "99th minus 1st percentile of luma"),
    Signal("blocks", "blocking", "ratio", 0, None, "low", 3, "steps at the 8 x 8 blocks of JPEG over steps elsewhere"),
    Signal("entropy", "facts", "bit", 0, 8, None, 3, "entropy of the histogram of luma"),
    Signal("colourfulness", "facts", "Hasler-Suesstrunk M3", 0, None, None, 2, "0 gray, 45 average, 109 extreme"),
    Signal("is_gray", "facts", "yes or no", 0, 1, None, 0, "without colour"),
    Signal("aspect", "facts", "width / height", 0, None, None, 4, "shape of the photo"),
    Signal("megapixels", "facts", "million pixels", 0, None, None, 3, "size of the photo"),
    Signal("border_top", "facts", "share of height", 0, 0.25, None, 4, "plain border at the top"),
    Signal("border_bottom", "facts", "share of height", 0, 0.25, None, 4, "plain border at the bottom"),
    Signal("border_left", "facts", "share of width", 0, 0.25, None, 4, "plain border at the left"),
    Signal("border_right", "facts", "share of width", 0, 0.25, None, 4, "plain border at the right"),
    Signal("focus_px", "focus", "px of the original", 0, None, "low", 3, "radius of the edges in the sharpest place"),
    Signal("focus_median_px", "focus", "px of the original", 0, None, None, 3, "median radius over the frame"),
    Signal("focus_left", "focus", "share of width", 0, 1, None, 4, "left edge of one of the sharpest places"),
    Signal("focus_top", "focus", "share of height", 0, 1, None, 4, "its top edge"),
    Signal("focus_width", "focus", "share of width", 0, 1, None, 4, "its width"),
    Signal("focus_height", "focus", "share of height", 0, 1, None, 4, "its height"),
)
"""Every signal, in the order of tables. See `signals` for the formulas."""

FINGERPRINT = "fingerprint"
"""The part that holds what is compared of two photos (`fingerprints`)."""

GROUPS_VERSION = 3
"""Version of the groups of photos; increment it when a change of `groups` alters them."""

FOCUS_VERSION = 1
"""Version of the focus in a manifest; increment it when a change of `signals.focus` alters the numbers."""

EMBEDDING_NORM = Signal(
    "embedding_norm",
    "embedding",
    "unit of the model",
    0,
    None,
    None,
    SCORE_DECIMALS,
    "norm of the image vector before it is normalised",
)
"""Norm of the image embedding. It belongs to the embedding, which names its model, and not to `SIGNALS`."""

SIGNAL: Mapping[str, Signal] = MappingProxyType({signal.name: signal for signal in SIGNALS})
SIGNAL_PARTS = tuple(dict.fromkeys(signal.part for signal in SIGNALS))

METRIC: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in METRICS})
METRIC_NAMES = tuple(METRIC)
CPU_METRICS = tuple(name for name in METRIC_NAMES if name != "clip_iqa")


class Part(NamedTuple):
    """A part of a photo's result with its own version and cache entry.

    Attributes:
        name: its name in versions, the cache and settings.
        stage: its name in `errors[].stage` of the features.
        asset: the Dagster asset that holds it.
    """

    name: str
    stage: str
    asset: str


PARTS: Mapping[str, Part] = MappingProxyType(
    {name: Part(name, name, "technical_metrics") for name in (*METRIC_NAMES, *SIGNAL_PARTS, FINGERPRINT)}
    | {
        "embedding": Part("embedding", "image_embedding", "image_embeddings"),
        "labels": Part("labels", "clip_labels", "clip_labels"),
    }
)
"""Every part of a photo's result, in order of computation."""

PHOTO_ASSETS = tuple(dict.fromkeys(part.asset for part in PARTS.values()))
"""The assets with one row per photo, in order of computation."""

DATASET_LAYOUTS = ("parquet", "huggingface")
"""Layouts of a dataset of `gather`."""

ASSETS = ("label_embeddings", *PHOTO_ASSETS, "features")
"""Every asset of a batch, upstream first."""

LABEL_ASSETS = ("label_embeddings", PARTS["labels"].asset, "features")
"""The assets that depend on labels and templates."""

Status: TypeAlias = Literal["ok", "degraded", "failed"]
"""How much of a photo was measured: all values, some, or none."""

STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class FeatureError:
    """Why a value is a default.

    Attributes:
        stage: `photo`, the name of a metric or of signals, `fingerprint`, `image_embedding` or `clip_labels`.
        reason: short and stable, for programs.
        message: for users.
    """

    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PhotoInfo:
    """A decoded image: sha256 of its file, format, upright size in pixels."""

    sha256: str
    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A score in [0, 1] with its raw measurements, or an error."""

    score: float | None = None
    raw: Mapping[str, float] = field(default_factory=dict)
    error: FeatureError | None = None


SignalValue: TypeAlias = "float | bool | None"


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals of one part by name, None where undefined; or an error."""

    values: Mapping[str, SignalValue] = field(default_factory=dict)
    error: FeatureError | None = None


@dataclass(frozen=True, slots=True)
class StoredFingerprint:
    """A photo's fingerprint as bytes (see `fingerprints.encoding`), or an error.

    Attributes:
        data: some kilobytes; None, too, once it is written and compared.
    """

    data: bytes | None = None
    error: FeatureError | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """A photo's CLIP image embedding, or an error.

    Attributes:
        vector: float32, unit norm; None, too, once it is labelled and written.
        norm: Euclidean norm before normalisation; None: unknown.
    """

    vector: NDArray[np.float32] | None = None
    error: FeatureError | None = None
    norm: float | None = None


class LabelScore(NamedTuple):
    """A label of a photo: softmax probability, and cosine limited to [0, 1].

    A named tuple, which is twice as fast as a dataclass; every photo has five.
    """

    label: str
    confidence: float
    cosine_score: float


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The labels of one photo, or an error.

    Attributes:
        labels: the `LABELS_PER_PHOTO` most probable labels, most probable first.
        cosines: the cosine of every label in vocabulary order, in [-1, 1].
        margin: confidence of the first label minus that of the second.
    """

    labels: tuple[LabelScore, ...] = ()
    cosines: tuple[float, ...] = ()
    margin: float | None = None
    error: FeatureError | None = None


PERMANENT_REASONS = ("flat_image", "too_small", "undefined_statistics")
"""Reasons that depend on the pixels alone; these errors are cached like results."""


@dataclass(slots=True)
class PhotoRecord:
    """The results of one photo of a batch during a run.

    Attributes:
        failure: why the photo could not be read; all measurements are missing then.
        signals: by part.
        fingerprint: None: unknown, as in a table of an earlier release.
        cached: whether all parts that are computed from pixels came from the cache.
        partly_cached: whether only some of them did.
        labels_cached: whether the labels came from the cache; None: not labelled.
    """

    photo_id: str
    image_uri: str
    info: PhotoInfo | None = None
    failure: FeatureError | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    signals: dict[str, Signals] = field(default_factory=dict)
    fingerprint: StoredFingerprint | None = None
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
        """Whether an error of this photo may not occur in another run."""
        single = (self.fingerprint, self.embedding, self.prediction)
        results = (*self.measurements.values(), *self.signals.values(), *single)
        errors = (self.failure, *(result.error for result in results if result is not None))
        return any(error is not None and error.reason in RETRYABLE_REASONS for error in errors)
