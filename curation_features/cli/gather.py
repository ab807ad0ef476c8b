"""Makes one dataset of many batches: `gather`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, declare, parse_path, parse_positive
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import count_of, progress, say, size
from curation_features.errors import StoreError
from curation_features.photos.reader import is_remote
from curation_features.schema import DATASET_LAYOUTS
from curation_features.settings import Settings, expand_home

if TYPE_CHECKING:
    from curation_features.dataset import Gathered, Plan

_NAMED = 5  # batches in a line

FIELDS = {
    "output": "the dataset: a folder, a file, or a URI",
    "rows": "number of rows",
    "batches": "{batch_id: rows}",
    "embeddings": "number of image embeddings; null without --embeddings",
    "dimension": "numbers of an embedding; null without --embeddings",
    "versions": "{technical | clip | signals | groups | embedding: {version: rows}}: which results are mixed",
    "other_versions": "{version: batches}: embeddings left out by --version",
    "copies": "rows left out by --distinct",
    "unfinished": "batches without features, which were skipped",
    "failed": "{batch_id: message}: batches with a damaged table, which were skipped",
    "files": "number of files",
    "bytes": "their size",
    "unchanged": "whether the dataset was up to date, and nothing was written",
    "seconds": "duration",
}


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "gather", gather, "curation-features gather photos --embeddings", FIELDS)
    output = (
        "a folder, one file that ends with .parquet, or a folder in an object store: s3://bucket/photos. A dataset "
        "of `gather` there is replaced, nothing else"
    )
    command.add_argument("output", type=_parse_output, metavar="OUTPUT", help=output)
    which = f"{BATCH_HELP} (default: all finished batches)"
    command.add_argument("batches", nargs="*", type=expand_home, metavar="BATCH", help=which)
    layout = "parquet; or huggingface: with a dataset card, for datasets.load_dataset (default: %(default)s)"
    command.add_argument("--layout", choices=DATASET_LAYOUTS, default="parquet", help=layout)
    command.add_argument("--embeddings", action="store_true", help="write the image embeddings as a second table")
    command.add_argument("--float16", action="store_true", help="with --embeddings: in half precision, half the size")
    version = "with --embeddings: only those of this version"
    command.add_argument("--version", metavar="VERSION", help=version)
    mixed = "with --embeddings: allow several versions, which cannot be compared with each other"
    command.add_argument("--mixed", action="store_true", help=mixed)
    distinct = "keep one row of photos with the same bytes: that of the first batch by id"
    command.add_argument("--distinct", action="store_true", help=distinct)
    without = "leave out a column, such as `artifact`, which has all EXIF with positions; may be repeated"
    command.add_argument("--without", action="append", default=[], metavar="COLUMN", help=without)
    rows, most = "most rows of a file (default: 1,000,000)", "most megabytes of a file (default: 500)"
    command.add_argument("--rows-per-file", type=parse_positive, metavar="N", help=rows)
    command.add_argument("--mb-per-file", type=parse_positive, metavar="N", help=most)


def _parse_output(text: str) -> Path | str:
    """A path, or the URI of a folder in an object store."""
    return text if is_remote(text) else parse_path(text)


def gather(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make one dataset of all finished batches, or of some: a folder of Parquet files, or one file."""
    from curation_features.dataset import BYTES_PER_FILE, ROWS_PER_FILE, Options, gather_planned, plan_dataset

    options = Options(
        layout=args.layout,
        embeddings=args.embeddings,
        float16=args.float16,
        version=args.version,
        mixed=args.mixed,
        distinct=args.distinct,
        without=tuple(args.without),
        rows_per_file=args.rows_per_file or ROWS_PER_FILE,
        bytes_per_file=args.mb_per_file * 1_000_000 if args.mb_per_file else BYTES_PER_FILE,
    )
    start = time.monotonic()
    plan = plan_dataset(settings, [batch_id_of(given, settings) for given in args.batches], options)
    gathered = gather_planned(plan, args.output, _read, _write)
    seconds = round(time.monotonic() - start, 3)
    fields = {**{name: getattr(gathered, name) for name in FIELDS if name != "seconds"}, "seconds": seconds}
    failure = StoreError("\n".join(gathered.failed.values())) if gathered.failed else None
    return Outcome(fields, partial(_show, gathered, args.output, seconds), failure)


def _read(plan: Plan) -> None:
    with progress("reading tables", len(plan.batch_ids), unit="batches") as bar:
        plan.read(bar.advance)


def _write(plan: Plan, output: Path) -> dict[str, Any]:
    from curation_features.dataset import write_dataset

    with progress("gathering", plan.rows) as bar:
        return write_dataset(plan, output, bar.advance)


def _show(gathered: Gathered, output: Path | str, seconds: float) -> None:
    for part, versions in gathered.versions.items():
        if len(versions) > 1:
            counts = ", ".join(f"{version} ({count_of(rows, 'row')})" for version, rows in versions.items())
            say(f"{len(versions)} versions of {_RESULTS[part]}: {counts}; compare only rows of one version", "yellow")
    for version, batches in gathered.other_versions.items():
        say(f"left out: embeddings of version {version}, of {_batches(batches)}", "yellow")
    if gathered.unfinished:
        say(f"skipped: {_names(gathered.unfinished)}: not finished", "yellow")
    if gathered.failed:
        say(f"skipped: {_names(tuple(gathered.failed))}: damaged", "yellow")
    if gathered.copies:
        say(f"left out: {count_of(gathered.copies, 'row')} of photos that an earlier row has")
    vectors = "" if gathered.embeddings is None else _embeddings(gathered)
    files = f"{count_of(gathered.files, 'file')}, {size(gathered.bytes)}"
    done = "nothing has changed" if gathered.unchanged else f"{seconds:.1f} s"
    rows = f"{count_of(gathered.rows, 'row')} of {_batches(len(gathered.batches))}"
    say(f"{output}: {rows}{vectors}; {files}; {done}", style="bold")


_RESULTS: Mapping[str, str] = {
    "technical": "technical scores",
    "clip": "labels",
    "signals": "signals",
    "groups": "groups",
    "embedding": "embeddings",
}


def _embeddings(gathered: Gathered) -> str:
    return f", {count_of(gathered.embeddings or 0, 'embedding')} of {gathered.dimension} numbers"


def _batches(count: int) -> str:
    return "1 batch" if count == 1 else f"{count:,} batches"


def _names(batch_ids: tuple[str, ...]) -> str:
    others = len(batch_ids) - _NAMED
    return f"{', '.join(batch_ids[:_NAMED])}{f' and {others:,} others' if others > 0 else ''}"
