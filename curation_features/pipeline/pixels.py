"""Photos become records: one streaming pass that reads and decodes each photo once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from curation_features.concurrency import BatchRunner, at_once, bounded_map, in_order, worker_count
from curation_features.devices.transfer import stacked
from curation_features.errors import ManifestError, PhotoError, WeightsError
from curation_features.manifest import Batch, distinct_photos
from curation_features.pipeline.plan import MODEL_PARTS, Models, Plan, tolerated
from curation_features.pipeline.preparation import Item, Preparation, Result, failed
from curation_features.pipeline.stats import RunStats
from curation_features.schema import PARTS, UNIT_NORM_TOLERANCE, Embedding, FeatureError, PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.cache import FeatureCache
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput

log = logging.getLogger(__name__)

GROUPS_AT_ONCE = 2
"""Groups of photos that models work on at once, where the device is CUDA."""


Photo = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Results of an earlier run over the same batch, most of which are kept.

    Attributes:
        retried: the photos that are measured again.
        records: of all distinct photos of the batch, in order.
    """

    retried: frozenset[Photo]
    records: Iterable[PhotoRecord]


class PixelPass:
    """One pass over the photos of a batch: reads and decodes each once, for every part that is wanted of it."""

    def __init__(
        self, settings: Settings, models: Models, cache: FeatureCache, technical: TechnicalQualityAnalyzer
    ) -> None:
        self._settings = settings
        self._models = models
        self._cache = cache
        self._technical = technical
        self._prepare = Preparation(settings, models, cache, technical)
        self._runners = {part: BatchRunner() for part in MODEL_PARTS}
        self._device = ""  # where models run, once one is needed

    def records(
        self,
        batch: Batch,
        plan: Plan,
        stats: RunStats,
        progress: Callable[[PhotoRecord], None] | None = None,
        earlier: Earlier | None = None,
    ) -> Iterator[PhotoRecord]:
        """Records of the batch's distinct photos, in order, with the parts of `plan` that come out of pixels.

        Labels are filled in where the plan has them and the cache knows them. Memory does not grow with the number of
        photos. What is computed is kept in the cache.

        Args:
            progress: called with each record.
            earlier: records to pass on; only its `retried` photos are read.

        Raises:
            ManifestError: one `photo_id` stands for two different images.
            WeightsError: a model cannot be loaded, and settings do not permit a degraded run.
        """
        photos = list(distinct_photos(batch))
        if earlier is None:
            records = self._read(photos, batch, plan, stats)
        else:
            retried = self._read([photo for photo in photos if photo in earlier.retried], batch, plan, stats)
            pairs = zip(photos, earlier.records, strict=True)
            records = (next(retried) if photo in earlier.retried else kept for photo, kept in pairs)
        for record in records:
            if progress:
                progress(record)
            yield record

    def _read(self, photos: Sequence[Photo], batch: Batch, plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        """Records of these photos, each read and measured once."""
        copies = self._copies(photos, batch)
        found = {(a.photo_id, a.image_uri): a.ingest_error for a in reversed(batch.artifacts) if a.ingest_error}
        shared: dict[Photo, PhotoRecord | None] = dict.fromkeys(copies.values())
        measured = self._measured([photo for photo in photos if photo not in copies], plan, stats)
        for photo in photos:
            original = shared.get(copies.get(photo, photo))
            record = replace(original, image_uri=photo[1]) if original else next(measured)
            record.failure = _true_failure(record.failure, found.get(photo))
            if photo in shared:
                shared[photo] = replace(record)
            yield record

    def _measured(self, photos: Sequence[Photo], plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        cpu_is_busy = False
        workers = worker_count(self._settings.workers)
        prepared = bounded_map(
            lambda photo: self._prepare(photo, plan, stats),
            photos,
            workers=workers,
            ahead=4 * workers + self._settings.batch_size,
            # A model on the CPU takes all cores for itself, and is slowed down by more than what others gain.
            in_bursts=lambda: cpu_is_busy,
        )
        pool = ThreadPoolExecutor(GROUPS_AT_ONCE, thread_name_prefix="models")

        def start(group: list[Item]) -> Future[list[Item]]:
            nonlocal cpu_is_busy
            needs_model = any(item.inputs for item in group)
            cpu_is_busy = needs_model and self._device == "cpu"
            return pool.submit(self._finish, group, plan, stats) if needs_model else at_once(self._kept, group, stats)

        try:
            groups = map(start, self._groups(stats.waited("photos", prepared)))
            for group in stats.waited("models", in_order(groups, self._groups_ahead)):
                yield from (item.record for item in group)
        finally:
            pool.shutdown(cancel_futures=True)
            prepared.close()

    def _groups_ahead(self) -> int:
        """Groups whose models may run, or wait to, while earlier records are consumed.

        On CUDA some, so that there is always one in the device's queue. Elsewhere one: a CPU's cores are taken by it,
        and MPS takes one thread at a time.
        """
        return GROUPS_AT_ONCE + 1 if self._device == "cuda" else 1

    def _groups(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Groups that fill one forward pass; a photo that needs no model waits only behind one that does."""
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
        """Photos per forward pass. Asked for only when a model runs, since an automatic device is found by torch."""
        from curation_features.devices.selection import BATCH_SIZES, select_device

        self._device = select_device(self._settings).name
        return self._settings.batch_size or BATCH_SIZES[self._device]

    def _copies(self, photos: Sequence[Photo], batch: Batch) -> dict[Photo, Photo]:
        """Photos that have the id and the bytes of an earlier one under another URI: photo -> the earlier one."""
        first: dict[str, Photo] = {}
        copies: dict[Photo, Photo] = {}
        for photo in photos:
            original = first.setdefault(photo[0], photo)
            if original == photo:
                continue
            same = self._same_bytes(original[1], photo[1])
            if same:
                copies[photo] = original
            elif same is not None:
                position = next(a.position for a in batch.artifacts if (a.photo_id, a.image_uri) == photo)
                raise ManifestError(
                    f"artifacts[{position}].photo_id",
                    f"{photo[0]!r} stands for different images, {original[1]!r} and {photo[1]!r}; give each its own id",
                )
        return copies

    def _same_bytes(self, one: str, other: str) -> bool | None:
        """Whether two URIs hold the same bytes; None where one cannot be read, which is that photo's own failure."""
        try:
            return self._prepare.reader.read(one).sha256 == self._prepare.reader.read(other).sha256
        except PhotoError:
            return None

    def _finish(self, items: list[Item], plan: Plan, stats: RunStats) -> list[Item]:
        """The model parts of a group of photos, as one batch each; what is complete is kept in the cache."""
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
        return self._kept(items, stats)

    def _brisque(self, inputs: Sequence[ModelInput]) -> list[Result]:
        return [*self._technical.measure_brisque(inputs)]

    def _clip_iqa(self, inputs: Sequence[ModelInput]) -> list[Result]:
        return [*self._technical.measure_clip_iqa(stacked(inputs))]

    def _embed(self, inputs: Sequence[ModelInput]) -> list[Result]:
        vectors = self._models.clip.get().encode_images(stacked(inputs))
        return [_embedding(vector) for vector in vectors]

    def _kept(self, items: list[Item], stats: RunStats) -> list[Item]:
        """The photos themselves, when what is new in them lies in the cache."""
        for item in items:
            if item.entry is not None and item.changed:
                with stats.timing("cache"):
                    self._cache.save(item.record.photo_id, item.entry)
        return items


def _true_failure(failure: FeatureError | None, of_ingest: FeatureError | None) -> FeatureError | None:
    """Why a photo cannot be read: what ingest found, where this run may not look for itself."""
    if failure is None or of_ingest is None or failure.reason != "forbidden_path":
        return failure
    return replace(of_ingest, message=f"{of_ingest.message}; ingest the folder again once it is repaired")


def _embedding(vector: NDArray[np.float32]) -> Embedding:
    if not np.isfinite(vector).all():
        message = "the model gave a vector that is not finite"
        return Embedding(error=FeatureError("image_embedding", "not_finite", message))
    if abs(float(np.linalg.norm(vector)) - 1) > UNIT_NORM_TOLERANCE:
        message = f"the model gave a vector of norm {np.linalg.norm(vector):g}, which is not 1"
        return Embedding(error=FeatureError("image_embedding", "out_of_range", message))
    return Embedding(np.ascontiguousarray(vector, dtype=np.float32))
