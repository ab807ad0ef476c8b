"""`PixelPass`: reads, decodes and measures each photo of a batch once, as a stream."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from curation_features.clip.embeddings import embed_images
from curation_features.concurrency import BatchRunner, at_once, bounded_map, in_order, worker_count
from curation_features.devices.transfer import stacked
from curation_features.errors import ManifestError, PhotoError, WeightsError
from curation_features.manifest import Batch, distinct_photos
from curation_features.photos.read_ahead import ReadAhead
from curation_features.pipeline.observer import Observer
from curation_features.pipeline.plan import MODEL_PARTS, Models, Plan, tolerated
from curation_features.pipeline.preparation import Item, Preparation, Result, failed
from curation_features.pipeline.stats import RunStats
from curation_features.schema import PARTS, UNIT_NORM_TOLERANCE, Embedding, FeatureError, PhotoRecord, round_score
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache
from curation_features.text import mask_secrets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput

log = logging.getLogger(__name__)

GROUPS_AT_ONCE = 2
"""Concurrent groups of photos on CUDA."""


Photo = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Results of an earlier run over the same batch.

    Attributes:
        retried: photos to measure again.
        records: one per distinct photo of the batch, in order.
    """

    retried: frozenset[Photo]
    records: Iterable[PhotoRecord]


class PixelPass:
    """Reads and decodes each photo of a batch once, for all parts of the plan."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        cache: FeatureCache,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._models = models
        self._cache = cache
        self._observer = observer
        self._prepare = Preparation(settings, models, cache)
        self._runners = {part: BatchRunner() for part in MODEL_PARTS}
        self._device = ""  # of the models; selected on first use

    def records(
        self, batch: Batch, plan: Plan, stats: RunStats, earlier: Earlier | None = None
    ) -> Iterator[PhotoRecord]:
        """Yield records of the distinct photos, in order, with the parts of `plan` that need pixels.

        Labels are set if the plan has them and the cache has valid ones. Results are cached. Memory does not grow with
        the number of photos.

        Args:
            earlier: keep these records, and read only the `retried` photos.

        Raises:
            ManifestError: one `photo_id` refers to two different images.
            WeightsError: a model cannot be loaded, and settings do not allow degraded runs.
        """
        photos = list(distinct_photos(batch))
        if earlier is None:
            records = self._read(photos, batch, plan, stats)
        else:
            retried = self._read([photo for photo in photos if photo in earlier.retried], batch, plan, stats)
            pairs = zip(photos, earlier.records, strict=True)
            records = (next(retried) if photo in earlier.retried else kept for photo, kept in pairs)
        for record in records:
            self._observer.photo_done(record)
            yield record

    def _read(self, photos: Sequence[Photo], batch: Batch, plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        """Yield records of these photos, each read and measured once."""
        copies = self._find_copies(photos, batch)
        ingest_errors = {(a.photo_id, a.image_uri): a.ingest_error for a in reversed(batch.artifacts) if a.ingest_error}
        shared: dict[Photo, PhotoRecord | None] = dict.fromkeys(copies.values())
        measured = self._measure([photo for photo in photos if photo not in copies], plan, stats)
        for photo in photos:
            original = shared.get(copies.get(photo, photo))
            record = replace(original, image_uri=photo[1]) if original else next(measured)
            record.failure = _merge_failures(record.failure, ingest_errors.get(photo))
            if photo in shared:
                shared[photo] = replace(record)
            yield record

    def _measure(self, photos: Sequence[Photo], plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        cpu_is_busy = False
        workers = worker_count(self._settings.workers)
        ahead = ReadAhead(self._prepare.reader.read, (uri for _, uri in photos), self._settings.downloads_at_once)
        prepared = bounded_map(
            lambda photo: self._prepare(photo, plan, stats, ahead),
            photos,
            workers=workers,
            ahead=4 * workers + self._settings.batch_size,
            # A model on the CPU uses all cores; concurrent decoding would slow it down by more than it gains.
            in_bursts=lambda: cpu_is_busy,
        )
        pool = ThreadPoolExecutor(GROUPS_AT_ONCE, thread_name_prefix="models")

        def start(group: list[Item]) -> Future[list[Item]]:
            nonlocal cpu_is_busy
            needs_model = any(item.inputs for item in group)
            cpu_is_busy = needs_model and self._device == "cpu"
            return pool.submit(self._finish, group, plan, stats) if needs_model else at_once(self._save, group, stats)

        try:
            ahead.start()
            groups = map(start, self._groups(stats.waited("photos", prepared)))
            for group in stats.waited("models", in_order(groups, self._groups_ahead)):
                yield from (item.record for item in group)
        finally:
            pool.shutdown(cancel_futures=True)
            prepared.close()
            ahead.close()

    def _groups_ahead(self) -> int:
        """Number of groups that may run or wait while earlier records are consumed.

        On CUDA several, so that the device's queue is never empty. Otherwise one: it uses all cores of a CPU, and MPS
        runs one thread at a time.
        """
        return GROUPS_AT_ONCE + 1 if self._device == "cuda" else 1

    def _groups(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Group photos for one forward pass; a photo that needs no model waits only for earlier photos."""
        group: list[Item] = []
        waiting = 0
        for item in items:
            group.append(item)
            waiting += bool(item.inputs)
            if not waiting or waiting >= self._batch_size or len(group) >= 4 * self._batch_size:
                yield group
                group, waiting = [], 0
        if group:
            yield group

    @cached_property
    def _batch_size(self) -> int:
        """Photos per forward pass. Lazy, because the selection of an automatic device imports torch."""
        from curation_features.devices.selection import BATCH_SIZES, select_device

        self._device = select_device(self._settings).name
        return self._settings.batch_size or BATCH_SIZES[self._device]

    def _find_copies(self, photos: Sequence[Photo], batch: Batch) -> dict[Photo, Photo]:
        """Map photos with the id and the bytes of an earlier photo, under another URI, to that photo."""
        first: dict[str, Photo] = {}
        copies: dict[Photo, Photo] = {}
        for photo in photos:
            original = first.setdefault(photo[0], photo)
            if original == photo:
                continue
            is_same = self._have_same_bytes(original[1], photo[1])
            if is_same:
                copies[photo] = original
            elif is_same is not None:
                position = next(a.position for a in batch.artifacts if (a.photo_id, a.image_uri) == photo)
                raise ManifestError(
                    f"artifacts[{position}].photo_id",
                    f"{photo[0]!r} refers to different images, {mask_secrets(original[1])!r} and "
                    f"{mask_secrets(photo[1])!r}; use different ids",
                )
        return copies

    def _have_same_bytes(self, one: str, other: str) -> bool | None:
        """Whether two URIs have the same bytes; None if one is unreadable, which is a failure of that photo only."""
        try:
            return self._prepare.reader.read(one).sha256 == self._prepare.reader.read(other).sha256
        except PhotoError:
            return None

    def _finish(self, items: list[Item], plan: Plan, stats: RunStats) -> list[Item]:
        """Compute the model parts of a group, one batch per part, and cache the results."""
        for part, run in (("brisque", self._brisque), ("clip_iqa", self._clip_iqa), ("embedding", self._embed)):
            group = [item for item in items if part in item.inputs]
            if not group:
                continue
            with stats.timing(PARTS[part].stage):
                results = self._runners[part](run, [item.inputs.pop(part) for item in group])
            for item, result in zip(group, results, strict=True):
                if isinstance(result, WeightsError):
                    tolerated(result, self._settings)
                if isinstance(result, Exception):
                    log.warning("%s failed on one photo of the batch: %s", part, result)
                    result = failed(part, result)
                item.add(part, result, plan)
        return self._save(items, stats)

    def _brisque(self, inputs: Sequence[ModelInput]) -> list[Result]:
        return [*self._prepare.technical().measure_brisque(inputs)]

    def _clip_iqa(self, inputs: Sequence[ModelInput]) -> list[Result]:
        return [*self._prepare.technical().measure_clip_iqa(stacked(inputs))]

    def _embed(self, inputs: Sequence[ModelInput]) -> list[Result]:
        vectors, norms = embed_images(self._models.clip.get(), stacked(inputs))
        return [_check_embedding(*pair) for pair in zip(vectors, norms, strict=True)]

    def _save(self, items: list[Item], stats: RunStats) -> list[Item]:
        """Save new results and thumbnails of the photos in the cache; return the photos.

        A thumbnail follows the entry of its photo, by which a removal finds it if the run ends early.
        """
        for item in items:
            if item.entry is not None and item.changed:
                with stats.timing("cache"):
                    is_saved = self._cache.save(item.record.photo_id, item.entry)
                if is_saved and item.thumbnail:
                    with stats.timing("thumbnails"):
                        self._prepare.thumbnails.keep(item.entry.info.sha256, item.thumbnail)
        return items


