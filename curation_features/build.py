"""Build a batch asset by asset, with or without Dagster."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from curation_features.errors import StorageAwayError, StoreError
from curation_features.finish import FinishedBatch, finish_batch
from curation_features.manifest import Batch
from curation_features.pipeline import Earlier, FeatureStages, Plan, RunStats, log_batch, merge
from curation_features.pipeline.grouped import Compared
from curation_features.pipeline.plan import (
    EMBEDDING_PARTS,
    LABEL_PARTS,
    TECHNICAL_PARTS,
    UNMEASURED,
    groups_version,
    signals_version,
    technical_version,
)
from curation_features.schema import (
    ASSETS,
    PARTS,
    PHOTO_ASSETS,
    STORAGE_REASONS,
    FeatureError,
    LabelPrediction,
    PhotoRecord,
    StoredFingerprint,
)
from curation_features.storage.artifacts import ArtifactStore, StageArtifact
from curation_features.versions import digest

log = logging.getLogger(__name__)

_PARTS = {asset: {name for name, part in PARTS.items() if part.asset == asset} for asset in PHOTO_ASSETS}
_NEEDS = {"clip_labels": ("image_embeddings",), "features": ("technical_metrics", "clip_labels")}


@dataclass(frozen=True, slots=True)
class AssetResult:
    """Result of one asset of a batch.

    Attributes:
        data_version: digest of the logical content.
        plan: versions and missing parts of the asset; empty for `features`.
        stats: counts and timings; None for `label_embeddings` and `features`.
        stage: the stage table, if the asset has one.
        pass_version: digest of the plan of the pass over the photos, for assets computed by it.
        finished: the finished batch, for `features`.
    """

    asset: str
    data_version: str
    plan: Plan
    stats: RunStats | None = None
    stage: StageArtifact | None = None
    pass_version: str = ""
    finished: FinishedBatch | None = None

    def numbers(self) -> dict[str, int | float | str]:
        """Return counts, timings and identifying names as plain values."""
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
    """Build assets of a batch in dependency order; yield each result.

    Dependencies that are not in `assets` are read from the store. If they were never built from this manifest, they are
    built first, and their results are yielded, too. The caller holds the batch's lock (`ArtifactStore.exclusive`).

    Args:
        stages: bound to the batch's vocabulary (`FeatureStages.for_batch`).
        retry_failed: read and measure only photos with a transient error (`schema.RETRYABLE_REASONS`); keep the last
            results of all others.

    Raises:
        StorageAwayError: no photo could be read, each for a transient reason; nothing was written.
        SupersededError: another manifest was accepted in the meantime.
        StoreError: an artifact cannot be written or read; or settings have changed and `retry_failed` is set.
        WeightsError: model weights are missing, and settings do not allow degraded runs.
    """
    wanted = _add_dependencies(batch, assets, store)
    if "label_embeddings" in wanted:
        plan = stages.plan(LABEL_PARTS)
        yield AssetResult("label_embeddings", stages.ensure_label_embeddings(plan), plan)
    stats = RunStats()
    # The pass over the photos labels them, too, if their embeddings are in memory.
    in_pass = wanted.intersection(PHOTO_ASSETS if "image_embeddings" in wanted else ["technical_metrics"])
    passed: list[PhotoRecord] | None = None
    if "features" in wanted and in_pass.issuperset(_NEEDS["features"]):
        passed = []
    if in_pass:
        yield from _pixel_pass(batch, in_pass, stages, store, stats, passed, retry_failed=retry_failed)
    if "clip_labels" in wanted - in_pass:
        yield _clip_labels(batch, stages, store, RunStats() if in_pass else stats)
    if "features" in wanted:
        yield _features(batch, stages, store, stats, passed)


def check_storage(records: Iterable[PhotoRecord], batch_id: str) -> Iterator[PhotoRecord]:
    """Yield records; after the last one, raise `StorageAwayError` if the storage failed for every photo."""
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


def _add_dependencies(batch: Batch, assets: Collection[str], store: ArtifactStore) -> set[str]:
    """Add dependencies that were never built from this manifest."""
    wanted = set(assets)
    for asset in reversed(ASSETS):
        if asset in wanted:
            wanted.update(name for name in _NEEDS.get(asset, ()) if not store.has_stage(name, batch))
    return wanted


def _pixel_pass(
    batch: Batch,
    assets: set[str],
    stages: FeatureStages,
    store: ArtifactStore,
    stats: RunStats,
    passed: list[PhotoRecord] | None,
    *,
    retry_failed: bool,
) -> Iterator[AssetResult]:
    """Write stage tables in one pass that decodes each photo once.

    Args:
        stats: of the measurements; labels, which are computed from the embeddings in memory, have separate ones.
        passed: receives the records, without embeddings and fingerprints, which would take most of the memory; None:
            not needed.
    """
    plan = stages.plan([name for name, part in PARTS.items() if part.asset in assets])
    plan = replace(plan, thumbnails=stages.settings.contact_sheet)
    pixel_plan, label_plan = plan.only(TECHNICAL_PARTS | EMBEDDING_PARTS), plan.only(LABEL_PARTS)
    versions = {name: plan.only(_PARTS[name]).versions for name in PHOTO_ASSETS if name in assets}
    earlier = _read_earlier(batch, versions, store) if retry_failed else None
    records = stats.counted(check_storage(stages.measure(batch, plan, stats, earlier), batch.batch_id))
    label_stats = RunStats()
    if "clip_labels" in assets:
        records = label_stats.counted_labels(stages.label(records, label_plan, label_stats))
    if passed is not None:
        records = _copied(records, passed)
    pass_version = digest({"versions": dict(pixel_plan.versions), "missing": sorted(pixel_plan.missing)})[:16]
    labels = stages.classifier.vocabulary.labels
    for name, artifact in store.write_stages(batch, records, versions, stages.settings.model, labels).items():
        planned = (label_plan, label_stats) if name == "clip_labels" else (pixel_plan, stats)
        yield AssetResult(name, artifact.digest, *planned, artifact, pass_version)


def _copied(records: Iterable[PhotoRecord], copies: list[PhotoRecord]) -> Iterator[PhotoRecord]:
    for record in records:
        copies.append(replace(_without_fingerprint(record), embedding=None))
        yield record


def _without_fingerprint(record: PhotoRecord) -> PhotoRecord:
    """Return a record without the data of its fingerprint, which is large, and stays in the stage table."""
    error = record.fingerprint.error if record.fingerprint else None
    return replace(record, fingerprint=StoredFingerprint(error=error))


def _read_earlier(batch: Batch, versions: Mapping[str, Mapping[str, str]], store: ArtifactStore) -> Earlier | None:
    """Read the last results for this manifest; None if a stage is missing.

    Raises:
        StoreError: they were computed with other settings, models or libraries.
    """
    if not all(store.has_stage(name, batch) for name in versions):
        return None
    for name, parts in versions.items():
        if store.stage_metadata(name, batch)["versions"] != dict(parts):
            raise StoreError(
                f"{name} of batch {batch.batch_id!r} was made with other settings or models, so failed photos cannot "
                f"be retried alone: run it without --retry-failed"
            )
    retried = {(r.photo_id, r.image_uri) for r in _read_stored(batch, versions, store) if r.is_retryable}
    return Earlier(frozenset(retried), _read_stored(batch, versions, store))


def _read_stored(batch: Batch, names: Iterable[str], store: ArtifactStore) -> Iterator[PhotoRecord]:
    """Yield records that combine the named stages, in the order of the batch's distinct photos."""
    for row in zip(*(store.read_stage(name, batch) for name in names), strict=True):
        record = replace(row[0], cached=True, measurements={}, embedding=None, prediction=None)
        for stored in row:
            record.measurements |= stored.measurements
            record.embedding = record.embedding or stored.embedding
            record.prediction = record.prediction or stored.prediction
        yield record


