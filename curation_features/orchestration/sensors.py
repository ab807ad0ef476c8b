"""Sensors: take submitted manifests, fail dead runs, deliver pending events."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg

from curation_features.errors import ManifestError, StoreError
from curation_features.events.outbox import LatestEvents
from curation_features.inbox.folders import Cursor, Delivery, Inbox, InboxProblem, TickResult
from curation_features.manifest import Batch
from curation_features.orchestration.adoption import adopt_pending, observation
from curation_features.orchestration.assets import SPECS, Events, Store
from curation_features.orchestration.checks import quarantine_evaluation
from curation_features.orchestration.jobs import extract_features
from curation_features.orchestration.launch import manifest_tags
from curation_features.orchestration.liveness import fail_dead_runs
from curation_features.orchestration.partitions import BATCHES
from curation_features.orchestration.pool import limit_pool
from curation_features.storage.artifacts import ArtifactStore

Incoming = dg.ResourceParam[Inbox]

_EMPTY_QUARANTINE = hashlib.sha256(b"").hexdigest()[:16]
_UNFINISHED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dg.sensor(
    job=extract_features,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="""Takes manifests from `data/incoming/`: each becomes a partition, an observation of the asset
`preprocess_batches`, and one run of the job `extract_features`.

A half-written file waits; an invalid one moves to `data/quarantine/`, with a reason file. A repeated manifest starts no
second run, unless its last run failed or photos failed for a transient reason; a changed one starts one new run.
A batch that `process` finished becomes a partition, too.""",
)
def preprocess_outputs(
    context: dg.SensorEvaluationContext, incoming: Incoming, store: Store, events: Events
) -> dg.SensorResult:
    """Take new manifests, and report batches that were processed without Dagster."""
    adopted = adopt_pending(store, context.instance, SPECS)
    last = _load_cursor(context.cursor)
    result = incoming.take(Cursor.loads(last.get("intake")))
    _log(context, result)
    arrivals, failed = _accept_arrivals(context, result.deliveries, incoming, store, events.latest)
    for token in failed:  # these are delivered again
        del result.cursor.handed_over[token]
    quarantine = incoming.quarantined()
    digest = hashlib.sha256("/".join(quarantine).encode()).hexdigest()[:16]
    is_changed = digest != last.get("quarantine", _EMPTY_QUARANTINE)
    evaluations = [quarantine_evaluation(quarantine, incoming)] if is_changed else []
    cursor = json.dumps({"intake": result.cursor.dumps(), "quarantine": digest})
    if not arrivals:
        return dg.SensorResult(
            skip_reason=_describe_skip(result, failed, adopted), asset_events=evaluations, cursor=cursor
        )
    limit_pool(context.instance)
    return dg.SensorResult(
        dynamic_partitions_requests=[BATCHES.build_add_request([arrival.batch.batch_id for arrival in arrivals])],
        asset_events=[*(observation(arrival.batch) for arrival in arrivals), *evaluations],
        run_requests=[_run_request(arrival) for arrival in arrivals],
        cursor=cursor,
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fails runs whose process died, as after a restart of the machine; they are retried.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Fail started runs whose process died."""
    suspects = _load_cursor(context.cursor).get("suspects", [])
    dead, suspects = fail_dead_runs(context.instance, suspects)
    message = f"marked as failed: {', '.join(dead)}" if dead else "all started runs are alive"
    return dg.SensorResult(skip_reason=message, cursor=json.dumps({"suspects": suspects}))


def event_delivery(running: bool) -> dg.SensorDefinition:
    """Build the sensor that delivers pending events; `running`: on by default."""

    @dg.sensor(
        name="event_delivery",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Delivers pending events to the webhook, in order, until it accepts them.",
    )
    def deliver(context: dg.SensorEvaluationContext, events: Events) -> dg.SkipReason:
        flushed = events.flush(force=True)
        problem = f": {flushed.problem}" if flushed.problem else ""
        return dg.SkipReason(f"{flushed.delivered} delivered, {flushed.pending} pending{problem}")

    return deliver


