"""A run over one or many batches: each is made, reported, checked and announced by itself."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import dagster as dg

from curation_features.build import AssetResult, build_assets
from curation_features.errors import CurationError, SupersededError, WeightsError
from curation_features.events.outbox import Outbox
from curation_features.finish import raise_if_wrong
from curation_features.manifest import Batch
from curation_features.orchestration.adoption import adopt
from curation_features.orchestration.asset_metadata import asset_metadata
from curation_features.orchestration.checks import BatchChecks
from curation_features.orchestration.provenance import Provenance, latest_metadata
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.code_versions import code_versions
from curation_features.storage.artifacts import ArtifactStore
from curation_features.verification import verify

log = logging.getLogger(__name__)

FEATURES = dg.AssetKey("features")
METRICS = dg.AssetKey("technical_metrics")

RETRY_FAILED = "curation_features/retry_failed"
"""Tag of a run that reads and measures only the photos that failed for a reason that may pass."""


class BatchRun:
    """Makes the selected assets of batches, and reports each partition to Dagster as it is finished.

    Args:
        context: of the step; says which assets and checks are selected.
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
        self._retries_failed = RETRY_FAILED in context.run.tags
        self._attempts = 0
        self._failures: dict[str, str] = {}

    @cached_property
    def _provenance(self) -> Provenance:
        """Made for the first result: by then the weights are here, which are part of the code versions."""
        versions = code_versions(self._stages.settings, self._stages)
        return Provenance(self._context.instance, self._specs, versions)

    def batch_ids(self) -> list[str]:
        """The batches of the run; all that are finished where checks alone were asked for, without a partition.

        Raises:
            dg.Failure: a range holds none; a run that makes nothing must not look as if all were made.
        """
        context = self._context
        if context.has_partition_key or context.has_partition_key_range:
            found = list(context.partition_keys)
            if not found:
                asked = context.partition_key_range
                remedy = "it goes from a batch that came earlier to one that came later: turn it round"
                raise dg.Failure(f"no batch in the range {asked.start}...{asked.end}: {remedy}", allow_retries=False)
            return found
        return sorted(context.instance.get_materialized_partitions(FEATURES))

    def attempt(self, batch_id: str) -> None:
        """Make a batch; what goes wrong with it is remembered and costs the other batches nothing.

        Raises:
            dg.Failure: model weights are missing, and settings do not permit a degraded run: no batch can be made.
        """
        self._attempts += 1
        try:
            with self._store.exclusive(batch_id):
                self._make_newest(batch_id)
        except WeightsError as error:
            raise dg.Failure(str(error), allow_retries=False) from None  # its causes are long, and say no more
        except CurationError as error:
            self._failures[batch_id] = str(error)
            log.error("Batch %s failed: %s", batch_id, error)
        except Exception as error:
            self._failures[batch_id] = f"{type(error).__name__}: {error}"
            log.exception("Batch %s failed", batch_id)

    def finish(self) -> None:
        """Raises `dg.Failure` if a batch failed; names all that did."""
        if not self._failures:
            return
        found = "\n".join(f"{batch_id}: {problem}" for batch_id, problem in self._failures.items())
        count = f"{len(self._failures)} of {self._attempts} batches failed; the others are finished.\n"
        raise dg.Failure(
            f"{count if self._attempts > 1 else ''}{found}",
            metadata={"failed_batches": dg.MetadataValue.json(self._failures)},
            allow_retries=False,
        )

    def _make_newest(self, batch_id: str) -> None:
        """Make a batch of the manifest that was accepted last, also if that changes meanwhile."""
        adopt(batch_id, self._store, self._context.instance, self._specs)
        while True:
            try:
                return self._make(self._store.manifest(batch_id))
            except SupersededError:
                log.info("Batch %s begins again: a newer manifest was accepted", batch_id)

    def _make(self, batch: Batch) -> None:
        instance = self._context.instance
        checks = BatchChecks(batch, instance, self._stages.settings)
        if not self._assets:
            self._check_alone(checks, batch)
        stages = self._stages.for_batch(batch)
        for result in build_assets(batch, self._assets, stages, self._store, retry_failed=self._retries_failed):
            is_measured = result.asset == "technical_metrics"
            before = latest_metadata(instance, METRICS, batch.batch_id) if is_measured else {}
            metadata = self._report(batch, result, stages)
            if is_measured:
                self._record(checks.of_cache(metadata, before))
            if result.finished is not None:
                self._record_features(checks, result.finished.problems, metadata)
                event = result.finished.announce(self._events, self._stages.settings.root)
                log.info("Features of batch %s are finished: event %s", batch.batch_id, event["id"])

    def _report(self, batch: Batch, result: AssetResult, stages: FeatureStages) -> Mapping[str, dg.MetadataValue]:
        asset = dg.AssetKey(result.asset)
        tags = self._provenance.tags(asset, batch.batch_id, result.data_version, batch.digest)
        metadata = asset_metadata(result, stages)
        event = dg.AssetMaterialization(asset, partition=batch.batch_id, metadata=metadata, tags=tags)
        self._context.log_event(event)
        return event.metadata

    def _check_alone(self, checks: BatchChecks, batch: Batch) -> None:
        """Checks without assets: of what was made before."""
        instance, batch_id = self._context.instance, batch.batch_id
        if any(key.asset_key == FEATURES for key in self._context.selected_asset_check_keys):
            problems = verify(batch, *self._store.feature_paths(batch_id), self._store.embeddings_path(batch_id))
            self._record_features(checks, problems, latest_metadata(instance, FEATURES, batch_id))
            raise_if_wrong(problems)
        self._record(checks.of_cache(latest_metadata(instance, METRICS, batch_id), {}))

    def _record_features(
        self, checks: BatchChecks, problems: Mapping[str, Sequence[str]], metadata: Mapping[str, dg.MetadataValue]
    ) -> None:
        self._record(checks.of_files(problems))
        if metadata:  # else they were not made by Dagster
            self._record(checks.of_features(metadata))

    def _record(self, evaluations: Iterable[dg.AssetCheckEvaluation]) -> None:
        for evaluation in evaluations:
            if evaluation.check_name in self._checks:
                self._context.log_event(evaluation)