def _clip_labels(batch: Batch, stages: FeatureStages, store: ArtifactStore, stats: RunStats) -> AssetResult:
    plan = stages.plan(LABEL_PARTS)
    records = stages.label(store.read_stage("image_embeddings", batch), plan, stats)
    counted, versions = stats.counted_labels(records), {"clip_labels": plan.versions}
    labels = stages.classifier.vocabulary.labels
    artifact = store.write_stages(batch, counted, versions, stages.settings.model, labels)["clip_labels"]
    return AssetResult("clip_labels", artifact.digest, plan, stats, artifact)


def _features(
    batch: Batch, stages: FeatureStages, store: ArtifactStore, stats: RunStats, records: list[PhotoRecord] | None
) -> AssetResult:
    """Merge, write and verify the features.

    Args:
        records: those from which the stage tables were just written; None: read the tables.
    """
    technical, labelled = (store.stage_metadata(name, batch) for name in ("technical_metrics", "clip_labels"))
    version = {
        "technical": technical_version(technical["versions"]),
        "clip": labelled["versions"].get("labels", UNMEASURED),
        "signals": signals_version(technical["versions"], stages.settings),
        "groups": groups_version({**technical["versions"], **_embedding_version(batch, store)}, stages.settings),
    }
    labels = labelled.get("labels") or stages.classifier.vocabulary.labels  # the current vocabulary may differ
    if records is None:
        records = list(_join_labels(*(store.read_stage(name, batch) for name in _NEEDS["features"])))
    with Compared() as compared, store.stored_embeddings(batch, records, compared.add_vector) as stored:
        embeddings, normed = stored
        for data in store.read_fingerprints(batch):
            compared.fingerprints.add(data)
        kept = partial(store.kept_groups, batch.batch_id)
        merged = merge(batch, normed, version, labels, stages.settings, compared, kept)
        stages.observer.features_merged(merged)
        finished = finish_batch(batch, merged, store, embeddings, stages.settings, stages.observer.photos_rendered)
    log_batch(batch, merged, stats)
    return AssetResult("features", finished.artifact.digest, Plan(), finished=finished)


def _embedding_version(batch: Batch, store: ArtifactStore) -> Mapping[str, str]:
    """Return the version of the stored embeddings; empty if there are none."""
    stage = "image_embeddings"
    versions: Mapping[str, str] = (
        store.stage_metadata(stage, batch)["versions"] if store.has_stage(stage, batch) else {}
    )
    return versions


def _join_labels(technical: Iterable[PhotoRecord], labelled: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
    """Add the labels to the technical records, if both were computed from the same bytes."""
    for record, other in zip(map(_without_fingerprint, technical), labelled, strict=True):
        if record.info == other.info:
            record.prediction = other.prediction
        else:
            message = "the photo changed between its technical metrics and its labels: materialize both again"
            record.prediction = LabelPrediction(error=FeatureError("clip_labels", "photo_changed", message))
        yield record
