"""Reads the arguments, runs the command, and turns errors into a line and an exit code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from curation_features.cli import backfills, batches, caches, weights
from curation_features.cli.command import ERROR_CODES, EXIT_CODES, Command
from curation_features.cli.terminal import complain
from curation_features.errors import CurationError
from curation_features.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `EXIT_CODES`)."""
    args = parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s:%(name)s:%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:  # on the handler: Dagster sets the level of the package's logger
        handler.setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.verbose:
        logging.getLogger("curation_features").setLevel(logging.INFO)
    command: Command = args.command
    try:
        settings = load_settings(args.root)
        if getattr(args, "allow_degraded", False):
            settings = settings.replace(on_missing_weights="degrade")
        return command(args, settings)
    except KeyboardInterrupt:
        return 130
    except CurationError as error:
        if args.verbose:
            logging.getLogger("curation_features").exception("The command failed")
        complain(str(error))
        return next((code for kind, code in ERROR_CODES.items() if isinstance(error, kind)), 1)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    codes = "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
    found = argparse.ArgumentParser(
        prog="curation-features",
        description="Turn batches of photos into CLIP labels and technical quality scores.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--root", type=Path, help="the project's root (default: the current folder)")
    found.add_argument("-v", "--verbose", action="store_true", help="log what happens, and show tracebacks")
    commands = found.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (batches, backfills, weights, caches):
        module.register(commands)
    return found
