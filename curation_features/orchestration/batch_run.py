"""A run over one or many batches: computes, reports, checks and announces one after the other."""

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property

import dagster as dg

from curation_features.build import AssetResult, build_assets
from curation_features.errors import CurationError, SupersededError, WeightsError
from curation_features.events.outbox import Outbox
from curation_features.finish import raise_if_wrong
from curation_features.manifest import Batch
from curation_features.orchestration.adoption import adopt
from curation_features.orchestration.backfill import RETRY_FAILED
from curation_features.orchestration.checks import BatchChecks
from curation_features.orchestration.metadata import asset_metadata
from curation_features.orchestration.provenance import Provenance, latest_metadata
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.code_versions import code_versions
from curation_features.storage.artifacts import ArtifactStore
from curation_features.verification import verify

log = logging.getLogger(__name__)

FEATURES = dg.AssetKey("features")
METRICS = dg.AssetKey("technical_metrics")


class BatchRun:
    """Materializes the selected assets of batches, and reports each finished partition.

    Args:
        context: of the step, with the selected assets and checks.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, stages: FeatureStages, store: ArtifactStore, events: Outbox
    ) -> None:
        self._context = context
        self._stages = stages
        self._store = store
        self._events = events
        self._assets = frozenset(key.path[-1] for key in context.selected_asset_keys)
        self._checks = frozenset(key.name for key in context.selected_asset_check_keys)
        self._specs = list(context.assets_def.specs)
        self._failures: dict[str, str] = {}

    @cached_property
    def _provenance(self) -> Provenance:
        """Created with the first result: the code versions include the weights, which exist by then."""
        versions = code_versions(self._stages.settings, self._stages)
        return Provenance(self._context.instance, self._specs, versions)

    def run(self) -> None:
        """Process every batch.

        Raises:
            dg.Failure: batches failed (it names the id and error of each, and the others are finished); there is no
                batch; or model weights are missing and settings do not permit a degraded run.
        """
        batch_ids = self._batch_ids()
        for batch_id in batch_ids:
            self._attempt(batch_id)
        if not self._failures:
            return
        problems = "\n".join(f"{batch_id}: {problem}" for batch_id, problem in self._failures.items())
        count = f"{len(self._failures)} of {len(batch_ids)} batches failed; the others are finished.\n"
        raise dg.Failure(
            f"{count if len(batch_ids) > 1 else ''}{problems}",
            metadata={"failed_batches": dg.MetadataValue.json(self._failures)},
            allow_retries=False,
        )

    def _batch_ids(self) -> list[str]:
        """Ids of the batches of the run; without a partition, as for checks alone, all finished batches."""
        context = self._context
        if context.has_partition_key or context.has_partition_key_range:
            batch_ids = list(context.partition_keys)
            if not batch_ids:  # a run that does nothing must not succeed
                span = context.partition_key_range
                remedy = "the first batch must be older than the last one: swap them"
                raise dg.Failure(f"no batch in the range {span.start}...{span.end}: {remedy}", allow_retries=False)
            return batch_ids
        return sorted(context.instance.get_materialized_partitions(FEATURES))

    def _attempt(self, batch_id: str) -> None:
        """Process a batch; record its error, so that the other batches are processed as well."""
        try:
            with self._store.exclusive(batch_id):
                self._process_newest(batch_id)
        except WeightsError as error:  # every batch would fail
            raise dg.Failure(str(error), allow_retries=False) from None  # its causes add nothing but length
        except CurationError as error:
            self._failures[batch_id] = str(error)
            log.error("Batch %s failed: %s", batch_id, error)
        except Exception as error:
            self._failures[batch_id] = f"{type(error).__name__}: {error}"
            log.exception("Batch %s failed", batch_id)

    def _process_newest(self, batch_id: str) -> None:
        """Process the latest accepted manifest of a batch; start again if a newer one is accepted meanwhile."""
        adopt(batch_id, self._store, self._context.instance, self._specs)
        while True:
            try:
                return self._process(self._store.manifest(batch_id))
            except SupersededError:
                log.info("Batch %s starts again: a newer manifest was accepted", batch_id)

    def _process(self, batch: Batch) -> None:
        instance = self._context.instance
        checks = BatchChecks(batch, instance, self._stages.settings)
        if not self._assets:
            self._check_existing(checks, batch)
        stages = self._stages.for_batch(batch)
        retry_failed = RETRY_FAILED in self._context.run.tags
        for result in build_assets(batch, self._assets, stages, self._store, retry_failed=retry_failed):
            is_measured = result.asset == "technical_metrics"
            before = latest_metadata(instance, METRICS, batch.batch_id) if is_measured else {}
            metadata = self._report(batch, result, stages)
            if is_measured:
                self._record(checks.of_cache(metadata, before))
            if result.finished is not None:
                self._record(checks.of_features(result.finished.problems, metadata))
                event = result.finished.announce(self._events, self._stages.settings.root)
                log.info("Features of batch %s are finished: event %s", batch.batch_id, event["id"])

    def _report(self, batch: Batch, result: AssetResult, stages: FeatureStages) -> Mapping[str, dg.MetadataValue]:
        asset = dg.AssetKey(result.asset)
        tags = self._provenance.tags(asset, batch.batch_id, result.data_version, batch.digest)
        metadata = asset_metadata(result, stages)
        event = dg.AssetMaterialization(asset, partition=batch.batch_id, metadata=metadata, tags=tags)
        self._context.log_event(event)
        return event.metadata

    def _check_existing(self, checks: BatchChecks, batch: Batch) -> None:
        """Run the checks on existing results, for a run that selects no asset."""
        instance, batch_id = self._context.instance, batch.batch_id
        if any(key.asset_key == FEATURES for key in self._context.selected_asset_check_keys):
            problems = verify(batch, *self._store.feature_paths(batch_id), self._store.embeddings_path(batch_id))
            self._record(checks.of_features(problems, latest_metadata(instance, FEATURES, batch_id)))
            raise_if_wrong(problems)
        self._record(checks.of_cache(latest_metadata(instance, METRICS, batch_id), {}))

    def _record(self, evaluations: Iterable[dg.AssetCheckEvaluation]) -> None:
        for evaluation in evaluations:
            if evaluation.check_name in self._checks:
                self._context.log_event(evaluation)
