"""The assets, all partitioned by `batch_id`. Their bodies call stages; nothing is computed here."""

import warnings
from collections.abc import Iterable, Iterator

import dagster as dg

from curation_features.errors import StoreError
from curation_features.orchestration.metadata import (
    FEATURE_SCHEMA,
    column_schema,
    feature_metadata,
    missing_metadata,
    stage_metadata,
)
from curation_features.orchestration.partitions import BATCHES, DIMENSION
from curation_features.schema import FeatureError, Labelling, PhotoRecord
from curation_features.settings import Settings
from curation_features.stages import FeatureStages, RunStats, merge
from curation_features.stages.plan import EMBEDDING_PARTS, LABEL_PARTS, TECHNICAL_PARTS, UNMEASURED, technical_version
from curation_features.store import ArtifactStore
from curation_features.tables import STAGE_TABLES
from curation_features.versions import combined, digest, part_version

Materialized = dg.MaterializeResult[None]
Stages = dg.ResourceParam[FeatureStages]
Store = dg.ResourceParam[ArtifactStore]

GROUP = "photo_features"
OWNERS = ["team:curation"]
PIXEL_STAGES = {"technical_metrics": TECHNICAL_PARTS, "image_embeddings": EMBEDDING_PARTS}


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # observable assets with partitions: beta, and what is needed here

    @dg.observable_source_asset(partitions_def=BATCHES, group_name=GROUP)
    def preprocess_batches(context: dg.OpExecutionContext, store: Store) -> dg.DataVersionsByPartition:
        """Batch manifests from the preprocess service, as accepted. The data version is the manifest's digest."""
        digests: dict[str, str | dg.DataVersion] = {}
        for batch_id in sorted(set(store.batch_ids()) & set(context.instance.get_dynamic_partitions(DIMENSION))):
            try:
                digests[batch_id] = store.manifest(batch_id).digest
            except StoreError as error:
                context.log.warning("Not observed: %s", error)
        return dg.DataVersionsByPartition(digests)


@dg.asset(partitions_def=BATCHES, group_name=GROUP, owners=OWNERS, kinds={"python", "pytorch"})
def label_embeddings(stages: Stages) -> Materialized:
    """The vocabulary as CLIP text vectors: every label in every template, normalised and averaged.

    Kept in `label_embeddings.pt` and shared by all batches; rebuilt when labels, templates or the model change.
    """
    plan = stages.plan(LABEL_PARTS)
    vocabulary = stages.classifier.vocabulary
    return dg.MaterializeResult(
        data_version=dg.DataVersion(stages.ensure_label_embeddings(plan)),
        metadata={
            "labels": len(vocabulary.labels),
            "templates": len(vocabulary.templates),
            "missing": missing_metadata(plan),
            "path": dg.MetadataValue.path(str(stages.cache.label_embeddings)),
        },
    )


def _pixel_spec(name: str, kinds: set[str], description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=[preprocess_batches],
        group_name=GROUP,
        owners=OWNERS,
        kinds=kinds,
        description=description,
        metadata={"dagster/column_schema": column_schema(STAGE_TABLES[name].columns)},
    )


@dg.multi_asset(
    specs=[
        _pixel_spec(
            "technical_metrics",
            {"python", "opencv", "parquet"},
            "Sharpness, exposure, noise, CLIP-IQA and BRISQUE of every photo, with the raw measurements behind them.",
        ),
        _pixel_spec(
            "image_embeddings",
            {"python", "pytorch", "parquet"},
            "The CLIP image vector of every photo. Labels are made from these, so new labels need no image model.",
        ),
    ],
    can_subset=True,
    partitions_def=BATCHES,
)
def photo_pixels(context: dg.AssetExecutionContext, stages: Stages, store: Store) -> Iterator[Materialized]:
    """Technical metrics and image embeddings, or one of them, out of one pass that decodes each photo once."""
    names = sorted(key.path[-1] for key in context.selected_asset_keys)
    batch, stats = store.manifest(context.partition_key), RunStats()
    plan = stages.plan(frozenset().union(*(PIXEL_STAGES[name] for name in names)))
    versions = {name: plan.versions_of(PIXEL_STAGES[name]) for name in names}
    records = stats.counted(stages.measure(batch, plan, stats))
    for name, artifact in store.write_stages(batch, records, versions).items():
        yield dg.MaterializeResult(
            asset_key=name,
            data_version=dg.DataVersion(artifact.digest),
            metadata=stage_metadata(artifact, stats, plan),
        )


