"""What is on this machine of each model, and what a run does without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from curation_features.errors import CurationError, ReasonedError
from curation_features.settings import Settings
from curation_features.weights.known_files import brisque_file, clip_iqa_file, weights_folder
from curation_features.weights.locate import Wanted, wanted_brisque, wanted_clip, wanted_clip_iqa
from curation_features.weights.weights import Weights


@dataclass(frozen=True, slots=True)
class Model:
    """One of the models of a run.

    Attributes:
        name: `clip`, `clip_iqa` or `brisque`.
        source: where its weights come from, as in the settings, or a URL.
        wanted: its weights; raises SettingsError where settings name none.
        without_it: what a degraded run does without it.
    """

    name: str
    source: Callable[[Settings], str]
    wanted: Callable[[Settings], Wanted[Weights]]
    without_it: str


MODELS = (
    Model(
        "clip", lambda settings: settings.model, wanted_clip, "fallback labels at confidence 0, and no image embeddings"
    ),
    Model(
        "clip_iqa",
        lambda settings: settings.clip_iqa_weights or clip_iqa_file().url,
        wanted_clip_iqa,
        "clip_iqa is 0, its worst",
    ),
    Model(
        "brisque",
        lambda settings: settings.brisque_weights or brisque_file().url,
        wanted_brisque,
        "brisque is 0, its worst",
    ),
)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is on this machine of one model.

    Attributes:
        name: `clip`, `clip_iqa` or `brisque`.
        source: where its weights come from, as in the settings, or a URL.
        path: the weights file; None where there is none that can be used.
        sha256: as in `Weights`.
        bytes: size of the weights file; 0 where there is none.
        origin: how they came here; empty where they did not.
        problem: why it cannot be used, and what to do; None where it can.
        reason: the same for machines: `missing_weights`, `invalid_weights`, `load_failed` or `settings`.
        without_it: what a degraded run does without it.
        licence: of the weights; empty where it is not known.
    """

    name: str
    source: str
    path: Path | None
    sha256: str | None
    bytes: int
    origin: str
    problem: str | None
    reason: str | None
    without_it: str
    licence: str = ""


def model_status(settings: Settings) -> list[ModelStatus]:
    """What is on this machine of each model. Downloads nothing."""
    return [status_of(model, settings, partial(_found, model, settings)) for model in MODELS]


def _found(model: Model, settings: Settings) -> Weights:
    return model.wanted(settings).find()


def status_of(model: Model, settings: Settings, find: Callable[[], Weights]) -> ModelStatus:
    """What is on this machine of one model, as `find` gives it; or why it gives nothing."""
    source = model.source(settings)
    try:
        weights = find()
        size, origin, licence = weights.path.stat().st_size, _origin(weights), model.wanted(settings).licence
        return ModelStatus(
            model.name, source, weights.path, weights.sha256, size, origin, None, None, model.without_it, licence
        )
    except (CurationError, OSError) as error:
        reason, problem = error.reason if isinstance(error, ReasonedError) else "settings", str(error)
        if isinstance(error, OSError):
            reason, problem = "invalid_weights", f"{error}; free space or permissions, then try again"
        return ModelStatus(model.name, source, None, None, 0, "", problem, reason, model.without_it)


def _origin(weights: Weights) -> str:
    """How weights came here."""
    commit = weights.path.parent
    if commit.parent.name == "snapshots":
        return f"commit {commit.name} in the hub's cache"
    if "://" not in weights.source:
        return "a file of one's own"
    return "the weights folder" if weights.path.is_relative_to(weights_folder()) else "a download of another library"
