"""Groups the photos of all batches, and lists the groups: `groups`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from curation_features.cli.command import Outcome, declare
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import FOLD, LEFT, RIGHT, console, count_of, groups_line, make_table, progress, say
from curation_features.errors import InputError, StoreError
from curation_features.settings import Settings, expand_home, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from curation_features.library import LibraryGroups, ListedGroup

_ROWS = 40  # groups on the terminal

FIELDS = {
    "batches": "number of finished batches",
    "photos": "number of distinct photos",
    "grouped": "number of those that are in a group",
    "compared": "number of photos that were added or changed, and compared with all others",
    "changed": "whether a group has changed",
    "counts": "{copy | burst | set: number of groups}",
    "groups": "[{id, kind, what, size, similarity, "
    "photos: [{photo_id, path, batches, rank, copy_of, copy_of_path, reason}]}]",
    "failed": "{batch_id: message}: batches with a damaged table, which were skipped",
    "file": "the table of the groups",
    "seconds": "duration",
}


def register(commands: Any) -> None:
    """Declare the command of this module."""
    command = declare(commands, "groups", groups, "curation-features groups trip", FIELDS)
    which = f"{BATCH_HELP}: list only groups with a photo of it (default: all groups)"
    command.add_argument("batches", nargs="*", type=expand_home, metavar="BATCH", help=which)
    command.add_argument("--kind", choices=("copy", "burst", "set"), help="list only groups of this kind")


def groups(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Find copies, bursts and sets among the photos of all batches, and list them; deletes nothing."""
    from curation_features.library import list_groups, update_groups
    from curation_features.storage.artifacts import ArtifactStore

    finished = ArtifactStore(settings.data_path).finished_batch_ids()
    chosen = [batch_id_of(given, settings) for given in args.batches]
    for batch_id in chosen:
        if batch_id not in finished:
            remedy = nearest(Path(batch_id).stem, finished) or "; to process it: curation-features process MANIFEST"
            raise InputError(
                f"batch {batch_id!r} has no finished features in {settings.data_path / 'features'}{remedy}"
            )
    if not finished:
        raise InputError(
            f"{settings.data_path / 'features'}: has no finished batch: curation-features process MANIFEST"
        )
    start = time.monotonic()
    made = update_groups(settings, _reading)
    found = [group for group in list_groups(settings.data_path, chosen) if args.kind in (None, group.kind)]
    fields = {
        **{name: getattr(made, name) for name in ("batches", "photos", "grouped", "compared")},
        "changed": made.is_new,
        "counts": dict(made.groups),
        "groups": [asdict(group) for group in found],
        "failed": dict(made.failed),
        "file": made.path,
        "seconds": round(time.monotonic() - start, 3),
    }
    failure = StoreError(f"skipped, as they cannot be read: {', '.join(made.failed)}") if made.failed else None
    return Outcome(fields, partial(_show, made, found, fields), failure)


@contextmanager
def _reading(total: int) -> Iterator[Callable[[int], object]]:
    with progress("reading", total, unit="batches") as bar:
        yield bar.advance


def _show(made: LibraryGroups, found: Sequence[ListedGroup], fields: Mapping[str, Any]) -> None:
    shown = sorted(found, key=lambda group: -group.size)[:_ROWS]
    rows = [_row(group) for group in sorted(shown, key=found.index)]
    if rows:
        columns = {"kind": LEFT, "photos": RIGHT, "alike": RIGHT, "best": FOLD, "why": FOLD}
        console().print(make_table(columns, rows))
    if len(found) > len(shown):
        say(f"and {len(found) - len(shown):,} smaller ones; --json lists all", style="dim")
    photos = f"{count_of(made.photos, 'photo')} of {'1 batch' if made.batches == 1 else f'{made.batches:,} batches'}"
    say(f"{groups_line(fields['counts']) or 'no groups'}: {made.grouped:,} of {photos}", style="bold")
    compared = f"{count_of(made.compared, 'photo')} added or changed" if made.compared else "nothing has changed"
    say(f"{compared}; {fields['seconds']:.1f} s")
    say(str(made.path))


def _row(group: ListedGroup) -> tuple[str | Text, ...]:
    """A group: its kind, its best photo, and why it is the best; in a set all photos stay."""
    best = [photo for photo in group.photos if photo.rank == 1 and photo.copy_of is None]
    if group.kind == "set":
        name, why = f"{group.photos[0].path} ...", "all are kept"
    elif len(best) > 1:
        name, why = f"{best[0].path} or {len(best) - 1} more", best[0].reason
    else:
        name, why = group.photos[0].path, group.photos[0].reason
    kind = f"{group.kind}: {group.what}" if group.what else group.kind
    return Text(kind), str(group.size), f"{group.similarity:.2f}", name, why
