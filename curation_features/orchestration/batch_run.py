"""A run over one or many batches: each is made, reported, checked and announced by itself."""

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property

import dagster as dg

from curation_features.errors import CurationError, StoreError, WeightsError
from curation_features.events import Outbox
from curation_features.manifest import Batch
from curation_features.orchestration.checks import BatchChecks
from curation_features.orchestration.code_versions import code_versions
from curation_features.orchestration.making import Made, make
from curation_features.orchestration.provenance import Provenance, latest_metadata
from curation_features.stages import FeatureStages, Merged
from curation_features.stages.completion import completed
from curation_features.store import ArtifactStore, FeatureArtifact

log = logging.getLogger(__name__)

FEATURES = dg.AssetKey("features")
METRICS = dg.AssetKey("technical_metrics")


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
        self._attempts = 0
        self._failures: dict[str, str] = {}

    @cached_property
    def _provenance(self) -> Provenance:
        """Made for the first result: by then the weights are here, which are part of the code versions."""
        versions = code_versions(self._stages.settings, self._stages)
        return Provenance(self._context.instance, self._context.assets_def, versions)

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
                self._make(self._store.manifest(batch_id))
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

    def _make(self, batch: Batch) -> None:
        instance = self._context.instance
        checks = BatchChecks(batch, instance, self._stages.settings)
        if not self._assets:
            self._check_alone(checks, batch.batch_id)
        for made in make(batch, self._assets, self._stages, self._store):
            is_measured = made.asset == "technical_metrics"
            before = latest_metadata(instance, METRICS, batch.batch_id) if is_measured else {}
            metadata = self._report(batch, made)
            if is_measured:
                self._record(checks.of_cache(metadata, before))
            if made.features is not None:
                self._check_features(checks, metadata)
                self._announce(batch, *made.features)

    def _report(self, batch: Batch, made: Made) -> Mapping[str, dg.MetadataValue]:
        asset = dg.AssetKey(made.asset)
        tags = self._provenance.tags(asset, batch.batch_id, made.data_version, batch.digest)
        event = dg.AssetMaterialization(asset, partition=batch.batch_id, metadata=made.metadata, tags=tags)
        self._context.log_event(event)
        return event.metadata

    def _check_alone(self, checks: BatchChecks, batch_id: str) -> None:
        """Checks without assets: of what was made before."""
        if any(key.asset_key == FEATURES for key in self._context.selected_asset_check_keys):
            self._check_features(checks, latest_metadata(self._context.instance, FEATURES, batch_id))
        metrics = latest_metadata(self._context.instance, METRICS, batch_id)
        self._record(checks.of_cache(metrics, {}))

    def _check_features(self, checks: BatchChecks, metadata: Mapping[str, dg.MetadataValue]) -> None:
        """Raises `StoreError` if what lies on disk is not right, whether or not the checks were selected."""
        found = list(checks.of_files(self._store))
        self._record(found)
        if metadata:  # else they were not made by Dagster
            self._record(checks.of_features(metadata))
        wrong = [f"{check.check_name}: {check.description}" for check in found if not check.passed]
        if wrong:
            raise StoreError(
                "the features on disk are not right, so no event goes out: materialize features again; "
                + "; ".join(wrong)
            )

    def _record(self, evaluations: Iterable[dg.AssetCheckEvaluation]) -> None:
        for evaluation in evaluations:
            if evaluation.check_name in self._checks:
                self._context.log_event(evaluation)

    def _announce(self, batch: Batch, merged: Merged, artifact: FeatureArtifact) -> None:
        event = completed(batch, merged, artifact, self._stages.settings.root)
        self._events.publish(event)
        log.info("Features of batch %s are finished: event %s", batch.batch_id, event["id"])
