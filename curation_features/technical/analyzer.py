"""`TechnicalQualityAnalyzer`: five scores of a photo's technical quality."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from curation_features.devices.transfer import stacked
from curation_features.errors import UndefinedMetricError, WeightsError
from curation_features.photos.inputs import checked_rgb, is_image, pixels
from curation_features.schema import CPU_METRICS, METRIC, METRIC_NAMES, SCORE_DECIMALS, FeatureError, Measurement
from curation_features.settings import Settings, load_settings
from curation_features.technical.brisque.index import Brisque, brisque_measurement, measurement_of
from curation_features.technical.brisque.loading import brisque_model
from curation_features.technical.clip_iqa import QualityModel, clip_iqa_model
from curation_features.technical.exposure import exposure
from curation_features.technical.noise import noise
from curation_features.technical.preview import luma, preview
from curation_features.technical.sharpness import sharpness

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.photos.inputs import ImageLike
    from curation_features.weights import LazyModel

logger = logging.getLogger(__name__)

_PREVIEW_METRICS: Mapping[str, Callable[[NDArray[np.uint8], Settings], Measurement]] = MappingProxyType(
    {
        "sharpness": lambda gray, settings: sharpness(gray, scale=settings.sharpness_scale),
        "exposure": lambda gray, settings: exposure(gray, clip_low=settings.clip_low, clip_high=settings.clip_high),
        "noise": lambda gray, settings: noise(gray, sigma_max=settings.noise_sigma_max),
    }
)
"""What is measured on the preview, by metric."""


class TechnicalQualityAnalyzer:
    """Sharpness, exposure, noise, CLIP-IQA and BRISQUE of photos. Safe to call from several threads.

        analyzer = TechnicalQualityAnalyzer()          # cheap: a model loads when it is first needed
        analyzer.analyze("data/input/beach.jpg")
        # {"sharpness": 0.91, "exposure": 0.72, "noise": 0.04, "clip_iqa": 0.81, "brisque": 0.79}
        analyzer.measurements("data/input/beach.jpg")["noise"].raw
        # {"noise_sigma": 0.003217}

    All scores are finite and lie in [0, 1]; 1 is best, except for noise, where 0 is.

    Args:
        settings: by default those of the current folder and environment.
        brisque: a regressor of one's own (see `LazyModel.ready`) in place of the one that the settings name.
        clip_iqa: a model of one's own in place of the one that the settings name.
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
        self._traced: set[tuple[str, type[Exception]]] = set()

    def analyze(self, images: ImageLike | Sequence[ImageLike]) -> dict[str, float] | list[dict[str, float]]:
        """The five scores of an image, or of each image of a list.

        A metric that is not defined for an image (noise of a flat one, say) gets the worst score of its scale;
        `measurements` tells those apart.

        Args:
            images: upright RGB arrays or torch tensors (H, W, 3) of uint8, PIL images or paths; relative paths start
                at the project's root.

        Returns:
            For one image a score by metric; for a list of images a list of such dicts.

        Raises:
            PhotoError: a path that cannot be read as a photo.
            TypeError: an image of another type, shape or dtype.
            WeightsError: a model is missing and settings do not permit a degraded run.
        """
        if is_image(images):
            return _scores(self._measurements(images))
        return [_scores(self._measurements(image)) for image in images]

    def measurements(
        self, images: ImageLike | Sequence[ImageLike]
    ) -> dict[str, Measurement] | list[dict[str, Measurement]]:
        """As `analyze`, but with what was measured on the way, and with the error where there is no score."""
        if is_image(images):
            return self._measurements(images)
        return [self._measurements(image) for image in images]

    def measure(self, rgb: NDArray[np.uint8], metrics: Collection[str] = CPU_METRICS) -> dict[str, Measurement]:
        """The metrics that need no deep model, of one photo. Whatever goes wrong in one leaves the others unharmed.

        Args:
            rgb: (H, W, 3), upright.
            metrics: which of `schema.CPU_METRICS`.

        Raises:
            TypeError: `rgb` is not an RGB image of uint8.
            ValueError: a metric is unknown.
            WeightsError: BRISQUE is asked for and cannot be loaded; nothing has been computed yet.
        """
        checked_rgb(rgb)
        unknown = sorted(set(metrics) - set(CPU_METRICS))
        if unknown:
            raise ValueError(f"metrics: {', '.join(unknown)} not among {', '.join(CPU_METRICS)}")
        measures: dict[str, Callable[[], Measurement]] = {}
        if "brisque" in metrics:
            measures["brisque"] = partial(
                brisque_measurement, rgb, self._brisque.get(), side=self.settings.brisque_side
            )
        if not _PREVIEW_METRICS.keys().isdisjoint(metrics):
            gray = preview(luma(rgb), self.settings.preview_side)
            measures |= {name: partial(measure, gray, self.settings) for name, measure in _PREVIEW_METRICS.items()}
        return {name: self._guarded(name, measures[name]) for name in CPU_METRICS if name in metrics}

    def measure_brisque(self, inputs: Sequence[ModelInput]) -> list[Measurement]:
        """BRISQUE of inputs that the regressor's own `batched.preprocess` made, N measurements.

        Raises:
            WeightsError: the model cannot be loaded. What it raises itself (out of memory, say) is passed on.
        """
        batched = self._brisque.get().batched
        if batched is None:
            raise ValueError("this BRISQUE measures photos one by one: use `measure`")
        return [self._guarded("brisque", partial(_of_index, index)) for index in batched.score(inputs)]

    def measure_clip_iqa(self, inputs: ModelInput) -> list[Measurement]:
        """CLIP-IQA of inputs that the model's own `preprocess` made.

        Args:
            inputs: (N, 3, S, S), in [0, 1].

        Returns:
            N measurements; an error where the model gives no finite number within 0 and 1.

        Raises:
            WeightsError: the model cannot be loaded. What it raises itself (out of memory, say) is passed on.
        """
        return [_quantised("clip_iqa", Measurement(score=float(score))) for score in self._clip_iqa.get().score(inputs)]

    def _measurements(self, image: ImageLike) -> dict[str, Measurement]:
        rgb = pixels(image, self.settings)
        found = self.measure(rgb, tuple(_PREVIEW_METRICS))
        for name, measure in (("brisque", self._brisque_of), ("clip_iqa", self._clip_iqa_of)):
            try:
                found[name] = measure(rgb)
            except WeightsError as error:
                if self.settings.on_missing_weights == "fail":
                    raise
                found[name] = _failed(name, error.reason, error)
        return {name: found[name] for name in METRIC_NAMES}

    def _brisque_of(self, rgb: NDArray[np.uint8]) -> Measurement:
        return self.measure(rgb, ("brisque",))["brisque"]

    def _clip_iqa_of(self, rgb: NDArray[np.uint8]) -> Measurement:
        return self._guarded(
            "clip_iqa", lambda: self.measure_clip_iqa(stacked([self._clip_iqa.get().preprocess(rgb)]))[0]
        )

    def _guarded(self, metric: str, measure: Callable[[], Measurement]) -> Measurement:
        """A measurement with plain, rounded, finite numbers, or the error that stands in its place."""
        try:
            return _quantised(metric, measure())
        except UndefinedMetricError as error:
            return _failed(metric, error.reason, error)
        except WeightsError:
            raise
        except Exception as error:
            kind = (metric, type(error))
            # One traceback tells what a thousand would.
            logger.error("Unexpected error in %s: %s", metric, error, exc_info=kind not in self._traced)
            self._traced.add(kind)
            return _failed(metric, "internal_error", error)