def _accept_arrivals(
    context: dg.SensorEvaluationContext,
    deliveries: Sequence[Delivery],
    incoming: Inbox,
    store: ArtifactStore,
    latest: LatestEvents,
) -> tuple[list[Delivery], set[str]]:
    """Accept the newest manifest of each batch.

    Returns:
        The deliveries that need a run, and the tokens of those that must be retried.
    """
    newest = {delivery.batch.batch_id: delivery for delivery in deliveries}
    arrivals, failed = [], set()
    for delivery in newest.values():
        try:
            arrival = _accept(context, delivery, incoming, store, latest)
        except (StoreError, OSError) as error:
            context.log.error("Not accepted, retried at the next tick: %s: %s", delivery.name, error)
            failed.add(delivery.token)
        else:
            arrivals += [arrival] if arrival else []
    return arrivals, failed


def _accept(
    context: dg.SensorEvaluationContext, delivery: Delivery, incoming: Inbox, store: ArtifactStore, latest: LatestEvents
) -> Delivery | None:
    """Accept a manifest and return its delivery if the batch is new, changed or unfinished; else None.

    A manifest with an unacceptable id moves to quarantine.
    """
    batch = delivery.batch
    try:
        store.check_batch_id(batch.batch_id)
    except ManifestError as error:
        _log_rejection(context, incoming.reject(delivery, error))
        return None
    runs = context.instance.get_runs(dg.RunsFilter(tags=manifest_tags(batch)), limit=1)
    # A run that was created and never submitted has this run key, and Dagster submits it.
    if runs and runs[0].status is not dg.DagsterRunStatus.NOT_STARTED and not delivery.again:
        is_unfinished = runs[0].status in _UNFINISHED or _has_retryable_photos(batch, latest)
        if not is_unfinished and store.accepted_digest(batch.batch_id) == batch.digest:
            return None
        # The run key of this manifest is used up. The file name keeps that fact, so that a crash between here and the
        # launch neither loses the batch nor launches it twice.
        delivery = incoming.mark_again(delivery)
    store.put_manifest(batch)
    return delivery


def _has_retryable_photos(batch: Batch, latest: LatestEvents) -> bool:
    """Whether photos of exactly this manifest failed for a transient reason."""
    event = latest.get(batch.batch_id)
    return event is not None and event["data"].get("manifest") == batch.digest and bool(event["data"].get("retryable"))


def _load_cursor(cursor: str | None) -> dict[str, Any]:
    """A cursor of these sensors; empty if it is missing or damaged."""
    try:
        values = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _run_request(delivery: Delivery) -> dg.RunRequest:
    batch = delivery.batch
    key = f"{batch.batch_id}:{batch.digest[:16]}" + (f":{delivery.token}" if delivery.again else "")
    return dg.RunRequest(run_key=key, partition_key=batch.batch_id, tags=manifest_tags(batch))


def _log(context: dg.SensorEvaluationContext, result: TickResult) -> None:
    for rejection in result.rejections:
        _log_rejection(context, rejection)
    for problem in result.problems:
        context.log.error("Not taken, retried at the next tick: %s", problem)
    if result.has_more:
        context.log.info("More manifests are waiting; the next tick takes them")


def _log_rejection(context: dg.SensorEvaluationContext, rejection: InboxProblem) -> None:
    context.log.warning("Quarantined: %s: %s", rejection.name, rejection.reason)


def _describe_skip(result: TickResult, failed: Collection[str], adopted: Sequence[str]) -> str:
    """The reason why a tick launches no run."""
    known = {delivery.batch.batch_id for delivery in result.deliveries if delivery.token not in failed}
    names = {
        "unchanged": sorted(known),
        "processed without Dagster, now added": adopted,
        "quarantined": [rejection.name for rejection in result.rejections],
        "still being written": result.incomplete,
        "cannot be taken": [
            *map(str, result.problems),
            *(delivery.name for delivery in result.deliveries if delivery.token in failed),
        ],
    }
    return "; ".join(
        ["no new or changed manifests", *(f"{kind}: {_shorten(values)}" for kind, values in names.items() if values)]
    )


def _shorten(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
