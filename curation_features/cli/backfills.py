"""The command `backfill`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, declare
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import complain, progress, say
from curation_features.errors import CurationError, StoreError
from curation_features.schema import ASSETS, LABEL_ASSETS
from curation_features.settings import Settings, expand_home, nearest

if TYPE_CHECKING:
    from curation_features.events.outbox import LatestEvents
    from curation_features.storage.artifacts import ArtifactStore

FIELDS = {
    "backfill_id": "id of the backfill in Dagster",
    "url": "address of its page in the browser",
    "batches": "number of requested batches",
    "assets": "requested assets of each batch",
    "made": "number of materialized pairs of batch and asset",
    "failed": "number of failed pairs",
    "not_made": "ids of the batches that lack an asset",
    "not_covered": "ids of batches in the data folder that this Dagster does not have",
}


def register(commands: Any) -> None:
    """Declare the command."""
    command = declare(commands, "backfill", backfill, "curation-features backfill --assets labels", FIELDS)
    command.add_argument("batches", nargs="*", type=expand_home, metavar="BATCH", help=f"{BATCH_HELP} (default: all)")
    command.add_argument(
        "--assets",
        type=_parse_assets,
        default=ASSETS,
        metavar="NAMES",
        help=f"comma-separated, of {', '.join(ASSETS)}; or 'labels' for those that depend on labels (default: all)",
    )
    command.add_argument(
        "--retry-failed",
        action="store_true",
        help="only photos that failed for a transient reason, and their batches",
    )
    command.add_argument(
        "--url", default="http://127.0.0.1:3000", help="address of Dagster's webserver (default: %(default)s)"
    )


def _parse_assets(text: str) -> tuple[str, ...]:
    names = LABEL_ASSETS if text == "labels" else tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ASSETS]:
        hint = nearest(unknown[0], ("labels", *ASSETS))
        raise argparse.ArgumentTypeError(f"no such asset: {', '.join(unknown)}{hint}")
    return names


def backfill(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Recompute batches in a running Dagster, with the current labels and settings."""
    from curation_features.events.outbox import LatestEvents
    from curation_features.orchestration.backfill import RETRY_FAILED, DagsterServer
    from curation_features.storage.artifacts import ArtifactStore

    server = DagsterServer(args.url)
    server.reload()
    server.check_daemon()
    store = ArtifactStore(settings.data_path)
    _adopt(store, settings)
    known = server.batch_ids()
    not_covered = sorted({*store.batch_ids(), *store.finished_batch_ids()} - set(known))
    if not_covered:
        complain(
            f"{_shorten(not_covered)}: not covered, because the Dagster at {args.url} does not have these batches of "
            f"{settings.data_path}; process or submit their manifests in its project"
        )
    batch_ids = list(dict.fromkeys(batch_id_of(given, settings) for given in args.batches)) or known
    fields: dict[str, Any] = {**dict.fromkeys(FIELDS), "assets": args.assets, "not_covered": not_covered}
    if args.retry_failed:
        latest = LatestEvents(settings.data_path)
        batch_ids = [batch_id for batch_id in batch_ids if _needs_retry(batch_id, store, latest)]
        if not batch_ids:
            fields |= {"batches": 0, "made": 0, "failed": 0, "not_made": []}
            return Outcome(fields, partial(say, "no batch has photos to retry"))
    backfill_id = server.launch(batch_ids, args.assets, {RETRY_FAILED: "true"} if args.retry_failed else None)
    page = server.page(backfill_id)
    say(f"{len(batch_ids)} batches: {page}")
    wanted = len(batch_ids) * len(args.assets)
    try:
        with progress("making", wanted, unit="assets") as bar:
            status = server.wait(backfill_id, bar.advance)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the backfill continues in Dagster: {page}") from None
    missing = [] if status.made == wanted else server.not_made(batch_ids, args.assets, status.launched)
    error = None if status.made == wanted else CurationError(f"not made: {_shorten(missing)}")
    fields |= {"backfill_id": backfill_id, "url": page, "batches": len(batch_ids)}
    fields |= {"made": status.made, "failed": status.failed, "not_made": missing}
    summary = f"{status.made} made, {status.failed} failed, of {len(batch_ids)} batches x {len(args.assets)} assets"
    return Outcome(fields, partial(say, summary), error)


def _adopt(store: ArtifactStore, settings: Settings) -> None:
    """Report batches processed without Dagster to the project's instance, if it exists."""
    from curation_features.storage.adoptions import Adoptions

    waiting = Adoptions(settings.data_path).waiting()
    if not waiting:  # Dagster, which takes a second to import, is not needed
        return
    from curation_features.orchestration.resources import dagster_home

    if not (dagster_home(settings) / "dagster.yaml").exists():
        return
    from curation_features.orchestration.adoption import adopt_pending
    from curation_features.orchestration.assets import SPECS
    from curation_features.orchestration.launch import project_instance

    try:
        with project_instance(settings) as instance:
            adopt_pending(store, instance, SPECS, limit=len(waiting))
    except StoreError as error:  # the command lists the batches that are not covered
        complain(str(error))


def _needs_retry(batch_id: str, store: ArtifactStore, latest: LatestEvents) -> bool:
    """Whether a batch is unfinished or has photos that failed for a transient reason."""
    event = latest.get(batch_id)
    if event is None or event["data"].get("manifest") != store.accepted_digest(batch_id):
        return True
    return bool(event["data"].get("retryable"))


def _shorten(batch_ids: Sequence[str]) -> str:
    more = f" and {len(batch_ids) - 10} more" if len(batch_ids) > 10 else ""
    return f"{', '.join(batch_ids[:10])}{more}"
