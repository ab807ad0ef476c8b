"""One batch, asset by asset: what each asset writes, its data version, and what Dagster shows of it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from curation_features.manifest import Batch
from curation_features.orchestration.metadata import artifact_links, feature_metadata, missing_metadata, stage_metadata
from curation_features.report.sheet import refresh
from curation_features.schema import FeatureError, Labelling, PhotoRecord
from curation_features.stages import FeatureStages, Merged, RunStats, merge
from curation_features.stages.plan import EMBEDDING_PARTS, LABEL_PARTS, TECHNICAL_PARTS, UNMEASURED, technical_version
from curation_features.store import ArtifactStore, FeatureArtifact, StageArtifact
from curation_features.thumbnails import Thumbnails
from curation_features.versions import digest

PIXEL_STAGES = {"technical_metrics": TECHNICAL_PARTS, "image_embeddings": EMBEDDING_PARTS}


@dataclass(frozen=True, slots=True)
class Made:
    """What an asset made of a batch.

    Attributes:
        data_version: digest of the logical content.
        features: of the asset `features` only: what was merged, and the files that were written.
    """

    asset: str
    data_version: str
    metadata: Mapping[str, Any]
    features: tuple[Merged, FeatureArtifact] | None = None


def make(batch: Batch, assets: Collection[str], stages: FeatureStages, store: ArtifactStore) -> Iterator[Made]:
    """Make the named assets of a batch, in the order of their dependencies; an asset left out is read from the store.

    Raises:
        StoreError: an artifact cannot be written, or one that is read was made from another manifest, or is missing.
        SettingsError: the batch asks for a vocabulary that is not there, or cannot be used.
        WeightsError: model weights are missing, and settings do not permit a degraded run.
    """
    stages = stages.for_batch(batch)
    if "label_embeddings" in assets:
        yield _label_embeddings(stages)
    labelled_at_once = {"image_embeddings", "clip_labels"} <= set(assets)
    pixels = sorted(PIXEL_STAGES.keys() & assets)
    if pixels:
        yield from _pixel_stages(batch, pixels, stages, store, labelled=labelled_at_once)
    if "clip_labels" in assets and not labelled_at_once:
        yield _clip_labels(batch, stages, store)
    if "features" in assets:
        yield _features(batch, stages, store)


def _label_embeddings(stages: FeatureStages) -> Made:
    plan = stages.plan(LABEL_PARTS)
    vocabulary = stages.classifier.vocabulary
    metadata = {
        "labels": len(vocabulary.labels),
        "templates": len(vocabulary.templates),
        **missing_metadata(plan),
        "path": dg.MetadataValue.path(str(stages.classifier.label_file)),
    }
    return Made("label_embeddings", stages.ensure_label_embeddings(plan), metadata)


def _pixel_stages(
    batch: Batch, names: list[str], stages: FeatureStages, store: ArtifactStore, *, labelled: bool
) -> Iterator[Made]:
    """Technical metrics and image embeddings, or one of them, out of one pass that decodes each photo once.

    Args:
        names: of the stages.
        labelled: whether the pass makes the labels as well, from vectors that need not be read back then.
    """
    parts = frozenset().union(*(PIXEL_STAGES[name] for name in names))
    stats, plan = RunStats(), stages.plan(parts | LABEL_PARTS if labelled else parts)
    pixel_plan = plan.only(parts)
    told = dict.fromkeys(names, (stats, pixel_plan))
    versions = {name: plan.only(PIXEL_STAGES[name]).versions for name in names}
    records = stats.counted(stages.measure(batch, plan, stats))
    if labelled:
        label_stats, label_plan = told["clip_labels"] = RunStats(), plan.only(LABEL_PARTS)
        versions["clip_labels"] = label_plan.versions
        records = label_stats.counted(stages.label(_to_be_labelled(records), label_plan, label_stats))
    planned = digest({"versions": dict(pixel_plan.versions), "missing": sorted(pixel_plan.missing)})[:16]
    for name, artifact in _written(batch, records, versions, stages, store).items():
        yield Made(name, artifact.digest, {**stage_metadata(artifact, *told[name]), "pass": planned})


def _to_be_labelled(records: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
    """Measured records, which are counted as such, on their way to be labelled and counted again.

    A label that they have came with them out of the cache.
    """
    for record in records:
        record.cached = record.labelling is not None
        yield record


def _clip_labels(batch: Batch, stages: FeatureStages, store: ArtifactStore) -> Made:
    stats, plan = RunStats(), stages.plan(LABEL_PARTS)
    records = stages.label(store.read_stage("image_embeddings", batch), plan, stats)
    artifact = _written(batch, stats.counted(records), {"clip_labels": plan.versions}, stages, store)["clip_labels"]
    return Made("clip_labels", artifact.digest, stage_metadata(artifact, stats, plan))


def _written(
    batch: Batch,
    records: Iterable[PhotoRecord],
    versions: Mapping[str, Mapping[str, str]],
    stages: FeatureStages,
    store: ArtifactStore,
) -> dict[str, StageArtifact]:
    """The tables of stages, written with the model and the vocabulary that they are made with."""
    return store.write_stages(batch, records, versions, stages.settings.model, stages.classifier.vocabulary.labels)


def _features(batch: Batch, stages: FeatureStages, store: ArtifactStore) -> Made:
    technical, labelled = (store.stage_metadata(name, batch) for name in ("technical_metrics", "clip_labels"))
    version = {
        "technical": technical_version(technical["versions"]),
        "clip": labelled["versions"].get("labels", UNMEASURED),
    }
    labels = labelled.get("labels") or stages.classifier.vocabulary.labels  # those of the project may be others by now
    records = list(_joined(store.read_stage("technical_metrics", batch), store.read_stage("clip_labels", batch)))
    merged = merge(batch, records, version, labels, stages.settings.fallback_labels)
    with store.stored_embeddings(batch, records) as embeddings:
        artifact = store.write_features(merged.document, merged.rows(), version, merged.labels, embeddings)
    # Before the event: who gets that finds the page, and so does Dagster.
    sheet = refresh(artifact, stages.settings, stages.shown)
    metadata = {**artifact_links(artifact, sheet), **feature_metadata(merged, Thumbnails(stages.settings))}
    return Made("features", artifact.digest, metadata, (merged, artifact))


def _joined(technical: Iterable[PhotoRecord], labelled: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
    """Technical records with the labels of the same photos, which must have been made of the same bytes."""
    for record, other in zip(technical, labelled, strict=True):
        if record.info == other.info:
            record.labelling = other.labelling
        else:
            message = "the photo changed between its technical metrics and its labels: materialize both again"
            record.labelling = Labelling(error=FeatureError("clip_labels", "photo_changed", message))
        yield record
