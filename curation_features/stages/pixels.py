"""Photos become records: one streaming pass that reads and decodes each photo once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from curation_features.cache import FeatureCache
from curation_features.errors import ManifestError, PhotoError, WeightsError
from curation_features.manifest import Batch, distinct_photos
from curation_features.schema import Embedding, FeatureError, PhotoRecord
from curation_features.settings import Settings
from curation_features.stages.plan import STAGE_OF_PART, Models, Plan, tolerated
from curation_features.stages.preparation import Item, Preparation, Result, failed
from curation_features.stages.stats import RunStats
from curation_features.stages.streaming import bounded_map, each_or_error
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_BATCH_SIZES = {"cpu": 1, "mps": 32, "cuda": 64}  # on a CPU one at a time is as fast, and needs the least memory

Photo = tuple[str, str]


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

    def records(
        self, batch: Batch, plan: Plan, stats: RunStats, progress: Callable[[int], None] | None = None
    ) -> Iterator[PhotoRecord]:
        """Records of the batch's distinct photos, in order, with the parts of `plan` that come out of pixels.

        Labels are filled in where the plan has them and the cache knows them. Memory does not grow with the number of
        photos. What is computed is kept in the cache.

        Raises:
            ManifestError: one `photo_id` stands for two different images.
            WeightsError: a model cannot be loaded, and settings do not permit a degraded run.
        """
        photos = list(distinct_photos(batch))
        copies = self._copies(photos, batch)
        shared: dict[Photo, PhotoRecord | None] = dict.fromkeys(copies.values())
        measured = self._measured([photo for photo in photos if photo not in copies], plan, stats)
        for photo in photos:
            original = shared.get(copies.get(photo, photo))
            record = replace(original, image_uri=photo[1]) if original else next(measured)
            if photo in shared:
                shared[photo] = replace(record)
            if progress:
                progress(1)
            yield record

    def _measured(self, photos: Sequence[Photo], plan: Plan, stats: RunStats) -> Iterator[PhotoRecord]:
        workers = self._settings.workers or min(os.cpu_count() or 1, 8)
        ahead = 4 * workers + self._settings.batch_size
        prepared = bounded_map(lambda photo: self._prepare(photo, plan, stats), photos, workers=workers, ahead=ahead)
        try:
            for group in self._groups(prepared):
                self._run_models(group, plan, stats)
                for item in group:
                    self._keep(item, stats)
                    yield item.record
        finally:
            prepared.close()

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
        if self._settings.batch_size:
            return self._settings.batch_size
        from curation_features.device import select_device

        return _BATCH_SIZES[select_device(self._settings).name]

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

    def _run_models(self, items: Sequence[Item], plan: Plan, stats: RunStats) -> None:
        """The model parts of a group of photos, as one batch each."""
        for part, run in (("clip_iqa", self._score), ("embedding", self._embed)):
            group = [item for item in items if part in item.inputs]
            if not group:
                continue
            with stats.timing(STAGE_OF_PART.get(part, part)):
                results = each_or_error(run, [item.inputs.pop(part) for item in group])
            for item, result in zip(group, results, strict=True):
                if isinstance(result, WeightsError):
                    tolerated(result, self._settings)
                if isinstance(result, Exception):
                    log.warning("%s failed on one photo of the batch: %s", part, result)
                    result = failed(part, result)
                item.add(part, result, plan)

    def _score(self, inputs: Sequence[NDArray[np.float32]]) -> list[Result]:
        return [*self._technical.measure_clip_iqa(np.stack(inputs))]

    def _embed(self, inputs: Sequence[NDArray[np.float32]]) -> list[Result]:
        vectors = self._models.clip.get().encode_images(np.stack(inputs))
        return [_embedding(vector) for vector in vectors]

    def _keep(self, item: Item, stats: RunStats) -> None:
        if item.entry is not None and item.changed:
            with stats.timing("cache"):
                self._cache.save(item.record.photo_id, item.entry)


def _embedding(vector: NDArray[np.float32]) -> Embedding:
    if not np.isfinite(vector).all():
        message = "the model gave a vector that is not finite"
        return Embedding(error=FeatureError("image_embedding", "not_finite", message))
    return Embedding(np.ascontiguousarray(vector, dtype=np.float32))
