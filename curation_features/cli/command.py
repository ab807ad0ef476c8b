"""Declares commands, their outcomes and the exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.errors import (
    CurationError,
    InputError,
    InvalidWeightsError,
    ManifestError,
    MissingWeightsError,
    QueryError,
    ResourceError,
    SettingsError,
    StorageAwayError,
    StoreError,
    WeightsError,
)
from curation_features.settings import Settings, expand_home, nearest

COMMAND = "COMMAND"  # placeholder in usage lines
READER_GONE = 141  # 128 + SIGPIPE

SPEED_FIELDS = {"seconds": "duration", "photos_per_second": "photos per second"}

EXIT_CODES = {
    0: "done (unreadable photos are listed in the result, and do not change the exit code)",
    1: "the run failed",
    2: "wrong usage, settings or manifest; no command: the help is shown",
    3: "model weights are missing and cannot be fetched, and a degraded run is not allowed",
    130: "interrupted",
    READER_GONE: "the process that reads the output has ended (`| head`)",
}


class UsageError(CurationError):
    """Arguments that are unknown, or exclude each other."""


FAILURES: Mapping[type[BaseException], tuple[str, int]] = {  # first match -> `kind` in JSON, exit code
    UsageError: ("usage", 2),
    SettingsError: ("settings", 2),
    ManifestError: ("manifest", 2),
    InputError: ("input", 2),
    QueryError: ("query", 2),
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
    """The outcome of a command.

    Attributes:
        fields: the output of `--json`, as declared.
        show: prints the same as text.
        failure: why only a part was done.
    """

    fields: Mapping[str, Any]
    show: Callable[[], None]
    failure: CurationError | None = None


Command = Callable[[argparse.Namespace, Settings], Outcome]


def failure_kind(error: BaseException) -> tuple[str, int]:
    """The `kind` of an error in JSON, and the exit code."""
    return next(failure for kind, failure in FAILURES.items() if isinstance(error, kind))


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` instead of exiting, and accepts no abbreviated options.

    An unknown name is reported with the nearest known one, by the parser of its command.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        """Raise `UsageError` with the usage, or with the whole help if the command is missing."""
        shown = self.format_help() if message.endswith(f": {COMMAND}") else self.format_usage()
        raise UsageError(f"{message}\n{shown.rstrip()}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like `argparse`, but report unknown arguments by the command's parser, not its parent's."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            hints = (nearest(word.partition("=")[0], options) for word in unknown if word.startswith("-"))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{next(filter(None, hints), '')}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.metavar == COMMAND and action.choices is not None and value not in action.choices:
            self.error(f"unknown command {value!r}{nearest(value, action.choices)}")
        super()._check_value(action, value)


def parse_path(text: str) -> Path:
    """Parse a path; `~` is expanded if the shell has not done so, as in `--output=~/page.html`."""
    return Path(expand_home(text))


def parse_positive(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def check_output(path: Path) -> None:
    """Raise `InputError` if an output file cannot be written, before any work is done for it."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise InputError(f"{path}: cannot be written: it is a folder; name a file")


def with_make_dev(text: str) -> str:
    """Return a hint at `make dev` if the current folder is a clone, whose Makefile has it; else an empty text."""
    with suppress(OSError):
        if "\ndev: " in Path("Makefile").read_text(encoding="utf-8", errors="replace"):
            return f"; `make dev` {text}"
    return ""


def global_options(parser: argparse.ArgumentParser) -> None:
    """Add the options allowed before and after the command; a default would overwrite the value given before it."""
    missing, root = argparse.SUPPRESS, "the project's root (default: the current folder)"
    parser.add_argument("--root", type=parse_path, default=missing, help=root)
    parser.add_argument("-v", "--verbose", action="store_true", default=missing, help="log details, show tracebacks")


def add_group(commands: Any, name: str, summary: str) -> Any:
    """Add a command that only groups others, and return its commands."""
    return commands.add_parser(name, help=summary).add_subparsers(required=True, metavar=COMMAND)


def allow_degraded(command: argparse.ArgumentParser) -> None:
    """Add `--allow-degraded`, which `main` applies to the settings."""
    text = "continue without missing model weights; their values are defaults"
    command.add_argument("--allow-degraded", action="store_true", help=text)


def speed(photos: int, seconds: float) -> dict[str, float]:
    """The values of `SPEED_FIELDS`."""
    return {"seconds": round(seconds, 3), "photos_per_second": round(photos / seconds, 3) if seconds else 0.0}


def format_speed(fields: Mapping[str, Any]) -> str:
    """Format the values of `SPEED_FIELDS`."""
    return f"{fields['seconds']:.1f} s, {fields['photos_per_second']:.1f} photos/s"


def declare(commands: Any, name: str, run: Command, example: str, fields: Mapping[str, str]) -> argparse.ArgumentParser:
    """Add a command; its help is the docstring of `run`, with an example.

    Args:
        fields: the output of `--json`: name -> meaning.
    """
    summary = (run.__doc__ or "").strip()
    listed = "\n".join(f"  {name:18} {meaning}" for name, meaning in fields.items())
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}\n\nwith --json, one object on standard output:\n{listed}\n"
        f"  {'error':18} only after a failure: {{kind, message, exit_code}}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    command.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    global_options(command)
    return command
