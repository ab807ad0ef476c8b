"""`TechnicalQualityAnalyzer`: five scores of a photo's technical quality."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict, cast, overload

from curation_features.devices.transfer import stacked
from curation_features.errors import UndefinedMetricError, WeightsError
from curation_features.photos.inputs import check_rgb, is_image, read_pixels
from curation_features.schema import CPU_METRICS, METRIC, METRIC_NAMES, FeatureError, Measurement, round_score
from curation_features.settings import Settings, load_settings
from curation_features.signals.preview import luma, preview
from curation_features.technical.brisque.index import Brisque, brisque_measurement
from curation_features.technical.brisque.loading import brisque_model
from curation_features.technical.clip_iqa import QualityModel, clip_iqa_model
from curation_features.technical.exposure import exposure
from curation_features.technical.noise import noise
from curation_features.technical.sharpness import sharpness

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.photos.inputs import ImageLike
    from curation_features.weights import LazyModel

logger = logging.getLogger(__name__)

_PREVIEW_METRICS: Mapping[str, Callable[[NDArray[np.uint8], Settings], Measurement]] = {
    "sharpness": lambda gray, settings: sharpness(gray, scale=settings.sharpness_scale),
    "exposure": lambda gray, settings: exposure(gray, clip_low=settings.clip_low, clip_high=settings.clip_high),
    "noise": lambda gray, settings: noise(gray, sigma_max=settings.noise_sigma_max),
}
"""The metrics of the gray preview."""

_WEIGHTS_REASONS = ("missing_weights", "invalid_weights", "load_failed")
"""Reasons of a `WeightsError`."""


class TechnicalScores(TypedDict):
    """Scores in [0, 1]; 1 is best, except for noise, where 0 is best.

    `clip_iqa` and `brisque` are None if the model weights are missing and `on_missing_weights` is `degrade`.
    """

    sharpness: float
    exposure: float
    noise: float
    clip_iqa: float | None
    brisque: float | None


class TechnicalQualityAnalyzer:
    """Measures sharpness, exposure, noise, CLIP-IQA and BRISQUE. Thread-safe.

        analyzer = TechnicalQualityAnalyzer()          # cheap: models load on first use
        analyzer.analyze("data/input/beach.jpg")
        # {"sharpness": 0.91, "exposure": 0.72, "noise": 0.04, "clip_iqa": 0.81, "brisque": 0.79}
        analyzer.analyze_many(["a.jpg", "b.jpg"])      # a list of such dicts
        analyzer.measure("data/input/beach.jpg")["noise"].raw
        # {"noise_sigma": 0.003217}

    Args:
        settings: by default those of the current folder and environment.
        brisque: user-supplied regressor (see `LazyModel.ready`); by default the one that the settings name.
        clip_iqa: user-supplied model; by default the one that the settings name.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        brisque: LazyModel[Brisque] | None = None,
        clip_iqa: LazyModel[QualityModel] | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        self._brisque = brisque or brisque_model(self.settings)
        self._clip_iqa = clip_iqa or clip_iqa_model(self.settings)
        self._logged: set[tuple[str, object]] = set()

    @overload
    def analyze(self, image: ImageLike) -> TechnicalScores: ...  # type: ignore[overload-overlap]  # str is a Sequence[str]

    @overload
    def analyze(self, image: Sequence[ImageLike]) -> list[TechnicalScores]: ...

    def analyze(self, image: ImageLike | Sequence[ImageLike]) -> TechnicalScores | list[TechnicalScores]:
        """Return the five scores of an image; for a list the same as `analyze_many`.

        A metric that is undefined for an image (the noise of a flat image, say) has the worst score of its scale;
        `measure` gives the reason.

        Args:
            image: upright RGB array or torch tensor (H, W, 3) of uint8, PIL image or path; relative paths start at the
                project's root.

        Raises:
            PhotoError: a path is not a readable photo.
            TypeError: an image of another type, shape or dtype.
            WeightsError: a model cannot be used, and `on_missing_weights` is `fail`.
        """
        if is_image(image):
            return _scores(self.measure(image))
        return self.analyze_many(image)

    def analyze_many(self, images: Iterable[ImageLike]) -> list[TechnicalScores]:
        """Return the scores of each image; see `analyze`."""
        return [_scores(self.measure(image)) for image in images]

    def measure(self, image: ImageLike) -> dict[str, Measurement]:
        """Measure an image: like `analyze`, with raw measurements and the error of each missing score."""
        rgb = read_pixels(image, self.settings)
        measured = self.measure_cpu(rgb, tuple(_PREVIEW_METRICS))
        for name, measure in (("brisque", self._brisque_of), ("clip_iqa", self._clip_iqa_of)):
            try:
                measured[name] = self._guard(name, partial(measure, rgb))
            except WeightsError as error:
                if self.settings.on_missing_weights == "fail":
                    raise
                if self._is_first(name, error.summary):
                    logger.warning("No %s score, as its model cannot be used: %s", name, error)
                measured[name] = _failed(name, error.reason, error)
        return {name: measured[name] for name in METRIC_NAMES}

    def measure_cpu(self, rgb: NDArray[np.uint8], metrics: Collection[str] = CPU_METRICS) -> dict[str, Measurement]:
        """Measure the metrics that need no deep model; a failed metric does not affect the others.

        Args:
            rgb: (H, W, 3), upright.
            metrics: a subset of `schema.CPU_METRICS`.

        Raises:
            TypeError: `rgb` is not an RGB image of uint8.
            ValueError: a metric is unknown.
            WeightsError: BRISQUE is wanted and cannot be loaded; nothing was computed.
        """
        check_rgb(rgb)
        unknown = sorted(set(metrics) - set(CPU_METRICS))
        if unknown:
            raise ValueError(f"metrics: {', '.join(unknown)} not among {', '.join(CPU_METRICS)}")
        measures: dict[str, Callable[[], Measurement]] = {}
        if "brisque" in metrics:
            self._brisque.get()
            measures["brisque"] = partial(self._brisque_of, rgb)
        if not _PREVIEW_METRICS.keys().isdisjoint(metrics):
            gray = preview(luma(rgb), self.settings.preview_side)
            measures |= {name: partial(measure, gray, self.settings) for name, measure in _PREVIEW_METRICS.items()}
        return {name: self._guard(name, measures[name]) for name in CPU_METRICS if name in metrics}

    def measure_brisque(self, inputs: Sequence[ModelInput]) -> list[Measurement]:
        """Measure BRISQUE for N inputs from the regressor's `batched.preprocess`.

        Raises:
            WeightsError: the model cannot be loaded. Errors of the model (out of memory, say) propagate.
        """
        batched = self._brisque.get().batched
        if batched is None:
            raise ValueError("this BRISQUE measures photos one by one: use `measure_cpu`")
        return [self._guard("brisque", partial(brisque_measurement, index)) for index in batched.score(inputs)]

    def measure_clip_iqa(self, inputs: ModelInput) -> list[Measurement]:
        """Measure CLIP-IQA for N inputs from the model's `preprocess`.

        Args:
            inputs: (N, 3, S, S), in [0, 1].

        Returns:
            N measurements; an error if the model's number is not finite or outside [0, 1].

        Raises:
            WeightsError: the model cannot be loaded. Errors of the model (out of memory, say) propagate.
        """
        return [_quantise("clip_iqa", Measurement(score=float(score))) for score in self._clip_iqa.get().score(inputs)]

    def _brisque_of(self, rgb: NDArray[np.uint8]) -> Measurement:
        return brisque_measurement(self._brisque.get().score(preview(rgb, self.settings.brisque_side)))

    def _clip_iqa_of(self, rgb: NDArray[np.uint8]) -> Measurement:
        model = self._clip_iqa.get()
        return Measurement(score=float(model.score(stacked([model.preprocess(rgb)]))[0]))

    def _guard(self, metric: str, measure: Callable[[], Measurement]) -> Measurement:
        """Call `measure`; return plain, rounded, finite numbers, or the error."""
        try:
            return _quantise(metric, measure())
        except UndefinedMetricError as error:
            return _failed(metric, error.reason, error)
        except WeightsError:
            raise
        except Exception as error:
            logger.error("Unexpected error in %s: %s", metric, error, exc_info=self._is_first(metric, type(error)))
            return _failed(metric, "internal_error", error)

    def _is_first(self, metric: str, kind: object) -> bool:
        """Whether this kind of error of a metric is new; later ones are logged briefly or not at all."""
        is_first = (metric, kind) not in self._logged
        self._logged.add((metric, kind))
        return is_first


def _scores(measurements: Mapping[str, Measurement]) -> TechnicalScores:
    """Scores by metric: the metric's default if it is undefined, None if its model is missing."""
    scores = {
        name: METRIC[name].default if one.error and one.error.reason not in _WEIGHTS_REASONS else one.score
        for name, one in measurements.items()
    }
    return cast("TechnicalScores", scores)


def _quantise(metric: str, measurement: Measurement) -> Measurement:
    """Round the numbers; return an error if a number is not finite or the score is outside [0, 1]."""
    score, raw = measurement.score, measurement.raw
    if score is None or not all(map(math.isfinite, (score, *raw.values()))):
        return _failed(metric, "not_finite", f"{metric} gave a number that is not finite")
    if not 0 <= round_score(score) <= 1:
        return _failed(metric, "out_of_range", f"{metric} gave {score:g}, which is not within 0 and 1")
    return Measurement(round_score(score), {name: round_score(value) for name, value in raw.items()})


def _failed(metric: str, reason: str, cause: Exception | str) -> Measurement:
    return Measurement(error=FeatureError(metric, reason, str(cause) or type(cause).__name__))
