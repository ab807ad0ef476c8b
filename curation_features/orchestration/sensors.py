"""The sensors: manifests come in, and events that a sink could not take go out."""

from collections.abc import Iterable, Sequence

import dagster as dg

from curation_features.errors import StoreError
from curation_features.events import Outbox
from curation_features.incoming import Cursor, Delivery, IncomingFolders, Taken
from curation_features.orchestration.checks import quarantined
from curation_features.orchestration.jobs import extract_features
from curation_features.orchestration.launch import manifest_tags, observation
from curation_features.orchestration.partitions import BATCHES
from curation_features.store import ArtifactStore

Incoming = dg.ResourceParam[IncomingFolders]
Store = dg.ResourceParam[ArtifactStore]
Events = dg.ResourceParam[Outbox]

_UNFINISHED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dg.sensor(
    job=extract_features,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="""Takes manifests out of `data/incoming/`: each becomes a partition, an observation and one run.

What is half-written waits; what can never be valid goes to `data/quarantine/`, with its reason beside it. The same
manifest again starts no second run, unless its last run failed; a changed one starts one new run.""",
)
def preprocess_outputs(context: dg.SensorEvaluationContext, incoming: Incoming, store: Store) -> dg.SensorResult:
    """One look at the incoming folders."""
    taken = incoming.take(Cursor.loads(context.cursor))
    _log(context, taken)
    arrivals = _arrivals(taken.deliveries, context.instance, incoming, store)
    for delivery in arrivals:
        store.put_manifest(delivery.batch)
    cursor = taken.cursor.dumps()
    if not arrivals and not taken.rejections:
        return dg.SensorResult(skip_reason=_nothing_new(taken), cursor=cursor)
    return dg.SensorResult(
        dynamic_partitions_requests=[BATCHES.build_add_request([arrival.batch.batch_id for arrival in arrivals])],
        asset_events=[
            *(observation(arrival.batch) for arrival in arrivals),
            *([quarantined(taken.rejections)] if taken.rejections else []),
        ],
        run_requests=[_run_request(arrival) for arrival in arrivals],
        cursor=cursor,
    )


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


def _arrivals(
    deliveries: Sequence[Delivery], instance: dg.DagsterInstance, incoming: IncomingFolders, store: ArtifactStore
) -> list[Delivery]:
    """The deliveries that need a run: the newest of each batch, if it is new, changed, or its last run failed."""
    newest = {delivery.batch.batch_id: delivery for delivery in deliveries}
    arrivals = []
    for delivery in newest.values():
        records = instance.get_run_records(dg.RunsFilter(tags=manifest_tags(delivery.batch)), limit=1)
        if records and not delivery.again:
            unfinished = records[0].dagster_run.status in _UNFINISHED
            if not unfinished and _accepted(store, delivery.batch.batch_id) == delivery.batch.digest:
                continue
            # The run key of this manifest is spent. What says so is kept in the file's name, so that a crash between
            # here and the launch neither forgets the batch nor launches it twice.
            delivery = incoming.mark_again(delivery)
        arrivals.append(delivery)
    return arrivals


def _accepted(store: ArtifactStore, batch_id: str) -> str | None:
    """Digest of the manifest that is accepted now."""
    try:
        return store.manifest(batch_id).digest
    except StoreError:
        return None


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


def _nothing_new(taken: Taken) -> str:
    parts = ["no new or changed manifests"]
    if taken.incomplete:
        parts.append(f"still being written: {_some(taken.incomplete)}")
    if taken.troubles:
        parts.append(f"cannot be taken: {_some(str(trouble) for trouble in taken.troubles)}")
    return "; ".join(parts)


def _some(names: Iterable[str], shown: int = 5) -> str:
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")