@dg.asset(
    partitions_def=BATCHES,
    deps=["image_embeddings", label_embeddings],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "numpy", "parquet"},
    metadata={"dagster/column_schema": column_schema(STAGE_TABLES["clip_labels"].columns)},
)
def clip_labels(context: dg.AssetExecutionContext, stages: Stages, store: Store) -> Materialized:
    """The five most probable labels of every photo, out of its stored vector and the label vectors."""
    batch, stats, plan = store.manifest(context.partition_key), RunStats(), stages.plan(LABEL_PARTS)
    records = stages.label(store.read_stage("image_embeddings", batch), plan, stats)
    artifact = store.write_stages(batch, stats.counted(records), {"clip_labels": plan.versions})["clip_labels"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.digest),
        metadata=stage_metadata(artifact, stats, plan),
    )


@dg.asset(
    partitions_def=BATCHES,
    deps=[preprocess_batches, "technical_metrics", clip_labels],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "json", "parquet"},
    metadata={"dagster/column_schema": FEATURE_SCHEMA},
)
def features(context: dg.AssetExecutionContext, stages: Stages, store: Store) -> Materialized:
    """Every artifact of the batch with its features; every field of ingest and preprocess as it came in."""
    batch = store.manifest(context.partition_key)
    technical, labels = (store.stage_metadata(name, batch)["versions"] for name in ("technical_metrics", "clip_labels"))
    version = {"technical": technical_version(technical), "clip": labels.get("labels", UNMEASURED)}
    records = list(_joined(store.read_stage("technical_metrics", batch), store.read_stage("clip_labels", batch)))
    vocabulary = stages.classifier.vocabulary
    merged = merge(batch, records, version, vocabulary.labels, stages.settings.fallback_labels)
    artifact = store.write_features(merged.document, merged.rows(), version, vocabulary.labels)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.digest),
        metadata={
            **feature_metadata(merged),
            "json": dg.MetadataValue.path(str(artifact.json_path)),
            "parquet": dg.MetadataValue.path(str(artifact.table_path)),
        },
    )


ASSETS = [label_embeddings, photo_pixels, clip_labels, features]


def code_versions(settings: Settings, stages: FeatureStages) -> dict[str, str]:
    """The code version of each asset: its algorithms and the settings that change its numbers.

    Weights are not part of it (they may not be here yet); they are part of the data versions.
    """
    vocabulary = stages.classifier.vocabulary.fingerprint
    parts = {part: part_version(part, settings) for part in (*TECHNICAL_PARTS, "embedding", "labels")}
    return {
        "technical_metrics": combined({part: parts[part] for part in TECHNICAL_PARTS}),
        "image_embeddings": parts["embedding"],
        "label_embeddings": combined({"embedding": parts["embedding"], "vocabulary": vocabulary}),
        "clip_labels": parts["labels"],
        "features": digest({"algorithm": 1, "fallback_labels": settings.fallback_labels})[:16],
    }


def _joined(technical: Iterable[PhotoRecord], labelled: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
    """Technical records with the labels of the same photos, which must have been made of the same bytes."""
    for record, other in zip(technical, labelled, strict=True):
        if record.info == other.info:
            record.labelling = other.labelling
        else:
            message = "the photo changed between its technical metrics and its labels: materialize both again"
            record.labelling = Labelling(error=FeatureError("clip_labels", "photo_changed", message))
        yield record
