"""Weights of the three models: found on this machine, or fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from curation_features.errors import InvalidWeightsError, MissingExtraError, MissingWeightsError, require_extra
from curation_features.settings import Settings
from curation_features.weights.carried import carry_clip, carry_known_file
from curation_features.weights.download import Progress, no_progress, parts
from curation_features.weights.fetch import alone, fetch_clip, fetch_known_file
from curation_features.weights.find import DEGRADE, ENCODER_FILE, FETCH, TOKENIZER_FILES, find_clip, find_known_file
from curation_features.weights.hub_layout import difference, repository_folder, sweep
from curation_features.weights.known_files import KnownFile, brisque_file, clip_iqa_file
from curation_features.weights.sources import CONFIG_FILE, HubSource, Source, model_source
from curation_features.weights.weights import ClipWeights, Weights

W = TypeVar("W", bound=Weights)
W_co = TypeVar("W_co", bound=Weights, covariant=True)


class Wanted(Protocol[W_co]):
    """The weights of one model, as settings name them."""

    @property
    def source(self) -> str:
        """Where they come from, as in the settings, or a URL."""

    @property
    def licence(self) -> str:
        """Their licence; empty where it is not known."""

    def find(self, *, again: bool = False) -> W_co:
        """The weights on this machine. Raises `WeightsError` where they are not, or are not what they should be.

        Args:
            again: read them again, even where their digests are remembered.
        """

    def fetch(self, progress: Progress = no_progress) -> None:
        """Fetch what is missing or damaged, but no file of one's own. Raises `WeightsError` where it cannot be."""

    def carry(self, folder: Path, progress: Progress = no_progress) -> None:
        """Take what is missing or damaged out of a folder, as `fetch` takes it from the network."""

    def sweep(self) -> None:
        """Delete what interrupted downloads of these weights have left; call it where they are whole."""


def wanted_clip(settings: Settings) -> Wanted[ClipWeights]:
    """The CLIP model that `settings.model` names. Raises SettingsError where it names none (see `model_source`)."""
    return _ClipModel(settings, model_source(settings))


def wanted_clip_iqa(settings: Settings) -> Wanted[Weights]:
    """What `settings.clip_iqa_weights` names, or the RN50 that OpenAI publishes. Raises SettingsError."""
    if settings.clip_iqa_weights.startswith("hf-hub:"):
        return _ClipModel(settings, model_source(settings.replace(model=settings.clip_iqa_weights)))
    return _SingleFile(settings, clip_iqa_file())


def wanted_brisque(settings: Settings) -> Wanted[Weights]:
    """What `settings.brisque_weights` names, or the regressor that piq publishes."""
    return _SingleFile(settings, brisque_file())


def locate_clip(settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> ClipWeights:
    """The CLIP checkpoint that `settings.model` names, with its configuration and tokenizer.

    A checkpoint of the Hugging Face hub is taken from that library's cache without any network call, and downloaded
    where it is not there (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` hold). The digest covers the
    weights, the configuration and the tokenizer.

    Args:
        fetch: download what is missing.
        progress: told of every file that is downloaded.

    Raises:
        SettingsError: the model is not spelled as one (see `model_source`).
        MissingWeightsError: there is no checkpoint, and it could not be fetched.
        InvalidWeightsError: a file is damaged, was altered or is not a checkpoint.
    """
    return _located(wanted_clip, settings, fetch, progress)


def locate_clip_iqa(settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> Weights:
    """OpenAI's RN50 for CLIP-IQA: what `settings.clip_iqa_weights` names, or the file that OpenAI publishes.

    The latter is downloaded where it is missing, and its digest must be the one that OpenAI published.

    Raises:
        MissingWeightsError: there is no such file, and it could not be fetched.
        InvalidWeightsError: the file is damaged or is another one.
    """
    return _located(wanted_clip_iqa, settings, fetch, progress)


def locate_brisque(settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> Weights:
    """BRISQUE's regressor: `settings.brisque_weights`, or the file that piq publishes, downloaded where it is missing.

    Raises:
        MissingWeightsError: there is no such file, and it could not be fetched.
        InvalidWeightsError: the file is damaged.
    """
    return _located(wanted_brisque, settings, fetch, progress)


def _located(want: Callable[[Settings], Wanted[W]], settings: Settings, fetch: bool, progress: Progress) -> W:
    try:
        require_extra("clip")
    except MissingExtraError as error:  # weights are of no use without torch
        raise MissingWeightsError(str(error), f"or {DEGRADE}") from error
    wanted = want(settings)
    try:
        return wanted.find()
    except MissingWeightsError:
        if not fetch:
            raise
    wanted.fetch(progress)
    return wanted.find()


@dataclass(frozen=True, slots=True)
class _ClipModel:
    """A CLIP model of the hub, or in a folder of one's own."""

    settings: Settings
    origin: Source

    @property
    def source(self) -> str:
        return self.origin.name

    @property
    def licence(self) -> str:
        published = self.origin.published if isinstance(self.origin, HubSource) else None
        return published.licence if published else ""

    def find(self, *, again: bool = False) -> ClipWeights:
        weights = find_clip(self.settings, self.origin, again=again)
        for path in _small_files(weights) if again else ():
            if problem := difference(path, path.resolve().name):
                raise InvalidWeightsError(f"CLIP {self.source}: {path} {problem}", FETCH)
        return weights

    def fetch(self, progress: Progress = no_progress) -> None:
        fetch_clip(self.origin, progress)

    def carry(self, folder: Path, progress: Progress = no_progress) -> None:
        carry_clip(self.origin, folder, progress, flat=self.source == self.settings.model)

    def sweep(self) -> None:
        if isinstance(self.origin, HubSource):
            with alone():
                sweep(repository_folder(self.origin.repo))


@dataclass(frozen=True, slots=True)
class _SingleFile:
    """A published file, or one that settings name in its place."""

    settings: Settings
    known: KnownFile

    @property
    def source(self) -> str:
        return self._own or self.known.url

    @property
    def licence(self) -> str:
        return "" if self._own else self.known.licence

    @property
    def _own(self) -> str:
        return str(getattr(self.settings, self.known.setting))

    def find(self, *, again: bool = False) -> Weights:
        return find_known_file(self.settings, self.known, again=again)

    def fetch(self, progress: Progress = no_progress) -> None:
        if not self._own:
            fetch_known_file(self.known, progress)

    def carry(self, folder: Path, progress: Progress = no_progress) -> None:
        if not self._own:
            carry_known_file(self.known, folder, progress)

    def sweep(self) -> None:
        if not self._own and parts(self.known.path):
            with alone():
                for part in parts(self.known.path):
                    part.unlink(missing_ok=True)


def _small_files(weights: ClipWeights) -> list[Path]:
    """What a CLIP model is made of beside its checkpoint. In the hub's cache, each leads to the name of its content."""
    encoder = (weights.config["model_cfg"].get("text_cfg") or {}).get("hf_model_name")
    paths = [weights.path.parent / CONFIG_FILE, *([Path(encoder) / ENCODER_FILE] if encoder else [])]
    paths += [weights.tokenizer / name for name in TOKENIZER_FILES] if weights.tokenizer else []
    return [path for path in paths if path.is_file()]
