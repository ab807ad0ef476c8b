"""The command `backfill`."""

from __future__ import annotations

import argparse
from typing import Any

from curation_features.cli.command import declare
from curation_features.cli.terminal import console, printable, progress
from curation_features.settings import Settings

ASSETS = ("label_embeddings", "technical_metrics", "image_embeddings", "clip_labels", "features")
LABEL_ASSETS = ("label_embeddings", "clip_labels", "features")


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    command = declare(commands, "backfill", backfill, "curation-features backfill --assets labels")
    command.add_argument("batches", nargs="*", metavar="BATCH", help="ids of batches (default: all)")
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
        raise argparse.ArgumentTypeError(f"no such asset: {', '.join(unknown)}")
    return names


def backfill(args: argparse.Namespace, settings: Settings) -> int:
    """Make batches anew in a running Dagster, with the labels and settings as they are now."""
    from curation_features.orchestration.backfill import DagsterServer

    server = DagsterServer(args.url)
    server.reload()
    server.check_daemon()
    batch_ids = list(dict.fromkeys(args.batches)) or server.batch_ids()
    backfill_id = server.launch(batch_ids, args.assets)
    terminal = console()
    terminal.print(f"{len(batch_ids)} batches: {server.page(backfill_id)}", markup=False, soft_wrap=True)
    try:
        with progress("Making", len(batch_ids) * len(args.assets)) as advance:
            status = server.wait(backfill_id, advance)
    except KeyboardInterrupt:
        terminal.print(f"the backfill goes on in Dagster: {server.page(backfill_id)}", markup=False, soft_wrap=True)
        return 130
    message = f"{status.made} made, {status.failed} failed, of {len(batch_ids)} batches x {len(args.assets)} assets"
    terminal.print(message, markup=False, soft_wrap=True)
    if status.made == len(batch_ids) * len(args.assets):
        return 0
    missing = server.not_made(batch_ids, args.assets, status.launched)
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    terminal.print(printable(f"not made: {', '.join(missing[:10])}{more}"), markup=False, soft_wrap=True)
    return 1
