"""The weights of the three models of a run: locate them, pull them, and report their status."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from curation_features import atomic_files
from curation_features.errors import (
    CurationError,
    InputError,
    InvalidWeightsError,
    MissingExtraError,
    MissingWeightsError,
    ReasonedError,
    require_extra,
)
from curation_features.settings import Settings
from curation_features.weights.catalog import KnownFile, brisque_file, clip_iqa_file
from curation_features.weights.download import Progress, no_progress, parts
from curation_features.weights.fetch import alone, fetch_clip, fetch_known_file
from curation_features.weights.files import repository_folder, sweep, weights_folder
from curation_features.weights.find import DEGRADE, find_clip, find_known_file
from curation_features.weights.sources import HubSource, Source, model_source
from curation_features.weights.weights import ClipWeights, Weights

MODELS = {
    "clip": "fallback labels at confidence 0, and no image embeddings",
    "clip_iqa": "clip_iqa is 0, its worst",
    "brisque": "brisque is 0, its worst",
}
"""The models of a run, and the result of a degraded run without each."""


@dataclass(frozen=True, slots=True)
class WeightsSpec:
    """The weights of one model, as settings name them.

    Attributes:
        model: `clip`, `clip_iqa` or `brisque`.
    """

    model: str
    settings: Settings

    @property
    def given(self) -> str:
        """Their name in the settings; empty for the published file of CLIP-IQA or BRISQUE."""
        return str(getattr(self.settings, "model" if self.model == "clip" else f"{self.model}_weights"))

    @property
    def origin(self) -> Source | KnownFile:
        """Their parsed source, or the file that settings may replace. Raises SettingsError (see `model_source`)."""
        if self.model == "clip" or (self.model == "clip_iqa" and self.given.startswith("hf-hub:")):
            return model_source(self.settings.replace(model=self.given))
        return clip_iqa_file() if self.model == "clip_iqa" else brisque_file()

    @property
    def source(self) -> str:
        """Their name in the settings, or the URL of the published file."""
        return self.given if self.given or self.model == "clip" else cast(KnownFile, self.origin).url

    @property
    def licence(self) -> str:
        """Their licence; empty if unknown."""
        origin = self.origin
        if isinstance(origin, HubSource):
            return origin.published.licence if origin.published else ""
        return origin.licence if isinstance(origin, KnownFile) and not self.given else ""

    def find(self, *, again: bool = False) -> Weights:
        """Find them on this machine. Raises `WeightsError` if they are missing or not what they should be.

        Args:
            again: hash all files again, even if their digests are remembered.
        """
        origin = self.origin
        if isinstance(origin, KnownFile):
            return find_known_file(self.settings, origin, again=again)
        return find_clip(self.settings, origin, again=again)

    def fetch(self, progress: Progress = no_progress, folder: Path | None = None) -> None:
        """Fetch missing or damaged files from the network, or from `folder`; no user-supplied file. See `fetch`."""
        origin = self.origin
        if not isinstance(origin, KnownFile):
            fetch_clip(origin, progress, folder, flat=self.model == "clip")
        elif not self.given:
            fetch_known_file(origin, progress, folder)

    def locate(self, *, fetch: bool = True, progress: Progress = no_progress) -> Weights:
        """Find them, or fetch them if they are missing."""
        try:
            require_extra("clip")
        except MissingExtraError as error:  # weights are of no use without torch
            raise MissingWeightsError(str(error), f"or {DEGRADE}") from error
        try:
            return self.find()
        except MissingWeightsError:
            if not fetch:
                raise
        self.fetch(progress)
        return self.find()

    def sweep(self) -> None:
        """Delete the leftovers of their interrupted downloads; only for weights that are complete."""
        origin = self.origin
        if isinstance(origin, HubSource):
            with alone():
                sweep(repository_folder(origin.repo))
        elif isinstance(origin, KnownFile) and not self.given and parts(origin.path):
            with alone():
                for part in parts(origin.path):
                    part.unlink(missing_ok=True)


def locate_clip(settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> ClipWeights:
    """Locate the CLIP checkpoint that `settings.model` names, with its configuration and tokenizer.

    A model of the Hugging Face hub is read from the hub's cache without a network call, or downloaded if it is missing
    (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` apply). The digest covers checkpoint, configuration and
    tokenizer.

    Args:
        fetch: download missing files.
        progress: called for each download.

    Raises:
        SettingsError: `settings.model` does not name a model (see `model_source`).
        MissingWeightsError: a file is missing and could not be fetched.
        InvalidWeightsError: a file is damaged, was altered or is not a checkpoint.
    """
    return cast(ClipWeights, WeightsSpec("clip", settings).locate(fetch=fetch, progress=progress))


def locate_clip_iqa(settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> Weights:
    """Locate CLIP-IQA's RN50: `settings.clip_iqa_weights`, or the file that OpenAI publishes. See `locate_clip`."""
    return WeightsSpec("clip_iqa", settings).locate(fetch=fetch, progress=progress)


def locate_brisque(settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> Weights:
    """Locate BRISQUE's regressor: `settings.brisque_weights`, or the file that piq publishes. See `locate_clip`."""
    return WeightsSpec("brisque", settings).locate(fetch=fetch, progress=progress)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """State of one model's weights on this machine.

    Attributes:
        name: `clip`, `clip_iqa` or `brisque`.
        source: name of the weights in the settings, or a URL.
        path: the weights file; None if there is none, or if it cannot be used.
        sha256: as in `Weights`.
        bytes: size of the weights file; 0 without one.
        origin: where the file comes from; empty without one.
        problem: why it cannot be used, and the remedy; None if it can.
        reason: the same as a code: `missing_weights`, `invalid_weights`, `load_failed` or `settings`.
        without_it: the result of a degraded run without it.
        licence: of the weights; empty if unknown.
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
    """Report the state of each model's weights. Downloads nothing."""
    specs = [WeightsSpec(model, settings) for model in MODELS]
    return [_describe(spec, spec.find) for spec in specs]


def pull(settings: Settings, *, progress: Progress = no_progress, folder: Path | None = None) -> list[ModelStatus]:
    """Fetch the missing or damaged weights of every model, and verify all of them.

    User-supplied files are verified and never fetched. A model that cannot be fetched does not stop the others. After
    an interruption at any moment, another call uses or removes all leftovers.

    Args:
        progress: called for each file that is fetched.
        folder: import the files from here, not from the network.

    Returns:
        The status of each model, with its `problem` if it cannot be used.

    Raises:
        InputError: `folder` is not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the weights")
    specs = [WeightsSpec(model, settings) for model in MODELS]
    statuses = [_describe(spec, partial(_pull_one, spec, progress, folder)) for spec in specs]
    if weights_folder().is_dir():
        with suppress(OSError), alone():
            atomic_files.sweep(weights_folder(), weights_folder() / "prepared")
    return statuses


def _pull_one(spec: WeightsSpec, progress: Progress, folder: Path | None) -> Weights:
    try:
        weights = spec.find(again=True)
    except (MissingWeightsError, InvalidWeightsError):
        spec.fetch(progress, folder)
        weights = spec.find(again=True)
    with suppress(OSError):  # a read-only folder will do
        spec.sweep()
    return weights


def _describe(spec: WeightsSpec, find: Callable[[], Weights]) -> ModelStatus:
    """The status of the weights that `find` returns, or of its error."""
    without_it = MODELS[spec.model]
    try:
        weights = find()
        size, origin = weights.path.stat().st_size, _describe_origin(weights)
        return ModelStatus(
            spec.model, spec.source, weights.path, weights.sha256, size, origin, None, None, without_it, spec.licence
        )
    except (CurationError, OSError) as error:
        reason, problem = error.reason if isinstance(error, ReasonedError) else "settings", str(error)
        if isinstance(error, OSError):
            reason, problem = "invalid_weights", f"{error}; free space or permissions, then try again"
        return ModelStatus(spec.model, spec.source, None, None, 0, "", problem, reason, without_it)


def _describe_origin(weights: Weights) -> str:
    commit = weights.path.parent
    if commit.parent.name == "snapshots":
        return f"commit {commit.name} in the hub's cache"
    if "://" not in weights.source:
        return "a user-supplied file"
    return "the weights folder" if weights.path.is_relative_to(weights_folder()) else "a download of another library"
