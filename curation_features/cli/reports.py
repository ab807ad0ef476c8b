"""Makes the contact sheet of a finished batch: `report`."""

from __future__ import annotations

import argparse
import webbrowser
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from curation_features.atomic_files import file_digest
from curation_features.cli.command import Outcome, check_output, declare, parse_path
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import complain, progress, say
from curation_features.errors import InputError
from curation_features.settings import Settings, expand_home, nearest

FIELDS = {"batch_id": "id of the batch", "artifacts": "number of artifacts", "files": "{page}: the written file"}


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "report", report, "curation-features report trip --open", FIELDS)
    command.add_argument("batch", type=expand_home, metavar="BATCH", help=f"{BATCH_HELP}; it must be finished")
    output = "write the page here (default: data/features/BATCH.html)"
    command.add_argument("--output", type=parse_path, metavar="FILE", help=output)
    command.add_argument("--open", action="store_true", help="show it in the system's browser")


def report(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make the contact sheet of a finished batch: one page with its photos, labels and scores."""
    from curation_features.report.sheet import photo_count, sheet_path, write_sheet
    from curation_features.storage.artifacts import ArtifactStore

    store = ArtifactStore(settings.data_path)
    batch_id, finished = batch_id_of(args.batch, settings), store.finished_batch_ids()
    if batch_id not in finished:
        remedy = nearest(Path(batch_id).stem, finished) or "; to process it: curation-features process MANIFEST"
        raise InputError(f"batch {batch_id!r} has no finished features in {store.data_path / 'features'}{remedy}")
    json_path, table_path = store.feature_paths(batch_id)
    page = args.output or sheet_path(table_path)
    check_output(page)
    photos = photo_count(table_path)
    # Next to the features a run might replace them; for another place the data folder may be read-only.
    lock = nullcontext() if args.output else store.exclusive(batch_id)
    with lock, progress("making the page", photos) as bar:
        write_sheet(page, table_path, file_digest(json_path), settings, bar.advance)
    if args.open and not webbrowser.open(page.absolute().as_uri()):
        complain(f"no browser was found; open {page} in one")
    fields = {"batch_id": batch_id, "artifacts": photos, "files": {"page": page}}
    return Outcome(fields, partial(say, str(page)))
