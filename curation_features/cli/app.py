"""Reads the arguments, runs the command, and tells how it ended: to people or machines, and by an exit code."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import select
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from copy import copy

from curation_features import __version__
from curation_features.cli import (
    backfills,
    batches,
    caches,
    configuration,
    ingest,
    lifecycle,
    reports,
    vocabularies,
    weights,
)
from curation_features.cli.command import (
    COMMAND,
    EXIT_CODES,
    READER_GONE,
    Outcome,
    Parser,
    failure_kind,
    global_options,
)
from curation_features.cli.terminal import complain
from curation_features.errors import CurationError
from curation_features.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `EXIT_CODES`)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that its encoding lacks stops no run
    try:
        try:
            return _ended([*(sys.argv[1:] if arguments is None else arguments)])
        finally:  # now, not when Python ends, which would complain
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        _reader_is_gone()
        return READER_GONE


def _ended(given: Sequence[str]) -> int:
    """The exit code of a command, once it has run and it is said what went wrong."""
    failure: BaseException | None
    try:
        failure = _run(given)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise
        failure = error
        if "--json" in given:
            print(_json({}, failure))
    if failure is None:
        return 0
    complain(_told(failure))
    return failure_kind(failure)[1]


def _run(given: Sequence[str]) -> CurationError | None:
    args = parser().parse_args(given)
    verbose = getattr(args, "verbose", False)
    _start_logging(logging.INFO if verbose else logging.WARNING)
    try:
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            outcome = _outcome(args)
        if args.json:
            print(_json(outcome.fields, outcome.failure))
        else:
            outcome.show()
    except Exception:
        if verbose:
            logging.getLogger("curation_features").exception("The command failed")
        raise
    return outcome.failure


def _outcome(args: argparse.Namespace) -> Outcome:
    settings = load_settings(getattr(args, "root", None))
    if getattr(args, "allow_degraded", False):
        settings = settings.replace(on_missing_weights="degrade")
    outcome: Outcome = args.command(args, settings)
    return outcome


def _json(fields: object, failure: BaseException | None) -> str:
    """What machines are told: plain ASCII in one line."""
    found = dict(fields) if isinstance(fields, dict) else {}
    if failure is not None:
        kind, code = failure_kind(failure)
        found["error"] = {"kind": kind, "message": _told(failure), "exit_code": code}
    return json.dumps(found, default=str)


def _told(failure: BaseException) -> str:
    """What is wrong and what to do, for a person."""
    if isinstance(failure, CurationError):
        return str(failure)
    if isinstance(failure, KeyboardInterrupt):
        return str(failure) or "interrupted; the same command goes on from what is done"
    if isinstance(failure, MemoryError):
        return "memory does not suffice; close other programs, or set a smaller batch_size or fewer workers"
    if isinstance(failure, OSError):
        return f"{failure}; see to that file, device or connection and run again (-v shows where it came from)"
    error = f"{type(failure).__name__}: {failure}"
    return f"an unexpected error ({error}); this is a defect: run again with -v, and report what that shows"


def _reader_is_gone() -> bool:
    """Whether whoever read the output has gone away; what is left to be written goes nowhere then."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # no such call, or no file in its place
            end = select.poll()
            end.register(stream.fileno(), 0)
            if any(state & (select.POLLERR | select.POLLHUP) for _, state in end.poll(0)):
                gone = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


class _Log(logging.Handler):
    """Writes to standard error as it is at that moment: a progress bar puts itself in its place.

    Tracebacks are left out where nobody has asked for what happens.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or self.level <= logging.INFO:
            return super().format(record)
        short = copy(record)
        short.msg, short.args = f"{record.getMessage()} ({type(error).__name__}: {error}; -v shows where)", ()
        short.exc_info = short.exc_text = None
        return super().format(short)


def _start_logging(level: int) -> None:
    logging.basicConfig(format="%(levelname)s:%(name)s:%(message)s", handlers=[_Log()])
    for handler in logging.getLogger().handlers:  # on the handler: Dagster sets the level of the package's logger
        handler.setLevel(level)
    if level <= logging.INFO:
        logging.getLogger("curation_features").setLevel(level)


def parser() -> Parser:
    """The parser of all commands."""
    codes = "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
    found = Parser(
        prog="curation-features",
        description="Turn batches of photos into CLIP labels and technical quality scores.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    global_options(found)
    found.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = found.add_subparsers(title="commands", required=True, metavar=COMMAND)
    for module in (ingest, batches, reports, lifecycle, backfills, vocabularies, weights, caches, configuration):
        module.register(commands)
    return found
