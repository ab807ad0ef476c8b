"""Shows all photos of all batches in a browser: `library`."""

from __future__ import annotations

import argparse
import time
import webbrowser
from functools import partial
from typing import Any

from curation_features.cli.command import Outcome, declare
from curation_features.cli.terminal import complain, say
from curation_features.errors import require_extra
from curation_features.settings import Settings

FIELDS = {"address": "the server's address, without its token", "seconds": "how long it ran"}
_PORTS = range(1, 2**16)


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "library", library, "curation-features library --open", FIELDS)
    command.add_argument("--open", action="store_true", help="show it in the system's browser")
    port = "port on this machine (default: the first free one of 8700 to 8719)"
    command.add_argument("--port", type=parse_port, metavar="N", help=port)


def library(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show all photos of all batches in one page, served on this machine only, until Ctrl+C."""
    require_extra("search")
    from curation_features.gallery.serving import serve
    from curation_features.search.finding import Finder

    start = time.monotonic()

    def ready(address: str, once: str) -> None:
        say(f"the library: {address}")
        say("Ctrl+C ends it; only this machine, with this address, can open it", style="dim")
        if args.open and not webbrowser.open(once):
            complain("no browser was found; open the address in one")

    address = serve(settings, partial(Finder, settings), args.port, ready)
    fields = {"address": address, "seconds": round(time.monotonic() - start, 3)}
    return Outcome(fields, partial(say, "the library is closed"))


def parse_port(text: str) -> int:
    """Parse the number of a port."""
    if not (text.isascii() and text.isdecimal() and int(text) in _PORTS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 1 to 65535")
    return int(text)
