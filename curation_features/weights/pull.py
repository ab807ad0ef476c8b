"""Everything that a configured run needs, fetched or taken out of a folder, and verified."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from curation_features import atomic_files
from curation_features.errors import InputError, InvalidWeightsError, MissingWeightsError
from curation_features.settings import Settings
from curation_features.weights.download import Progress, no_progress
from curation_features.weights.fetch import alone
from curation_features.weights.known_files import weights_folder
from curation_features.weights.status import MODELS, Model, ModelStatus, status_of
from curation_features.weights.weights import Weights


def pull(settings: Settings, *, progress: Progress = no_progress, folder: Path | None = None) -> list[ModelStatus]:
    """Get the weights of every model that settings name: what is missing or damaged is fetched, and all is read again.

    Files of one's own are verified and never fetched. A model that cannot be had keeps no other from being fetched.
    An interruption at any moment leaves nothing that another call does not use or remove.

    Args:
        progress: told of every file that is fetched.
        folder: take the files from here, and nothing from the network.

    Returns:
        The status of each model; what went wrong is its `problem`.

    Raises:
        InputError: `folder` is not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the weights")
    statuses = [status_of(model, settings, partial(_pulled, model, settings, progress, folder)) for model in MODELS]
    if weights_folder().is_dir():
        with suppress(OSError), alone():
            atomic_files.sweep(weights_folder(), weights_folder() / "prepared")
    return statuses


def _pulled(model: Model, settings: Settings, progress: Progress, folder: Path | None) -> Weights:
    """The weights of a model, which are here and whole, or an error."""
    wanted = model.wanted(settings)
    try:
        weights = wanted.find(again=True)
    except (MissingWeightsError, InvalidWeightsError):
        if folder is None:
            wanted.fetch(progress)
        else:
            wanted.carry(folder, progress)
        weights = wanted.find(again=True)
    with suppress(OSError):  # a folder that is only read is as good
        wanted.sweep()
    return weights
