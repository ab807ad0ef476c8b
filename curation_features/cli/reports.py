"""The command `report`: the contact sheet of a finished batch."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.atomic_files import file_digest
from curation_features.cli.command import Outcome, check_output, declare
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import complain, progress, say
from curation_features.errors import InputError
from curation_features.settings import Settings, nearest

if TYPE_CHECKING:
    from curation_features.storage.artifacts import ArtifactStore


FIELDS = {"batch_id": "id of the batch", "artifacts": "how many it has", "files": "{page}: what was written"}


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "report", report, "curation-features report trip --open", FIELDS)
    command.add_argument("batch", metavar="BATCH", help=f"{BATCH_HELP}; it must be finished")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="write the page here (default: data/features/BATCH.html)"
    )
    command.add_argument("--open", action="store_true", help="show it in the system's browser")


def report(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make the contact sheet of a finished batch: one page with its photos, labels and scores."""
    from curation_features.report.sheet import photo_count, sheet_path, write_sheet
    from curation_features.storage.artifacts import ArtifactStore

    store = ArtifactStore(settings.data_path)
    batch_id = batch_id_of(args.batch, settings)
    json_path, table_path = _finished(store, batch_id)
    page = args.output or sheet_path(table_path)
    check_output(page)
    photos = photo_count(table_path)
    # Beside the features no run may replace them meanwhile; elsewhere, the data folder need not be one to write to.
    alone = nullcontext() if args.output else store.exclusive(batch_id)
    with alone, progress("making the page", photos) as bar:
        write_sheet(page, table_path, file_digest(json_path), settings, bar.advance)
    if args.open:
        _show(page)
    fields = {"batch_id": batch_id, "artifacts": photos, "files": {"page": page}}
    return Outcome(fields, partial(say, str(page)))


def _finished(store: ArtifactStore, batch_id: str) -> tuple[Path, Path]:
    """The JSON file and the table of a batch. Raises `InputError`: it was never finished; says what to do."""
    finished = store.finished_batch_ids()
    if batch_id in finished:
        return store.feature_paths(batch_id)
    remedy = nearest(Path(batch_id).stem, finished) or "; to make them: curation-features process MANIFEST"
    folder = store.data_path / "features"
    raise InputError(f"there are no finished features of batch {batch_id!r} in {folder}{remedy}")


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        complain(f"no browser was found; open {page} in one")
