"""Plan of a run: its models and the version of every part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from curation_features.clip.label_embeddings import label_version
from curation_features.clip.vocabulary import Vocabulary
from curation_features.errors import InvalidWeightsError, MissingWeightsError, WeightsError
from curation_features.pipeline.observer import Observer, SilentObserver
from curation_features.schema import FINGERPRINT, METRIC_NAMES, PARTS, SIGNAL_PARTS, FeatureError
from curation_features.settings import Settings
from curation_features.versions import combined, digest, grouping_rules, part_version, text_version
from curation_features.weights import LazyModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.clip.engine import ClipEngine
    from curation_features.devices.transfer import ModelInput
    from curation_features.technical.brisque.index import Brisque
    from curation_features.technical.clip_iqa import QualityModel

SCORE_PARTS = frozenset(METRIC_NAMES)
TECHNICAL_PARTS = SCORE_PARTS | frozenset(SIGNAL_PARTS) | {FINGERPRINT}
EMBEDDING_PARTS = frozenset({"embedding"})
LABEL_PARTS = frozenset({"labels"})
MODEL_PARTS = ("brisque", "clip_iqa", "embedding")
ALL_PARTS = TECHNICAL_PARTS | EMBEDDING_PARTS | LABEL_PARTS

UNMEASURED = "unmeasured"


@dataclass(frozen=True, slots=True)
class Models:
    """The three models of the pipeline; each loads on first use."""

    clip: LazyModel[ClipEngine]
    clip_iqa: LazyModel[QualityModel]
    brisque: LazyModel[Brisque]

    @classmethod
    def from_settings(cls, settings: Settings, observer: Observer | None = None, fetch: bool = True) -> Models:
        """Create the models that the settings name.

        Args:
            observer: notified of downloads and loading.
            fetch: whether missing weights are downloaded.
        """
        from curation_features.clip.engine import clip_model
        from curation_features.technical.brisque.loading import brisque_model
        from curation_features.technical.clip_iqa import clip_iqa_model

        observer = observer or SilentObserver()
        clip, clip_iqa, brisque = (partial(observer.model_loading, name) for name in ("CLIP", "CLIP-IQA", "BRISQUE"))
        return cls(
            clip_model(settings, observer.downloading, fetch=fetch, loading=clip),
            clip_iqa_model(settings, observer.downloading, fetch=fetch, loading=clip_iqa),
            brisque_model(settings, loading=brisque),
        )

    def identity(self, part: str) -> str:
        """Return the identity of a part's model; empty if it needs none. Raises `WeightsError`."""
        models: Mapping[str, LazyModel[ClipEngine] | LazyModel[QualityModel] | LazyModel[Brisque]] = {
            "clip_iqa": self.clip_iqa,
            "brisque": self.brisque,
            "embedding": self.clip,
            "labels": self.clip,
        }
        return models[part].identity if part in models else ""

    def load(self, part: str) -> ImageModel | None:
        """Load the batched model of a part; None if its photos are measured one by one.

        Raises:
            WeightsError: the model cannot be loaded.
        """
        if part == "brisque":
            return self.brisque.get().batched
        return self.clip.get() if part == "embedding" else self.clip_iqa.get()

    def try_out(self, name: str) -> None:
        """Load a model (`clip`, `clip_iqa`, `brisque`) and try it. Raises `WeightsError` if that fails."""
        model = getattr(self, name).get()  # loading tries CLIP-IQA and BRISQUE
        if name == "clip":
            gray = model.preprocess(np.full((64, 64, 3), 127, np.uint8))
            vectors = [model.encode_texts(["a photo"]), model.encode_images(gray[np.newaxis])]
            if not np.isfinite(vectors).all():
                raise InvalidWeightsError("CLIP gives no finite embedding for a gray photo", "fetch or copy it again")


