"""What a run will compute: the models it has, and the version of every part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from curation_features.clip.engine import ClipEngine, clip_model
from curation_features.clip.label_embeddings import label_version
from curation_features.clip.vocabulary import Vocabulary
from curation_features.errors import MissingWeightsError, WeightsError
from curation_features.models import LazyModel
from curation_features.schema import METRIC_NAMES, FeatureError
from curation_features.settings import Settings
from curation_features.technical.brisque import Brisque, brisque_model
from curation_features.technical.clip_iqa import QualityModel, clip_iqa_model
from curation_features.versions import combined, part_version

TECHNICAL_PARTS = frozenset(METRIC_NAMES)
EMBEDDING_PARTS = frozenset({"embedding"})
LABEL_PARTS = frozenset({"labels"})
ALL_PARTS = TECHNICAL_PARTS | EMBEDDING_PARTS | LABEL_PARTS

STAGE_OF_PART = {"embedding": "image_embedding", "labels": "clip_labels"}
UNMEASURED = "unmeasured"


@dataclass(frozen=True, slots=True)
class Models:
    """The three models of the pipeline, none of them loaded before it is needed."""

    clip: LazyModel[ClipEngine]
    clip_iqa: LazyModel[QualityModel]
    brisque: LazyModel[Brisque]

    @classmethod
    def from_settings(cls, settings: Settings) -> Models:
        """The models that the settings name."""
        return cls(clip_model(settings), clip_iqa_model(settings), brisque_model(settings))

    def identity(self, part: str) -> str:
        """Identity of the model behind a part, empty where there is none. Raises `WeightsError`."""
        models: Mapping[str, LazyModel[ClipEngine] | LazyModel[QualityModel] | LazyModel[Brisque]] = {
            "clip_iqa": self.clip_iqa,
            "brisque": self.brisque,
            "embedding": self.clip,
            "labels": self.clip,
        }
        return models[part].identity if part in models else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a run.

    Attributes:
        versions: the version of every part that can be computed.
        missing: why the other parts cannot.
        failures: the errors behind `missing`, each once, with their remedies.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, FeatureError] = field(default_factory=dict)
    failures: tuple[WeightsError, ...] = ()

    @property
    def technical_version(self) -> str:
        """Version of the five scores together."""
        return technical_version(self.versions)

    @property
    def clip_version(self) -> str:
        """Version of the labels."""
        return self.versions.get("labels", UNMEASURED)


def technical_version(versions: Mapping[str, str]) -> str:
    """Version of the five scores together, out of the versions of the parts."""
    return combined({name: versions.get(name, UNMEASURED) for name in METRIC_NAMES})


def make_plan(settings: Settings, models: Models, vocabulary: Vocabulary, parts: Collection[str]) -> Plan:
    """Find out which of `parts` can be computed, and their versions; loads no model.

    Raises:
        WeightsError: weights are missing or wrong and settings do not permit a degraded run; names all of them.
    """
    versions: dict[str, str] = {}
    missing: dict[str, FeatureError] = {}
    failures: dict[str, WeightsError] = {}
    for part in parts:
        try:
            identity = models.identity(part)
        except WeightsError as error:
            missing[part] = FeatureError(STAGE_OF_PART.get(part, part), error.reason, error.summary)
            failures[str(error)] = error
            continue
        inputs: dict[str, str] = {}
        if part == "labels":
            embedding = part_version("embedding", settings, identity)
            inputs = {"embedding": embedding, "label_embeddings": label_version(embedding, vocabulary)}
        versions[part] = part_version(part, settings, identity, **inputs)
    if failures and settings.on_missing_weights == "fail":
        raise _all_in_one(list(failures.values()))
    return Plan(versions, missing, tuple(failures.values()))


def _all_in_one(failures: list[WeightsError]) -> WeightsError:
    if len(failures) == 1:
        return failures[0]
    return MissingWeightsError("\n".join(str(failure) for failure in failures))
