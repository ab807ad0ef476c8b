"""One batch, asset by asset: what each asset writes, and its data version. With Dagster and without."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from curation_features.errors import StorageAwayError, StoreError
from curation_features.finish import FinishedBatch, finish_batch
from curation_features.manifest import Batch
from curation_features.pipeline import Earlier, FeatureStages, Plan, RunStats, log_batch, merge
from curation_features.pipeline.plan import EMBEDDING_PARTS, LABEL_PARTS, TECHNICAL_PARTS, UNMEASURED, technical_version
from curation_features.schema import (
    ASSETS,
    PARTS,
    PHOTO_ASSETS,
    STORAGE_REASONS,
    FeatureError,
    LabelPrediction,
    PhotoRecord,
)
from curation_features.storage.artifacts import ArtifactStore, StageArtifact
from curation_features.versions import digest

log = logging.getLogger(__name__)

_PARTS = {asset: {name for name, part in PARTS.items() if part.asset == asset} for asset in PHOTO_ASSETS}
_PIXEL_STAGES = ("technical_metrics", "image_embeddings")
_NEEDS = {"clip_labels": ("image_embeddings",), "features": ("technical_metrics", "clip_labels")}


@dataclass(frozen=True, slots=True)
class AssetResult:
    """What was made of one asset of a batch.

    Attributes:
        data_version: digest of the logical content.
        plan: the parts of the asset, and those that are missing; empty for `features`.
        stats: counts and timings; None for `label_embeddings` and `features`.
        stage: what was written, for the assets that are stage tables.
        pass_version: of an asset that is made from pixels, what the pass over the photos was to compute.
        finished: for `features`.
    """

    asset: str
    data_version: str
    plan: Plan
    stats: RunStats | None = None
    stage: StageArtifact | None = None
    pass_version: str = ""
    finished: FinishedBatch | None = None

    def numbers(self) -> dict[str, int | float | str]:
        """Counts, timings and names that tell one result from another, as plain values."""
        if self.finished is not None:
            statuses = {f"artifacts_{status}": count for status, count in self.finished.merged.statuses().items()}
            return {"artifacts": len(self.finished.merged.records), **statuses}
        if self.stats is None or self.stage is None:
            return {}
        named = {"manifest": self.stage.metadata["manifest"], "pass": self.pass_version}
        return {**self.stats.summary(), **{name: text for name, text in named.items() if text}}


def build_assets(
    batch: Batch, assets: Collection[str], stages: FeatureStages, store: ArtifactStore, *, retry_failed: bool = False
) -> Iterator[AssetResult]:
    """Make the named assets of a batch, in the order of their dependencies, and give each result as it is there.

    What an asset needs and is not named is read from the store. If it was never made of this manifest, it is made
    first, and its result is given, too. Call this while no other process makes the same batch
    (`ArtifactStore.exclusive`).

    Args:
        stages: with the vocabulary of the batch (`FeatureStages.for_batch`).
        retry_failed: only photos with an error that may pass (`schema.RETRYABLE_REASONS`) are read and measured;
            of the others the results of the last run are kept.

    Raises:
        StorageAwayError: not one photo could be read, each for a reason that may pass; nothing was written.
        SupersededError: another manifest was accepted meanwhile.
        StoreError: an artifact cannot be written or read; or settings have changed and `retry_failed` is set.
        WeightsError: model weights are missing, and settings do not permit a degraded run.
    """
    wanted = _with_missing(batch, assets, store)
    if "label_embeddings" in wanted:
        plan = stages.plan(LABEL_PARTS)
        yield AssetResult("label_embeddings", stages.ensure_label_embeddings(plan), plan)
    labelled_at_once = {"image_embeddings", "clip_labels"} <= wanted
    pixel_stages = [name for name in _PIXEL_STAGES if name in wanted]
    stats = RunStats()
    if pixel_stages:
        names = [*pixel_stages, "clip_labels"] if labelled_at_once else pixel_stages
        yield from _pixel_pass(batch, names, stages, store, stats, retry_failed=retry_failed)
    if "clip_labels" in wanted and not labelled_at_once:
        yield _clip_labels(batch, stages, store, RunStats() if pixel_stages else stats)
    if "features" in wanted:
        yield _features(batch, stages, store, stats)


def check_storage(records: Iterable[PhotoRecord], batch_id: str) -> Iterator[PhotoRecord]:
    """Pass on records, and raise `StorageAwayError` after the last if the storage could give none of the photos."""
    reasons: Counter[str] = Counter()
    photos, first = 0, ""
    for record in records:
        photos += 1
        if record.failure is not None and record.failure.reason in STORAGE_REASONS:
            reasons[record.failure.reason] += 1
            first = first or record.failure.message
        yield record
    if photos and reasons.total() == photos:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise StorageAwayError(
            f"batch {batch_id!r}: none of its {photos} photos can be read ({counts}), the first because {first}; "
            "nothing was written: check that the storage is mounted and readable, then run again"
        )


def _with_missing(batch: Batch, assets: Collection[str], store: ArtifactStore) -> set[str]:
    """The assets, and those that they need and that were never made of this manifest."""
    wanted = set(assets)
    for asset in reversed(ASSETS):
        if asset in wanted:
            wanted.update(name for name in _NEEDS.get(asset, ()) if not store.has_stage(name, batch))
    return wanted


def _pixel_pass(
    batch: Batch, names: list[str], stages: FeatureStages, store: ArtifactStore, stats: RunStats, *, retry_failed: bool
) -> Iterator[AssetResult]:
    """Stage tables out of one pass that decodes each photo once.

    Args:
        names: of the stages; with `clip_labels` the pass makes the labels as well, from embeddings in memory.
        stats: of the pass over the pixels.
    """
    plan = stages.plan(frozenset().union(*(_PARTS[name] for name in names)))
    pixel_plan = plan.only(TECHNICAL_PARTS | EMBEDDING_PARTS)
    told = {name: (stats, plan.only(_PARTS[name]) if name == "clip_labels" else pixel_plan) for name in names}
    versions = {name: plan.only(_PARTS[name]).versions for name in names}
    earlier = _earlier(batch, versions, store) if retry_failed else None
    records = stats.counted(check_storage(stages.measure(batch, plan, stats, earlier), batch.batch_id))
    if "clip_labels" in names:
        label_stats = RunStats()
        told["clip_labels"] = (label_stats, told["clip_labels"][1])
        records = label_stats.counted(stages.label(_to_be_labelled(records), plan.only(LABEL_PARTS), label_stats))
    planned = digest({"versions": dict(pixel_plan.versions), "missing": sorted(pixel_plan.missing)})[:16]
    for name, artifact in _written(batch, records, versions, stages, store).items():
        named_stats, named_plan = told[name]
        yield AssetResult(name, artifact.digest, named_plan, named_stats, artifact, planned)


def _earlier(batch: Batch, versions: Mapping[str, Mapping[str, str]], store: ArtifactStore) -> Earlier | None:
    """What the last run made of this manifest; None if it did not make all of these stages.

    Raises:
        StoreError: it made them with other settings, models or libraries.
    """
    if not all(store.has_stage(name, batch) for name in versions):
        return None
    for name, parts in versions.items():
        if store.stage_metadata(name, batch)["versions"] != dict(parts):
            raise StoreError(
                f"{name} of batch {batch.batch_id!r} was made with other settings or models, so failed photos cannot "
                f"be retried alone: run it without --retry-failed"
            )
    retried = {(r.photo_id, r.image_uri) for r in _stored(batch, versions, store) if r.is_retryable}
    return Earlier(frozenset(retried), _stored(batch, versions, store))


def _stored(batch: Batch, names: Iterable[str], store: ArtifactStore) -> Iterator[PhotoRecord]:
    """Records with what each of the named stages made of them, in the order of the batch's distinct photos."""
    for row in zip(*(store.read_stage(name, batch) for name in names), strict=True):
        record = replace(row[0], cached=True, measurements={}, embedding=None, prediction=None)
        for made in row:
            record.measurements |= made.measurements
            record.embedding = record.embedding or made.embedding
            record.prediction = record.prediction or made.prediction
        yield record


