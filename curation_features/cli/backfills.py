"""The command `backfill`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from curation_features.cli.command import Interrupted, Outcome, declare
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import progress, say
from curation_features.errors import CurationError
from curation_features.settings import Settings, nearest

ASSETS = ("label_embeddings", "technical_metrics", "image_embeddings", "clip_labels", "features")
LABEL_ASSETS = ("label_embeddings", "clip_labels", "features")
FIELDS = {
    "backfill_id": "id of the backfill in Dagster",
    "url": "where the browser shows it",
    "batches": "how many batches were asked for",
    "assets": "the assets that were asked for of each",
    "made": "how many of batches x assets are made",
    "failed": "how many failed",
    "not_made": "ids of the batches that lack one",
}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    command = declare(commands, "backfill", backfill, "curation-features backfill --assets labels", FIELDS)
    command.add_argument("batches", nargs="*", metavar="BATCH", help=f"{BATCH_HELP} (default: all)")
    command.add_argument(
        "--assets",
        type=_assets,
        default=ASSETS,
        metavar="NAMES",
        help=f"separated by commas, of {', '.join(ASSETS)}; or 'labels' for those that labels change (default: all)",
    )
    command.add_argument("--url", default="http://127.0.0.1:3000", help="of Dagster's webserver (default: %(default)s)")


def _assets(text: str) -> tuple[str, ...]:
    names = LABEL_ASSETS if text == "labels" else tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ASSETS]:
        hint = nearest(unknown[0], ("labels", *ASSETS))
        raise argparse.ArgumentTypeError(f"no such asset: {', '.join(unknown)}{hint}")
    return names


def backfill(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make batches anew in a running Dagster, with the labels and settings as they are now."""
    from curation_features.orchestration.backfill import DagsterServer

    server = DagsterServer(args.url)
    server.reload()
    server.check_daemon()
    batch_ids = list(dict.fromkeys(batch_id_of(given, settings) for given in args.batches)) or server.batch_ids()
    backfill_id = server.launch(batch_ids, args.assets)
    page = server.page(backfill_id)
    say(f"{len(batch_ids)} batches: {page}")
    wanted = len(batch_ids) * len(args.assets)
    try:
        with progress("making", wanted, unit="assets") as bar:
            status = server.wait(backfill_id, bar.advance)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the backfill goes on in Dagster: {page}") from None
    missing = [] if status.made == wanted else server.not_made(batch_ids, args.assets, status.launched)
    fields = {
        "backfill_id": backfill_id,
        "url": page,
        "batches": len(batch_ids),
        "assets": args.assets,
        "made": status.made,
        "failed": status.failed,
        "not_made": missing,
    }
    told = f"{status.made} made, {status.failed} failed, of {len(batch_ids)} batches x {len(args.assets)} assets"
    return Outcome(fields, partial(say, told), None if status.made == wanted else _not_made(missing))


def _not_made(batch_ids: Sequence[str]) -> CurationError:
    more = f" and {len(batch_ids) - 10} more" if len(batch_ids) > 10 else ""
    return CurationError(f"not made: {', '.join(batch_ids[:10])}{more}")
