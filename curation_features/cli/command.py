"""How a command is declared, what it gives back, and the exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.errors import (
    CurationError,
    InputError,
    InvalidWeightsError,
    ManifestError,
    MissingWeightsError,
    ResourceError,
    SettingsError,
    StorageAwayError,
    StoreError,
    WeightsError,
)
from curation_features.settings import Settings, nearest

COMMAND = "COMMAND"  # what usage lines say for the name of a command
READER_GONE = 141  # as of a program that SIGPIPE ends

EXIT_CODES = {
    0: "done (photos that could not be read are named in the result, and do not change the exit code)",
    1: "the run failed",
    2: "wrong usage, settings or manifest; no command: the help is shown",
    3: "model weights are missing and a degraded run is not permitted, or they could not be got",
    130: "interrupted",
    READER_GONE: "whoever read the output went away (`| head`)",
}


class UsageError(CurationError):
    """Arguments that cannot be understood, or that exclude each other."""


class Interrupted(KeyboardInterrupt):
    """An interruption whose message says what goes on and what does not; by default the command can be repeated."""


FAILURES: Mapping[type[BaseException], tuple[str, int]] = {  # -> its name for machines, and the exit code; first match
    UsageError: ("usage", 2),
    SettingsError: ("settings", 2),
    ManifestError: ("manifest", 2),
    InputError: ("input", 2),
    MissingWeightsError: ("missing_weights", 3),
    InvalidWeightsError: ("invalid_weights", 1),
    WeightsError: ("weights", 1),
    ResourceError: ("resource", 1),
    StorageAwayError: ("storage_away", 1),
    StoreError: ("store", 1),
    CurationError: ("failed", 1),
    MemoryError: ("resource", 1),
    OSError: ("system", 1),
    KeyboardInterrupt: ("interrupted", 130),
    Exception: ("internal", 1),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    Attributes:
        fields: for machines; the fields that `declare` was told of.
        show: prints the same for people.
        failure: why not all was done that was asked for.
    """

    fields: Mapping[str, Any]
    show: Callable[[], None]
    failure: CurationError | None = None


Command = Callable[[argparse.Namespace, Settings], Outcome]


def failure_kind(error: BaseException) -> tuple[str, int]:
    """The name of an error for machines, and the exit code."""
    return next(found for kind, found in FAILURES.items() if isinstance(error, kind))


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` where `argparse` would print and exit, and takes no half names of options.

    What is unknown is answered with the nearest name, by the parser of the command that it was given to.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        """Raise what is wrong, with the usage; where the command is missing, with all of the help."""
        shown = self.format_help() if message.endswith(f": {COMMAND}") else self.format_usage()
        raise UsageError(f"{message}\n{shown.rstrip()}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse`, but what a command does not know is that command's own error, and not that of its parent."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            hints = (nearest(word.partition("=")[0], options) for word in unknown if word.startswith("-"))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{next(filter(None, hints), '')}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.metavar == COMMAND and action.choices is not None and value not in action.choices:
            self.error(f"there is no command {value!r}{nearest(value, action.choices)}")
        super()._check_value(action, value)


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written to, before any work is done for it.

    Raises:
        InputError: its folder is not there, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise InputError(f"{path}: cannot be written: it is a folder; name a file")


def global_options(parser: argparse.ArgumentParser) -> None:
    """The options that stand before or after the command. Without a default: what stands before it must last."""
    parser.add_argument(
        "--root", type=Path, default=argparse.SUPPRESS, help="the project's root (default: the current folder)"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="log what happens, and show tracebacks",
    )


def declare(commands: Any, name: str, run: Command, example: str, fields: Mapping[str, str]) -> argparse.ArgumentParser:
    """Add a command; its help is the docstring of `run`, with an example.

    Args:
        fields: what `--json` prints: name -> meaning.
    """
    summary = (run.__doc__ or "").strip()
    listed = "\n".join(f"  {name:18} {meaning}" for name, meaning in fields.items())
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}\n\nwith --json, one object on standard output:\n{listed}\n"
        f"  {'error':18} only where it failed: {{kind, message, exit_code}}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    command.add_argument("--json", action="store_true", help="print one JSON object for machines, and nothing else")
    global_options(command)
    return command
