"""Commands over model weights: `models pull`, `models list`, `models status`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, add_group, declare, parse_path
from curation_features.cli.terminal import doing, downloads, say, size
from curation_features.errors import (
    CurationError,
    InvalidWeightsError,
    MissingWeightsError,
    WeightsError,
    require_extra,
)
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.weights import ModelStatus


STATUS_FIELDS = {
    "models": "[{name, source, path, sha256, bytes, origin, problem, remedy, reason, without_it, licence}], "
    "each model of a run"
}
LIST_FIELDS = {"models": "[{model, use, megabytes, gflop, zero_shot, licence}], each recommended model"}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    models = add_group(commands, "models", "the model weights")
    command = declare(models, "pull", models_pull, "curation-features models pull --from /media/stick", STATUS_FIELDS)
    command.add_argument(
        "--from",
        dest="from_folder",
        type=parse_path,
        metavar="DIR",
        help="import the files from here, not from the network: a hub cache, repository folders, or single files",
    )
    declare(models, "list", models_list, "curation-features models list", LIST_FIELDS)
    declare(models, "status", models_status, "curation-features models status --json", STATUS_FIELDS)


def models_pull(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Fetch missing or damaged model weights, verify all of them, and load each model once."""
    from curation_features.weights import pull

    require_extra("clip")
    with downloads() as progress:
        statuses = pull(settings, progress=progress, folder=args.from_folder)
    statuses = [_try_out(status, settings) for status in statuses]
    return _outcome(statuses, _failure(statuses))


def models_status(args: argparse.Namespace, settings: Settings) -> Outcome:
    """List the model weights on this machine, their origin, and what a run does without the missing ones."""
    from curation_features.weights import model_status

    require_extra("clip")
    return _outcome(model_status(settings))


def models_list(args: argparse.Namespace, settings: Settings) -> Outcome:
    """List the recommended CLIP models; `model` in the settings takes these and any other of open_clip."""
    from curation_features.weights.catalog import LABELLERS

    names = ("use", "megabytes", "gflop", "zero_shot", "licence")
    models = [{"model": f"hf-hub:{clip.repo}", **{name: getattr(clip, name) for name in names}} for clip in LABELLERS]
    return Outcome({"models": models}, partial(_show_list, models))


def _show_list(models: Sequence[Mapping[str, Any]]) -> None:
    for clip in models:
        say(clip["model"])
        say(f"  {clip['use']}")
        size, top1 = f"{clip['megabytes'] / 1000:.2f} GB", f"{clip['zero_shot']:.1%} of ImageNet right, zero-shot"
        say(f"  {size}, {clip['gflop']:.1f} GFLOP per photo, {top1}, {clip['licence']}")


def _outcome(statuses: Sequence[ModelStatus], failure: CurationError | None = None) -> Outcome:
    return Outcome({"models": [asdict(status) for status in statuses]}, partial(_show_models, statuses), failure)


def _failure(statuses: Sequence[ModelStatus]) -> CurationError | None:
    """The error of an incomplete pull: missing weights only if nothing else is wrong."""
    unusable = [status for status in statuses if status.problem]
    if not unusable:
        return None
    names = ", ".join(status.name for status in unusable)
    summary = f"{len(unusable)} of {len(statuses)} models cannot be used: {names}"
    if {status.reason for status in unusable} == {"missing_weights"}:
        return MissingWeightsError(summary)
    return InvalidWeightsError(summary)


def _try_out(status: ModelStatus, settings: Settings) -> ModelStatus:
    """Load a model whose weights are usable, and return its updated status."""
    from curation_features.pipeline.plan import Models

    if status.problem:
        return status
    try:
        with doing(f"loading {status.name}"):
            Models.from_settings(settings).try_out(status.name)
    except WeightsError as error:
        return replace(status, problem=error.summary, remedy=error.remedy, reason=error.reason)
    return status


def _show_models(statuses: Sequence[ModelStatus]) -> None:
    for status in statuses:
        say(f"{status.name}: {status.source}")
        if status.problem:
            say(f"  not usable: {status.problem}")
            say(f"  without it: {status.without_it}")
            continue
        say(f"  here: {status.path} ({size(status.bytes)}, sha256 {(status.sha256 or '')[:16]})")
        say(f"  from: {status.origin}")
        if status.licence:
            say(f"  licence: {status.licence}")
    unusable = [status for status in statuses if status.problem and status.remedy]
    for remedy in dict.fromkeys(status.remedy for status in unusable):
        say(f"{', '.join(status.name for status in unusable if status.remedy == remedy)}: {remedy}")