class ImageModel(Protocol):
    """A model that takes photos in batches."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Convert an upright RGB image (H, W, 3) to the model's input."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a run.

    Attributes:
        versions: version of every part that can be computed.
        missing: error of every other part.
        failures: the distinct errors of `missing`, with remedies.
        thumbnails: make the thumbnails of photos that are decoded.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, FeatureError] = field(default_factory=dict)
    failures: tuple[WeightsError, ...] = ()
    thumbnails: bool = False

    def only(self, parts: Collection[str]) -> Plan:
        """Return the plan of these parts, without `failures` and thumbnails."""
        return Plan(
            {part: version for part, version in self.versions.items() if part in parts},
            {part: error for part, error in self.missing.items() if part in parts},
        )

    @property
    def technical_version(self) -> str:
        """Combined version of the five scores."""
        return technical_version(self.versions)

    @property
    def clip_version(self) -> str:
        """Version of the labels."""
        return self.versions.get("labels", UNMEASURED)


def technical_version(versions: Mapping[str, str]) -> str:
    """Combine the versions of the five scores."""
    return combined({name: versions.get(name, UNMEASURED) for name in METRIC_NAMES})


def signals_version(versions: Mapping[str, str], settings: Settings) -> str:
    """Combine the versions of the signals and the limits of the flags."""
    parts = {name: versions.get(name, UNMEASURED) for name in SIGNAL_PARTS}
    return combined({**parts, "flags": digest(settings.constants("flags"))})


def groups_version(versions: Mapping[str, str], settings: Settings) -> str:
    """Combine the versions of what is compared, and of the grouping.

    Args:
        versions: of the parts `fingerprint` and `embedding`.
    """
    parts = {name: versions.get(name, UNMEASURED) for name in (FINGERPRINT, "embedding")}
    return combined({**parts, "groups": digest(grouping_rules(settings))})


def feature_versions(plan: Plan, settings: Settings) -> dict[str, str]:
    """Return the `version` of the features that a plan of all parts gives."""
    signals = signals_version(plan.versions, settings)
    groups = groups_version(plan.versions, settings)
    return {"technical": plan.technical_version, "clip": plan.clip_version, "signals": signals, "groups": groups}


def make_plan(settings: Settings, models: Models, vocabulary: Vocabulary, parts: Collection[str]) -> Plan:
    """Find the versions of `parts`, and the parts that cannot be computed; loads no model.

    Raises:
        WeightsError: weights are missing or invalid, and settings do not allow degraded runs; names all of them.
    """
    versions: dict[str, str] = {}
    missing: dict[str, FeatureError] = {}
    failures: dict[str, WeightsError] = {}
    for part in (part for part in PARTS if part in parts):
        try:
            identity = models.identity(part)
        except WeightsError as error:
            missing[part] = FeatureError(PARTS[part].stage, error.reason, error.summary)
            failures[str(error)] = error
            continue
        inputs: dict[str, str] = {}
        if part == "labels":
            inputs = {
                "embedding": part_version("embedding", settings, identity),
                "label_embeddings": label_version(text_version(settings, identity), vocabulary),
            }
        versions[part] = part_version(part, settings, identity, **inputs)
    if failures and settings.on_missing_weights == "fail":
        raise _combine(list(failures.values()))
    return Plan(versions, missing, tuple(failures.values()))


def tolerated(error: WeightsError, settings: Settings) -> WeightsError:
    """Return the error if settings allow degraded runs; raise it otherwise."""
    if settings.on_missing_weights == "fail":
        raise error
    return error


def _combine(failures: list[WeightsError]) -> WeightsError:
    """Combine errors, with each remedy once; missing weights only if all of them are missing."""
    if len(failures) == 1:
        return failures[0]
    summary = "\n".join(f"- {failure.summary}" for failure in failures)
    remedies = dict.fromkeys(failure.remedy for failure in failures if failure.remedy)
    kind = MissingWeightsError if all(isinstance(e, MissingWeightsError) for e in failures) else InvalidWeightsError
    return kind(f"{len(failures)} models cannot be used:\n{summary}", "\n".join(remedies))