def _merge_failures(failure: FeatureError | None, ingest_error: FeatureError | None) -> FeatureError | None:
    """Return the failure of a photo: the error of ingest if this run may not read the file."""
    if failure is None or ingest_error is None or failure.reason != "forbidden_path":
        return failure
    return replace(ingest_error, message=f"{ingest_error.message}; ingest the folder again once it is repaired")


def _check_embedding(vector: NDArray[np.float32], norm: float | None) -> Embedding:
    """Return a photo's embedding, or an error if its numbers are impossible.

    Args:
        norm: before normalisation; None: unknown.
    """
    if not np.isfinite(vector).all():
        message = "the model gave an embedding that is not finite"
        return Embedding(error=FeatureError("image_embedding", "not_finite", message))
    if abs(float(np.linalg.norm(vector)) - 1) > UNIT_NORM_TOLERANCE:
        message = f"the model gave an embedding of norm {np.linalg.norm(vector):g}, which is not 1"
        return Embedding(error=FeatureError("image_embedding", "out_of_range", message))
    if norm is None:
        return Embedding(np.ascontiguousarray(vector, dtype=np.float32))
    if not (math.isfinite(norm) and norm > 0):
        message = f"the model gave an embedding whose norm before normalisation is {norm:g}"
        return Embedding(error=FeatureError("image_embedding", "out_of_range", message))
    return Embedding(np.ascontiguousarray(vector, dtype=np.float32), norm=round_score(norm))
