"""Watched folders of photos: a sensor that plans batches, and the job that ingests one.

The job submits the manifest to `data/incoming/`, so that the sensor `preprocess_outputs` launches its run.
"""

from contextlib import closing
from typing import TYPE_CHECKING

import dagster as dg

from curation_features.errors import BusyError
from curation_features.inbox.folders import submit
from curation_features.orchestration.resources import SettingsResource
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.watching import Looked, Watch
from curation_features.watching.journal import PlannedBatch

if TYPE_CHECKING:
    from curation_features.ingest.folder import IngestResult

BATCH_TAG = "curation_features/watched_batch"
_ACTIVE = [dg.DagsterRunStatus(name) for name in ("QUEUED", "STARTING", "STARTED", "CANCELING")]
_SHOWN = 5  # names in a message


class WatchedBatch(dg.Config):
    """The batch to ingest."""

    batch_id: str


@dg.op(description="Ingests a planned batch of photos like `curation-features ingest`, and submits its manifest.")
def ingest_planned_batch(context: dg.OpExecutionContext, config: WatchedBatch, settings: SettingsResource) -> None:
    """Ingest a planned batch, and submit it to the sensor `preprocess_outputs`."""
    project = settings.settings()
    with closing(Watch(project)) as watch, ArtifactStore(project.data_path).exclusive(config.batch_id):
        batch = watch.find(config.batch_id)
        if batch is None:
            context.log.info("Batch %s is done already", config.batch_id)
            return
        result = watch.ingest(batch)
        if result is None:
            context.log.info("Batch %s: all its photos are in other batches, or gone", config.batch_id)
        else:
            submit(result.path.read_bytes(), project.data_path / "incoming", config.batch_id)
            context.add_output_metadata(_metadata(result))
        watch.finish(batch)


@dg.job(description="Ingests a batch of new photos of watched folders. The sensor `watched_folders` launches it.")
def ingest_watched() -> None:
    """Ingest a planned batch."""
    ingest_planned_batch()


def watched_folders(settings: Settings) -> dg.SensorDefinition:
    """Build the sensor on `watch_folders`; it is on by default if there are any."""
    is_on = bool(settings.watch_folders)

    @dg.sensor(
        name="watched_folders",
        job_name=ingest_watched.name,  # with the job itself, Dagster builds the sensor twice, with a beta warning
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED,
        description="""Looks for new photos in `watch_folders`; those at rest become batches.

Launches a run of `ingest_watched` for each batch, one after the other.""",
    )
    def look(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.SensorResult:
        project = settings.settings()
        if not project.watch_folders:
            return dg.SensorResult(skip_reason="no folder is watched: set watch_folders in config/settings.toml")
        with closing(Watch(project)) as watch:
            try:
                with watch.exclusive():
                    looked = watch.look()
            except BusyError as error:
                return dg.SensorResult(skip_reason=str(error))
            _report(context, looked)
            return _launch(context, watch, looked)

    return look


def _launch(context: dg.SensorEvaluationContext, watch: Watch, looked: Looked) -> dg.SensorResult:
    """Request a run for the first batch that is due, unless one is active."""
    runs = context.instance.get_runs(dg.RunsFilter(job_name=ingest_watched.name, statuses=_ACTIVE), limit=1)
    if runs:
        return dg.SensorResult(skip_reason=f"ingesting {runs[0].tags.get(BATCH_TAG)}; {_describe(looked)}")
    canceled = []
    for batch in watch.due(looked):
        request = _request(batch)
        launched = context.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": request.run_key or ""}), limit=1)
        status = launched[0].status if launched else dg.DagsterRunStatus.NOT_STARTED
        if status is dg.DagsterRunStatus.NOT_STARTED:  # also of a run that was created and never submitted
            return dg.SensorResult(run_requests=[request])
        if status is dg.DagsterRunStatus.FAILURE:
            watch.postpone(batch, f"run {launched[0].run_id} failed")
        else:
            canceled.append(f"batch {batch.batch_id} waits: re-execute its canceled run {launched[0].run_id}")
    return dg.SensorResult(skip_reason="; ".join([*canceled[:_SHOWN], _describe(looked)]))


def _request(batch: PlannedBatch) -> dg.RunRequest:
    config = dg.RunConfig(ops={ingest_planned_batch.name: WatchedBatch(batch_id=batch.batch_id)})
    key = f"{batch.batch_id}:{batch.attempts}"
    return dg.RunRequest(run_key=key, run_config=config, tags={BATCH_TAG: batch.batch_id})


def _report(context: dg.SensorEvaluationContext, looked: Looked) -> None:
    for path, reason in looked.appeared.items():
        context.log.error("%s %s", path, reason)
    for path in looked.recovered:
        context.log.info("%s can be read again", path)
    for batch in looked.planned:
        context.log.info("New batch %s: %d photos", batch.batch_id, batch.photos)


def _describe(looked: Looked) -> str:
    """The reason why a tick launches no run."""
    parts = [f"{path} {reason}" for path, reason in list(looked.problems.items())[:_SHOWN]]
    if looked.manifests:
        parts.append(f"{looked.manifests} manifests of earlier batches are still to be read")
    if not looked.is_complete:
        parts.append("the next tick looks at the other folders")
    parts.append(f"{looked.waiting} new files are not at rest" if looked.waiting else "no new photos")
    return "; ".join(parts)


def _metadata(result: "IngestResult") -> dict[str, dg.MetadataValue]:
    counts = {
        "photos": len(result.manifest["artifacts"]),
        "unreadable": len(result.rejected),
        "in_other_batches": len(result.excluded),
    }
    return {
        **{name: dg.MetadataValue.int(count) for name, count in counts.items()},
        "manifest": dg.MetadataValue.path(str(result.path)),
    }