def _to_be_labelled(records: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
    """Set `cached` of measured records to whether they came with labels."""
    for record in records:
        record.cached, record.partly_cached = record.prediction is not None, False
        yield record


def _clip_labels(batch: Batch, stages: FeatureStages, store: ArtifactStore, stats: RunStats) -> AssetResult:
    plan = stages.plan(LABEL_PARTS)
    records = stages.label(store.read_stage("image_embeddings", batch), plan, stats)
    artifact = _written(batch, stats.counted(records), {"clip_labels": plan.versions}, stages, store)["clip_labels"]
    return AssetResult("clip_labels", artifact.digest, plan, stats, artifact)


def _written(
    batch: Batch,
    records: Iterable[PhotoRecord],
    versions: Mapping[str, Mapping[str, str]],
    stages: FeatureStages,
    store: ArtifactStore,
) -> dict[str, StageArtifact]:
    """Write stage tables, with the model and the vocabulary that they are made with."""
    return store.write_stages(batch, records, versions, stages.settings.model, stages.classifier.vocabulary.labels)


def _features(batch: Batch, stages: FeatureStages, store: ArtifactStore, stats: RunStats) -> AssetResult:
    technical, labelled = (store.stage_metadata(name, batch) for name in ("technical_metrics", "clip_labels"))
    version = {
        "technical": technical_version(technical["versions"]),
        "clip": labelled["versions"].get("labels", UNMEASURED),
    }
    labels = labelled.get("labels") or stages.classifier.vocabulary.labels  # the project's may have changed since
    records = list(_joined(store.read_stage("technical_metrics", batch), store.read_stage("clip_labels", batch)))
    merged = merge(batch, records, version, labels, stages.settings.fallback_labels)
    with store.stored_embeddings(batch, records) as embeddings:
        finished = finish_batch(batch, merged, store, embeddings, stages.settings, stages.shown)
    log_batch(batch, merged, stats)
    return AssetResult("features", finished.artifact.digest, Plan(), finished=finished)


def _joined(technical: Iterable[PhotoRecord], labelled: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
    """Technical records with the labels of the same photos, which must have been made of the same bytes."""
    for record, other in zip(technical, labelled, strict=True):
        if record.info == other.info:
            record.prediction = other.prediction
        else:
            message = "the photo changed between its technical metrics and its labels: materialize both again"
            record.prediction = LabelPrediction(error=FeatureError("clip_labels", "photo_changed", message))
        yield record
