"""The sensors: manifests come in, and events that a sink could not take go out."""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from curation_features.errors import ManifestError, StoreError
from curation_features.events.outbox import LatestEvents, Outbox
from curation_features.inbox.folders import Cursor, Delivery, IncomingFolders, Taken
from curation_features.manifest import Batch
from curation_features.orchestration.adoption import adopt_all, observation
from curation_features.orchestration.assets import SPECS
from curation_features.orchestration.checks import quarantine_evaluation
from curation_features.orchestration.jobs import extract_features
from curation_features.orchestration.launch import manifest_tags
from curation_features.orchestration.liveness import fail_dead_runs
from curation_features.orchestration.partitions import BATCHES
from curation_features.orchestration.pool import limit_pool
from curation_features.storage.artifacts import ArtifactStore

Incoming = dg.ResourceParam[IncomingFolders]
Store = dg.ResourceParam[ArtifactStore]
Events = dg.ResourceParam[Outbox]

_NOTHING = hashlib.sha256(b"").hexdigest()[:16]
_UNFINISHED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dg.sensor(
    job=extract_features,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="""Takes manifests out of `data/incoming/`: each becomes a partition, an observation of the asset
`preprocess_batches`, and one run of the job `extract_features`.

What is half-written waits; what can never be valid goes to `data/quarantine/`, with its reason beside it. The same
manifest again starts no second run, unless its last run failed or photos failed for a reason that may pass; a changed
one starts one new run. A batch that `process` finished becomes a partition, too.""",
)
def preprocess_outputs(
    context: dg.SensorEvaluationContext, incoming: Incoming, store: Store, events: Events
) -> dg.SensorResult:
    """One look at the incoming folders."""
    adopted = adopt_all(store, context.instance, SPECS)
    last = _loads(context.cursor)
    taken = incoming.take(Cursor.loads(last.get("intake")))
    _log(context, taken)
    arrivals, failed = _accepted_arrivals(context, taken.deliveries, incoming, store, events.latest)
    handed_over = {token: name for token, name in taken.cursor.handed_over.items() if token not in failed}
    quarantine = incoming.quarantined()
    seen = hashlib.sha256("/".join(quarantine).encode()).hexdigest()[:16]
    news = [] if seen == last.get("quarantine", _NOTHING) else [quarantine_evaluation(quarantine, incoming)]
    cursor = json.dumps({"intake": replace(taken.cursor, handed_over=handed_over).dumps(), "quarantine": seen})
    if not arrivals:
        return dg.SensorResult(skip_reason=_nothing_new(taken, failed, adopted), asset_events=news, cursor=cursor)
    limit_pool(context.instance)
    return dg.SensorResult(
        dynamic_partitions_requests=[BATCHES.build_add_request([arrival.batch.batch_id for arrival in arrivals])],
        asset_events=[*(observation(arrival.batch) for arrival in arrivals), *news],
        run_requests=[_run_request(arrival) for arrival in arrivals],
        cursor=cursor,
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs as failed whose process is gone, as after a restart of the machine. They are tried again.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One look at the runs that are under way."""
    suspects = _loads(context.cursor).get("suspects", [])
    dead, suspects = fail_dead_runs(context.instance, suspects)
    text = f"marked as failed: {', '.join(dead)}" if dead else "all runs under way are alive"
    return dg.SensorResult(skip_reason=text, cursor=json.dumps({"suspects": suspects}))


def event_delivery(running: bool) -> dg.SensorDefinition:
    """The sensor that delivers what waits for the webhook; `running` from the start, if there is one."""

    @dg.sensor(
        name="event_delivery",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Delivers the events that the webhook could not take, in order, until it takes them.",
    )
    def deliver(context: dg.SensorEvaluationContext, events: Events) -> dg.SkipReason:
        flushed = events.flush(force=True)
        problem = f": {flushed.problem}" if flushed.problem else ""
        return dg.SkipReason(f"{flushed.delivered} delivered, {flushed.pending} pending{problem}")

    return deliver


def _accepted_arrivals(
    context: dg.SensorEvaluationContext,
    deliveries: Sequence[Delivery],
    incoming: IncomingFolders,
    store: ArtifactStore,
    latest: LatestEvents,
) -> tuple[list[Delivery], set[str]]:
    """The deliveries that need a run, their manifests accepted; and the tokens of those that must be tried again.

    Of several versions of a batch the newest counts.
    """
    newest = {delivery.batch.batch_id: delivery for delivery in deliveries}
    arrivals, failed = [], set()
    for delivery in newest.values():
        try:
            store.check_batch_id(delivery.batch.batch_id)
            arrival = _arrival(delivery, context.instance, incoming, store, latest)
            if arrival is not None:
                store.put_manifest(arrival.batch)
                arrivals.append(arrival)
        except (ManifestError, StoreError, OSError) as error:
            if not _quarantined(delivery, error, incoming, context):
                context.log.error("Not accepted, and tried again at the next tick: %s: %s", delivery.name, error)
                failed.add(delivery.token)
    return arrivals, failed


def _quarantined(
    delivery: Delivery, error: Exception, incoming: IncomingFolders, context: dg.SensorEvaluationContext
) -> bool:
    """Move a manifest that can never be accepted to quarantine; False for other errors, or if it cannot be moved."""
    if not isinstance(error, ManifestError):
        return False
    try:
        rejection = incoming.reject(delivery, error)
    except OSError:
        return False
    context.log.warning("Quarantined: %s: %s", rejection.name, rejection.reason)
    return True


def _arrival(
    delivery: Delivery,
    instance: dg.DagsterInstance,
    incoming: IncomingFolders,
    store: ArtifactStore,
    latest: LatestEvents,
) -> Delivery | None:
    """The delivery, if it needs a run: its batch is new or changed, or the last run for it did not finish all of it."""
    batch = delivery.batch
    records = instance.get_run_records(dg.RunsFilter(tags=manifest_tags(batch)), limit=1)
    if delivery.again or not records or records[0].dagster_run.status is dg.DagsterRunStatus.NOT_STARTED:
        return delivery  # a run that was made and never submitted has this run key, and Dagster submits it
    unfinished = records[0].dagster_run.status in _UNFINISHED or _has_retryable_photos(batch, latest)
    if not unfinished and store.accepted_digest(batch.batch_id) == batch.digest:
        return None
    # The run key of this manifest is spent. What says so is kept in the file's name, so that a crash between here and
    # the launch neither forgets the batch nor launches it twice.
    return incoming.mark_again(delivery)


def _has_retryable_photos(batch: Batch, latest: LatestEvents) -> bool:
    """Whether photos of exactly this manifest failed for a reason that may pass."""
    event = latest.get(batch.batch_id)
    return event is not None and event["data"].get("manifest") == batch.digest and bool(event["data"].get("retryable"))


def _loads(cursor: str | None) -> dict[str, Any]:
    """A cursor of these sensors; empty where there is none, or where it is damaged."""
    try:
        values = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _run_request(delivery: Delivery) -> dg.RunRequest:
    batch = delivery.batch
    key = f"{batch.batch_id}:{batch.digest[:16]}"
    return dg.RunRequest(
        run_key=f"{key}:{delivery.token}" if delivery.again else key,
        partition_key=batch.batch_id,
        tags=manifest_tags(batch),
    )


def _log(context: dg.SensorEvaluationContext, taken: Taken) -> None:
    for rejection in taken.rejections:
        context.log.warning("Quarantined: %s: %s", rejection.name, rejection.reason)
    for trouble in taken.troubles:
        context.log.error("Left where it is: %s", trouble)
    if taken.more:
        context.log.info("More manifests are waiting; they are taken at the next tick")


def _nothing_new(taken: Taken, failed: Collection[str], adopted: Sequence[str]) -> str:
    """Why a tick launched nothing."""
    known = {delivery.batch.batch_id for delivery in taken.deliveries if delivery.token not in failed}
    told = {
        "as before": sorted(known),
        "made without Dagster, and known from now on": adopted,
        "quarantined": [rejection.name for rejection in taken.rejections],
        "still being written": taken.incomplete,
        "cannot be taken": [
            *(str(trouble) for trouble in taken.troubles),
            *(delivery.name for delivery in taken.deliveries if delivery.token in failed),
        ],
    }
    parts = [f"{what}: {_some(names)}" for what, names in told.items() if names]
    return "; ".join(["no new or changed manifests", *parts])


def _some(names: Iterable[str], shown: int = 5) -> str:
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")
