"""Parses the arguments, runs the command, and reports its outcome: as text or JSON, and by an exit code."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import select
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from copy import copy
from typing import Any

from curation_features import __version__
from curation_features.cli import (
    backfills,
    batches,
    caches,
    configuration,
    flags,
    gather,
    groups,
    ingest,
    library,
    lifecycle,
    reports,
    searches,
    shards,
    vocabularies,
    watch,
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
        sys.stdout.reconfigure(errors="replace")  # a character that the encoding lacks must not stop a run
    try:
        try:
            return _run_and_report([*(sys.argv[1:] if arguments is None else arguments)])
        finally:  # here, because a closed pipe at interpreter exit prints an error
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        _silence_closed_pipes()
        return READER_GONE


def _run_and_report(given: Sequence[str]) -> int:
    failure: BaseException | None
    try:
        failure = _run(given)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _silence_closed_pipes():
            raise
        failure = error
        if "--json" in given:
            print(_to_json({}, failure))
    if failure is None:
        return 0
    complain(_describe(failure))
    return failure_kind(failure)[1]


def _run(given: Sequence[str]) -> CurationError | None:
    args = parser().parse_args(given)
    verbose = getattr(args, "verbose", False)
    _start_logging(logging.INFO if verbose else logging.WARNING)
    try:
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            settings = load_settings(getattr(args, "root", None))
            if getattr(args, "allow_degraded", False):
                settings = settings.replace(on_missing_weights="degrade")
            outcome: Outcome = args.command(args, settings)
        if args.json:
            print(_to_json(outcome.fields, outcome.failure))
        else:
            outcome.show()
    except Exception:
        if verbose:
            logging.getLogger("curation_features").exception("The command failed")
        raise
    return outcome.failure


def _to_json(fields: Mapping[str, Any], failure: BaseException | None) -> str:
    """The output of `--json`: one line of ASCII."""
    error = {}
    if failure is not None:
        kind, code = failure_kind(failure)
        error = {"error": {"kind": kind, "message": _describe(failure), "exit_code": code}}
    return json.dumps({**fields, **error}, default=str)


def _describe(failure: BaseException) -> str:
    """An error message with its remedy."""
    if isinstance(failure, CurationError):
        return str(failure)
    if isinstance(failure, KeyboardInterrupt):
        return str(failure) or "interrupted; run the same command again to continue"
    if isinstance(failure, MemoryError):
        return "out of memory; close other programs, or set a smaller batch_size or fewer workers"
    if isinstance(failure, OSError):
        return f"{failure}; check that file, device or connection, and run again (-v shows a traceback)"
    error = f"{type(failure).__name__}: {failure}"
    return f"an unexpected error ({error}); this is a defect: run again with -v and report the output"


def _silence_closed_pipes() -> bool:
    """Redirect standard output and error to /dev/null if they are closed pipes; returns whether one was."""
    is_closed = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # no `poll`, or the stream is not a file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
                is_closed = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return is_closed


class _Log(logging.Handler):
    """Writes to the current `sys.stderr`, which a progress bar replaces. Tracebacks are only written with `-v`."""

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
    for handler in logging.getLogger().handlers:  # Dagster overwrites the level of the package's logger
        handler.setLevel(level)
    if level <= logging.INFO:
        logging.getLogger("curation_features").setLevel(level)


def parser() -> Parser:
    """The parser of all commands."""
    codes = "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
    main_parser = Parser(
        prog="curation-features",
        description="Turn batches of photos into CLIP labels and technical quality scores.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    global_options(main_parser)
    main_parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = main_parser.add_subparsers(title="commands", required=True, metavar=COMMAND)
    modules = (ingest, watch, shards, batches, reports, searches, library, lifecycle, gather, groups, backfills)
    for module in (*modules, vocabularies, flags, weights, caches, configuration):
        module.register(commands)
    return main_parser
