"""The assets, all partitioned by `batch_id`, and the single step that materializes them.

With a single step, a run over many batches finishes one after the other, reports each with its own data version at
once, and keeps the finished ones when another fails. Nothing is computed here.
"""

import logging
import warnings
from collections.abc import Iterator

import dagster as dg

from curation_features.errors import StoreError
from curation_features.events.outbox import Outbox
from curation_features.orchestration.automation import RECONCILE
from curation_features.orchestration.batch_run import BatchRun
from curation_features.orchestration.checks import CHECK_SPECS
from curation_features.orchestration.interrupts import interruptible
from curation_features.orchestration.liveness import alive
from curation_features.orchestration.metadata import column_schema
from curation_features.orchestration.partitions import BATCHES, DIMENSION
from curation_features.orchestration.pool import POOL
from curation_features.pipeline import FeatureStages
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import FEATURE_COLUMNS, STAGE_TABLES

Stages = dg.ResourceParam[FeatureStages]
Store = dg.ResourceParam[ArtifactStore]
Events = dg.ResourceParam[Outbox]

GROUP = "photo_features"
OWNERS = ["team:curation"]
BATCHES_PER_RUN = 50

SOURCE = "preprocess_batches"
_SOURCE_DESCRIPTION = """Batch manifests from the preprocess service, as accepted.

The data version is the manifest's digest.
The sensor `preprocess_outputs` takes them from the incoming folders, and launches the job `extract_features`."""
_SOURCE_TAGS = {"stage": "input", "dagster/kind/json": ""}  # Dagster has no owners for observable assets

with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):  # observable assets with partitions are beta

    @dg.observable_source_asset(
        name=SOURCE, partitions_def=BATCHES, group_name=GROUP, description=_SOURCE_DESCRIPTION, tags=_SOURCE_TAGS
    )
    def preprocess_batches(context: dg.OpExecutionContext, store: Store) -> dg.DataVersionsByPartition:
        """Observe the digest of every accepted manifest."""
        digests: dict[str, str | dg.DataVersion] = {}
        for batch_id in sorted(set(store.batch_ids()) & set(context.instance.get_dynamic_partitions(DIMENSION))):
            try:
                digests[batch_id] = store.manifest(batch_id).digest
            except StoreError as error:
                context.log.warning("Not observed: %s", error)
        return dg.DataVersionsByPartition(digests)


_COLUMNS = {"features": FEATURE_COLUMNS, **{name: table.columns for name, table in STAGE_TABLES.items()}}


def _build_spec(name: str, deps: list[str], kinds: set[str], description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=deps,
        description=description,
        group_name=GROUP,
        owners=OWNERS,
        kinds=kinds,
        tags={"stage": name},
        skippable=True,  # the step reports each partition and returns no output
        automation_condition=RECONCILE,
        metadata={"dagster/column_schema": column_schema(_COLUMNS[name])} if name in _COLUMNS else None,
    )


SPECS = [
    _build_spec(
        "label_embeddings",
        [],
        {"python", "pytorch"},
        """CLIP text embeddings of the vocabulary: every label in every template, normalised and averaged.

The vocabulary is the project's, or the one that the batch's manifest names. Stored in `label_embeddings.pt` or a file
next to it, and shared by all batches; recomputed when labels, templates or the model change.""",
    ),
    _build_spec(
        "technical_metrics",
        [SOURCE],
        {"python", "opencv", "parquet"},
        """Sharpness, exposure, noise, CLIP-IQA and BRISQUE of every photo, with the raw measurements, and the signals.

Computed in one pass with `image_embeddings`, which decodes each photo once. A changed constant recomputes only its
metric.""",
    ),
    _build_spec(
        "image_embeddings",
        [SOURCE],
        {"python", "pytorch", "parquet"},
        "The CLIP image embedding of every photo. Labels are computed from it, so new labels need no image model.",
    ),
    _build_spec(
        "clip_labels",
        ["image_embeddings", "label_embeddings"],
        {"python", "numpy", "parquet"},
        """The five most probable labels of every photo, from its stored embedding and the label embeddings.

A run that selects both computes them in the same pass as `image_embeddings`.""",
    ),
    _build_spec(
        "features",
        [SOURCE, "technical_metrics", "clip_labels"],
        {"python", "json", "parquet"},
        """Every artifact of the batch with its features; fields of ingest and preprocess are unchanged.

Read back and checked before `features.completed` is published.
A changed limit of a flag recomputes only this asset.""",
    ),
]

with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):  # backfill policies

    @dg.multi_asset(
        specs=SPECS,
        check_specs=CHECK_SPECS,
        can_subset=True,
        partitions_def=BATCHES,
        backfill_policy=dg.BackfillPolicy.multi_run(BATCHES_PER_RUN),
        pool=POOL,
    )
    def photo_features(
        context: dg.AssetExecutionContext, stages: Stages, store: Store, events: Events
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Materialize the selected assets of each batch: the step of the job `extract_features`.

        A failed batch does not stop the others; the error at the end names it.
        """
        context.log.addFilter(_is_relevant)
        with alive(context.instance, context.run.run_id), interruptible(context):
            BatchRun(context, stages, store, events).run()
        yield from ()


def _is_relevant(record: logging.LogRecord) -> bool:
    """False for Dagster's message about missing check results: they were reported by partition."""
    return "did not yield or return expected outputs" not in record.getMessage()
