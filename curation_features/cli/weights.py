"""Commands over model weights: `models pull`, `models list`, `models status`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import ERROR_CODES, declare
from curation_features.cli.terminal import downloads, printable, size
from curation_features.errors import MissingWeightsError, WeightsError
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.models import ModelStatus


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    models = commands.add_parser("models", help="the model weights").add_subparsers(required=True, metavar="COMMAND")
    command = declare(models, "pull", models_pull, "curation-features models pull --from /media/stick")
    command.add_argument(
        "--from",
        dest="from_folder",
        type=Path,
        metavar="DIR",
        help="take the files from here and nothing from the network: a copy of HF_HOME, repositories, or single files",
    )
    declare(models, "list", models_list, "curation-features models list")
    command = declare(models, "status", models_status, "curation-features models status --json")
    command.add_argument("--json", action="store_true", help="for machines")


def models_pull(args: argparse.Namespace, settings: Settings) -> int:
    """Fetch the model weights that a run needs where they are missing or damaged, verify all, load each model once."""
    from curation_features.models import pull

    with downloads() as progress:
        statuses = pull(settings, progress=progress, folder=args.from_folder)
    statuses = [_loaded(status, settings) for status in statuses]
    _show_models(statuses)
    reasons = {status.reason for status in statuses if status.problem}
    if not reasons:
        return 0
    return ERROR_CODES[MissingWeightsError] if reasons == {"missing_weights"} else 1


def models_status(args: argparse.Namespace, settings: Settings) -> int:
    """Show which model weights are here, where they came from, and what a run does without the others."""
    from curation_features.models import model_status

    statuses = model_status(settings)
    if args.json:
        print(json.dumps([asdict(status) for status in statuses], default=str))
    else:
        _show_models(statuses)
    return 0


def models_list(args: argparse.Namespace, settings: Settings) -> int:
    """Show the CLIP models that are recommended; `model` in the settings takes these and any other of open_clip."""
    from curation_features.models.catalog import LABELLERS

    for clip in LABELLERS:
        print(f"hf-hub:{clip.repo}")
        print(f"  {clip.use}")
        size, top1 = f"{clip.megabytes / 1000:.2f} GB", f"{clip.zero_shot:.1%} of ImageNet right, zero-shot"
        print(f"  {size}, {clip.gflop:.1f} GFLOP per photo, {top1}, {clip.licence}")
    return 0


def _loaded(status: ModelStatus, settings: Settings) -> ModelStatus:
    """The status of a model after it was loaded once, where its weights are here."""
    from curation_features.stages.plan import Models

    if status.problem:
        return status
    try:
        Models.from_settings(settings).try_out(status.name)
    except WeightsError as error:
        return replace(status, problem=str(error), reason=error.reason)
    return status


def _show_models(statuses: Sequence[ModelStatus]) -> None:
    for status in statuses:
        print(f"{status.name}: {printable(status.source)}")
        if status.problem:
            print(f"  not usable: {printable(status.problem)}")
            print(f"  without it: {status.without_it}")
            continue
        print(f"  here: {printable(str(status.path))} ({size(status.bytes)}, sha256 {(status.sha256 or '')[:16]})")
        print(f"  from: {status.origin}")
        if status.licence:
            print(f"  licence: {status.licence}")
