"""Searches the photos of all batches: `search`."""

from __future__ import annotations

import argparse
import os
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, UsageError, check_output, declare, parse_path
from curation_features.cli.manifests import batch_id_of
from curation_features.cli.terminal import FOLD, LEFT, RIGHT, complain, console, count_of, make_table, progress, say
from curation_features.errors import PhotoError
from curation_features.settings import Settings, expand_home
from curation_features.text import printable

if TYPE_CHECKING:
    from curation_features.search.finding import Found, Hit

FIELDS = {
    "hits": "[{batch_id, photo_id, sha256, path, cosine, standard, copies}], the best first; without words no scores",
    "likely": "number of hits that are likely to match; null: too few photos for an estimate",
    "searched": "number of photos that were compared; one in two batches counts twice",
    "other_versions": "number of photos that only have vectors of another model or version",
    "files": "{page}: the contact sheet, with --open or --output",
    "seconds": "duration",
}


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "search", search, "curation-features search 'two parrots' --open", FIELDS)
    command.add_argument("texts", nargs="*", metavar="WORDS", help="words; with a weight: '2:golden hour'")
    like = "a picture, or the id of a photo; also with a weight; may be repeated"
    command.add_argument("--like", action="append", default=[], type=expand_home, metavar="FILE", help=like)
    without = "words that results shall not match; may be repeated"
    command.add_argument("--not", action="append", default=[], dest="without", metavar="WORDS", help=without)
    where = "an SQL condition on the columns of the tables, also alone: \"blur_px < 0.6 AND camera = 'X100'\""
    command.add_argument("--where", metavar="SQL", help=where)
    batch = "search only this batch; may be repeated"
    command.add_argument("--batch", action="append", default=[], type=expand_home, metavar="BATCH", help=batch)
    command.add_argument("--top", type=_parse_count, default=50, metavar="N", help="largest number of results (50)")
    everything = "also results below the line, which are less likely"
    command.add_argument("--all", action="store_true", help=everything)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--paths", action="store_true", help="print only paths, one per line, for xargs")
    form.add_argument("--open", action="store_true", help="show a contact sheet in the system's browser")
    output = "write the contact sheet here (with --open default: data/search.html)"
    command.add_argument("--output", type=parse_path, metavar="FILE", help=output)


def _parse_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 100,000, not {text!r}")
    return int(text)


def search(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Find photos by words, by example and by numbers, in all batches; copies are folded."""
    from curation_features.search.finding import Finder

    start = time.monotonic()
    batches = [batch_id_of(given, settings) for given in args.batch]
    if args.where and not (args.texts or args.like or args.without):
        return _filter(args, settings, batches, start)
    finder = Finder(settings, reading=_reading)
    found = finder.find(
        args.texts, like=args.like, without=args.without, where=args.where, batches=batches, top=args.top
    )
    files = _write_page(args, found, settings) if args.open or args.output else {}
    shown = found.hits if args.all or found.likely is None else found.hits[: found.likely]
    fields = {
        "hits": [asdict(hit) for hit in (found.hits if args.all else shown)],
        **{name: getattr(found, name) for name in ("likely", "searched", "other_versions")},
        "files": files,
        "seconds": round(time.monotonic() - start, 3),
    }
    paths = [hit.path for hit in shown]
    show = partial(_print_paths, paths, settings) if args.paths else partial(_show, found, shown, fields)
    return Outcome(fields, show)


def _filter(args: argparse.Namespace, settings: Settings, batches: Sequence[str], start: float) -> Outcome:
    """List the photos that meet a condition, the newest first."""
    from curation_features.search.tables import Tables

    if args.open or args.output:
        raise UsageError("a contact sheet needs words or a picture; curation-features library shows a filter alone")
    columns = ("batch_id", "photo_id", "sha256", "coalesce(original_uri, image_uri) AS path")
    with Tables(settings.data_path, batches) as tables:
        rows = tables.rows(columns, args.where, "taken DESC NULLS LAST, batch_id, position", args.top)
        found, searched = tables.count(args.where), tables.count()
    fields: dict[str, Any] = {
        "hits": [{**row, "cosine": None, "standard": None, "copies": None} for row in rows],
        **{"likely": None, "searched": searched, "other_versions": 0, "files": {}},
        "seconds": round(time.monotonic() - start, 3),
    }

    def show() -> None:
        shown = [(row["batch_id"], printable(row["path"], "\ufffd")) for row in rows]
        if shown:
            console().print(make_table({"batch": LEFT, "photo": FOLD}, shown))
        more = f"; --top shows more than {len(rows):,}" if found > len(rows) else ""
        say(f"{count_of(found, 'photo')} of {searched:,}{more}", style="bold")

    return Outcome(fields, partial(_print_paths, [row["path"] for row in rows], settings) if args.paths else show)


def _write_page(args: argparse.Namespace, found: Found, settings: Settings) -> Mapping[str, Path]:
    from curation_features.search.page import default_path, write_page

    page = args.output or default_path(settings)
    check_output(page)
    write_page(page, found, settings)
    if args.open and not webbrowser.open(page.absolute().as_uri()):
        complain(f"no browser was found; open {page} in one")
    return {"page": page}


@contextmanager
def _reading(total: int) -> Iterator[Callable[[int], object]]:
    with progress("indexing", total, unit="batches") as bar:
        yield bar.advance


def _print_paths(uris: Sequence[str], settings: Settings) -> None:
    """Print the path of each photo, exactly; a remote URI stays as it is."""
    from curation_features.photos.reader import is_remote, local_path

    for uri in uris:
        path = uri
        if not is_remote(uri):
            with suppress(PhotoError, ValueError):  # of another machine; on another drive
                path = os.path.relpath(settings.root / local_path(uri))
        if "\n" in path:
            complain(f"skipped, as its path has a line break: {path!r}")
            continue
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def _show(found: Found, shown: tuple[Hit, ...], fields: Mapping[str, Any]) -> None:
    if shown:
        columns = {"standard": RIGHT, "cosine": RIGHT, "copies": RIGHT, "batch": LEFT, "photo": FOLD}
        console().print(make_table(columns, [_row(hit) for hit in shown]))
    below = len(found.hits) - len(shown)
    if found.likely == 0:
        say("no photo clearly matches; --all shows the nearest ones", style="bold")
    elif found.likely is None:
        say(f"{count_of(len(shown), 'photo')}; too few photos were searched for a line below likely ones", style="bold")
    else:
        rest = f"; --all shows {below:,} less likely ones" if below else ""
        say(f"{count_of(found.likely, 'likely photo')}{rest}", style="bold")
    if found.other_versions:
        say(f"{count_of(found.other_versions, 'photo')} of another model or version not searched: process them again")
    say(f"{count_of(found.searched, 'photo')} searched; {fields['seconds']:.1f} s")
    for path in fields["files"].values():
        say(str(path))


def _row(hit: Hit) -> tuple[str, ...]:
    copies = f"+{hit.copies}" if hit.copies else ""
    return f"{hit.standard:.1f}", f"{hit.cosine:.3f}", copies, hit.batch_id, printable(hit.path, "\ufffd")
