"""Materialize one batch now, in this process, on the project's Dagster instance."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from filelock import FileLock

from curation_features.atomic_files import cannot_write, flush
from curation_features.errors import StoreError
from curation_features.manifest import Batch
from curation_features.orchestration.adoption import adopt, observe
from curation_features.orchestration.assets import SPECS
from curation_features.orchestration.backfill import RETRY_FAILED
from curation_features.orchestration.batch_run import METRICS
from curation_features.orchestration.interrupts import AT_TERMINAL
from curation_features.orchestration.resources import dagster_home
from curation_features.settings import Settings, packaged_file
from curation_features.storage.artifacts import ArtifactStore

log = logging.getLogger(__name__)

_NEW = ".new"  # folder where an instance is created
_UNKNOWN_FAILURE = "the run failed; the Dagster UI shows why"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """Result of a run.

    Attributes:
        run_id: id of the run in Dagster.
        failures: failed step -> error message.
        cached: number of distinct photos whose features all came from the cache.
        partly_cached: number of distinct photos of which only some features came from the cache.
    """

    run_id: str
    failures: Mapping[str, str]
    cached: int
    partly_cached: int


@contextmanager
def project_instance(settings: Settings, default_config: str = "dagster.yaml") -> Iterator[dg.DagsterInstance]:
    """Open the project's Dagster instance; a new one gets a packaged file as its `dagster.yaml`.

    Raises:
        StoreError: its storage cannot be written, now or later in the block.
    """
    home = dagster_home(settings).resolve()
    try:
        with _open_or_create(home, default_config) as instance:
            yield instance
    except Exception as error:
        from sqlalchemy.exc import DBAPIError  # imported here: loading the definitions needs no database

        if not isinstance(error, DBAPIError):
            raise
        remedy = "check free space or permissions, and the database, then run again"
        raise StoreError(f"{home}: Dagster cannot write its storage ({error.orig}); {remedy}") from error


def _open_or_create(home: Path, default_config: str) -> dg.DagsterInstance:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".creating.lock"):  # two processes must not create the instance's databases at once
            shutil.rmtree(home / _NEW, ignore_errors=True)
            if not (home / "dagster.yaml").exists():
                _create(home, default_config)
            return _open(home)
    except OSError as error:
        raise cannot_write(home, error) from error


def _create(home: Path, default_config: str) -> None:
    """Create a new instance, whole or not at all: Dagster cannot repair a half-created database."""
    new = home / _NEW
    new.mkdir()
    shutil.copyfile(packaged_file(default_config), new / "dagster.yaml")
    _open(new).dispose()
    # `dagster.yaml` comes last: it marks the instance as complete.
    for path in sorted(new.iterdir(), key=lambda path: path.name == "dagster.yaml"):
        if not (home / path.name).exists():
            path.rename(home / path.name)
            flush(home)
    shutil.rmtree(new)


def _open(home: Path) -> dg.DagsterInstance:
    """Open an instance, which creates its databases if it has none."""
    return dg.DagsterInstance.from_config(str(home))


def accept(batch: Batch, store: ArtifactStore, instance: dg.DagsterInstance) -> None:
    """Accept a manifest: store it, add its partition and observe it.

    Earlier results of the batch from outside Dagster are reported first.

    Raises:
        ManifestError: the batch id differs from a known one in case only.
        StoreError: the manifest cannot be written.
    """
    store.check_batch_id(batch.batch_id)
    adopt(batch.batch_id, store, instance, SPECS)
    store.put_manifest(batch)
    observe(batch, instance)


def manifest_tags(batch: Batch) -> dict[str, str]:
    """Tags of a run launched for exactly this manifest."""
    return {"curation_features/manifest": f"{batch.batch_id}:{batch.digest[:16]}"}


def materialize(
    batch: Batch, definitions: dg.Definitions, instance: dg.DagsterInstance, *, retry_failed: bool = False
) -> LaunchResult:
    """Run the job `extract_features` for an accepted batch.

    Args:
        retry_failed: process only the photos that failed for a transient reason.

    Raises:
        KeyboardInterrupt: the run was interrupted; its status in Dagster is canceled.
    """
    job = definitions.resolve_job_def("extract_features")
    result = job.execute_in_process(
        instance=instance,
        partition_key=batch.batch_id,
        raise_on_error=False,
        run_config=_QUIET,
        tags={**manifest_tags(batch), AT_TERMINAL: "true", **({RETRY_FAILED: "true"} if retry_failed else {})},
    )
    if result.dagster_run.status is dg.DagsterRunStatus.CANCELED:
        raise KeyboardInterrupt
    failures = {
        event.step_key or "": _failure_message(event)
        for event in result.filter_events(lambda event: event.is_step_failure)
    }
    if not result.success and not failures:
        failures = {"run": _UNKNOWN_FAILURE}
    metadata = {event.asset_key: event.materialization.metadata for event in result.get_asset_materialization_events()}
    metrics = metadata.get(METRICS, {})
    cached, partly_cached = (
        int(str(metrics[name].value)) if name in metrics else 0 for name in ("cached", "partly_cached")
    )
    return LaunchResult(result.run_id, failures, cached, partly_cached)


def _failure_message(event: dg.DagsterEvent) -> str:
    """The message of the root cause of a failed step; the whole error is logged."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    if error is None:
        return _UNKNOWN_FAILURE
    log.info("Step %s failed: %s", event.step_key, error.to_string())
    while error.cause:
        error = error.cause
    if error.cls_name == "DagsterExecutionInterruptedError":  # interrupted in Dagster's own code, before the step
        raise KeyboardInterrupt
    return error.message.strip()
