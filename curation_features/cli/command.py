"""How a command is declared, and the exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from curation_features.errors import InputError, ManifestError, MissingWeightsError, SettingsError
from curation_features.settings import Settings

EXIT_CODES = {
    0: "done (photos that could not be read are named in the result, and do not change the exit code)",
    1: "the run failed",
    2: "wrong usage, settings or manifest",
    3: "model weights are missing and a degraded run is not permitted, or they could not be got",
    130: "interrupted",
}


ERROR_CODES = {MissingWeightsError: 3, ManifestError: 2, SettingsError: 2, InputError: 2}

Command = Callable[[argparse.Namespace, Settings], int]


def declare(commands: Any, name: str, run: Command, example: str) -> argparse.ArgumentParser:
    """Add a command; its help is the docstring of `run`, with an example."""
    summary = (run.__doc__ or "").strip()
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    return command