def _of_index(index: float | UndefinedMetricError) -> Measurement:
    if isinstance(index, UndefinedMetricError):
        raise index
    return measurement_of(index)


def _scores(measurements: Mapping[str, Measurement]) -> dict[str, float]:
    """Scores by metric; the default of the metric where there is none."""
    return {
        name: METRIC[name].default if measurement.score is None else measurement.score
        for name, measurement in measurements.items()
    }


def _quantised(metric: str, measurement: Measurement) -> Measurement:
    """Plain numbers rounded to `SCORE_DECIMALS`, or an error if one is not finite or the score is out of range."""
    score, raw = measurement.score, measurement.raw
    if score is None or not all(map(math.isfinite, (score, *raw.values()))):
        return _failed(metric, "not_finite", f"{metric} gave a number that is not finite")
    if not 0 <= _rounded(score) <= 1:
        return _failed(metric, "out_of_range", f"{metric} gave {score:g}, which is not within 0 and 1")
    return Measurement(_rounded(score), {name: _rounded(value) for name, value in raw.items()})


def _rounded(value: float) -> float:
    return round(float(value), SCORE_DECIMALS) + 0.0  # -0.0 becomes 0.0


def _failed(metric: str, reason: str, cause: Exception | str) -> Measurement:
    message = str(cause) or type(cause).__name__
    return Measurement(error=FeatureError(metric, reason, message))
