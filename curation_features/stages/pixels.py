"""Photos become records: one streaming pass that reads and decodes each photo once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from curation_features.cache import CacheEntry, FeatureCache
from curation_features.errors import ManifestError, PhotoError, WeightsError
from curation_features.manifest import Batch, distinct_photos
from curation_features.photos import PhotoReader, decode
from curation_features.schema import CPU_METRICS, METRIC_NAMES, Embedding, FeatureError, Measurement, PhotoRecord
from curation_features.settings import Settings
from curation_features.stages.plan import LABEL_PARTS, STAGE_OF_PART, TECHNICAL_PARTS, Models, Plan
from curation_features.stages.stats import RunStats
from curation_features.stages.streaming import bounded_map, each_or_error
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_BATCH_SIZES = {"cpu": 1, "mps": 32, "cuda": 64}  # on a CPU one at a time is as fast, and needs the least memory


@dataclass(slots=True)
class _Item:
    """A photo on its way: its record, its cache entry, and the model inputs that are still to be computed."""

    record: PhotoRecord
    entry: CacheEntry | None = None
    inputs: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    changed: bool = False


class PixelPass:
    """One pass over the photos of a batch: reads and decodes each once, for every part that is wanted of it."""

    def __init__(
        self, settings: Settings, models: Models, cache: FeatureCache, technical: TechnicalQualityAnalyzer
    ) -> None:
        self._settings = settings
        self._models = models
        self._cache = cache
        self._technical = technical
        self._reader = PhotoReader(settings)

    def records(
        self, batch: Batch, plan: Plan, stats: RunStats, progress: Callable[[int], None] | None = None
    ) -> Iterator[PhotoRecord]:
        """Records of the batch's distinct photos, in order, with the parts of `plan` that come out of pixels.

        Memory does not grow with the number of photos. What is computed is kept in the cache.

        Raises:
            ManifestError: one `photo_id` stands for two different images.
            WeightsError: a model cannot be loaded, and settings do not permit a degraded run.
        """
        photos = list(distinct_photos(batch))
        self._check_same_images(photos, batch)
        workers = self._settings.workers or min(os.cpu_count() or 1, 8)
        ahead = 4 * workers + self._settings.batch_size
        prepared = bounded_map(lambda photo: self._prepare(photo, plan, stats), photos, workers=workers, ahead=ahead)
        try:
            for group in self._groups(prepared):
                self._run_models(group, plan, stats)
                for item in group:
                    self._keep(item, stats)
                    stats.count(item.record)
                    if progress:
                        progress(1)
                    yield item.record
        finally:
            prepared.close()

    def _groups(self, items: Iterable[_Item]) -> Iterator[list[_Item]]:
        """Groups that fill one forward pass; a photo that needs no model waits for none that does."""
        group: list[_Item] = []
        for item in items:
            group.append(item)
            if not group[0].inputs or len(group) >= self._batch_size:
                yield group
                group = []
        if group:
            yield group

    @cached_property
    def _batch_size(self) -> int:
        """Photos per forward pass. Asked for only when a model runs, since an automatic device is found by torch."""
        if self._settings.batch_size:
            return self._settings.batch_size
        from curation_features.device import select_device

        return _BATCH_SIZES[select_device(self._settings).name]

    def _check_same_images(self, photos: Sequence[tuple[str, str]], batch: Batch) -> None:
        """Refuse a batch in which one id stands for two different images."""
        first: dict[str, str] = {}
        for photo_id, uri in photos:
            if first.setdefault(photo_id, uri) != uri and self._differ(first[photo_id], uri):
                position = next(a.position for a in batch.artifacts if (a.photo_id, a.image_uri) == (photo_id, uri))
                raise ManifestError(
                    f"artifacts[{position}].photo_id",
                    f"{photo_id!r} stands for different images, {first[photo_id]!r} and {uri!r}; give each its own id",
                )

    def _differ(self, one: str, other: str) -> bool:
        try:
            return self._reader.read(one).sha256 != self._reader.read(other).sha256
        except PhotoError:
            return False  # an unreadable photo fails on its own, with its own reason

    def _prepare(self, photo: tuple[str, str], plan: Plan, stats: RunStats) -> _Item:
        """Read a photo, take from the cache what is valid, and measure or prepare the rest. Runs in a thread."""
        record = PhotoRecord(*photo)
        try:
            return self._prepared(record, plan, stats)
        except PhotoError as error:
            record.failure = FeatureError("photo", error.reason, str(error))
        except WeightsError:
            raise
        except Exception as error:
            log.exception("An unexpected error in one photo of the batch; the others go on")
            record.failure = FeatureError("photo", "internal_error", f"{type(error).__name__}: {error}")
        return _Item(record)

    def _prepared(self, record: PhotoRecord, plan: Plan, stats: RunStats) -> _Item:
        wanted = plan.versions.keys() - LABEL_PARTS
        with stats.timing("read"):
            file = self._reader.read(record.image_uri)
        with stats.timing("cache"):
            entry = self._cache.load(record.photo_id, file.sha256)
        item = _Item(record, entry)
        valid = entry.valid({part: plan.versions[part] for part in wanted}) if entry else frozenset()
        todo = wanted - valid
        record.cached = entry is not None and not todo
        if entry is None or todo:
            with stats.timing("decode"):
                photo = decode(file, max_pixels=self._settings.max_pixels)
            item.entry = entry = entry or CacheEntry(photo.info)
            self._measure_pixels(item, photo.rgb, todo, plan, stats)
        record.info = entry.info
        record.measurements.update({name: entry.measurements[name] for name in valid & TECHNICAL_PARTS})
        record.measurements.update(
            {part: Measurement(error=error) for part, error in plan.missing.items() if part in METRIC_NAMES}
        )
        if "embedding" in valid:
            record.embedding = entry.embedding
        elif "embedding" in plan.missing:
            record.embedding = Embedding(error=plan.missing["embedding"])
        return item

    def _measure_pixels(
        self, item: _Item, rgb: NDArray[np.uint8], todo: Collection[str], plan: Plan, stats: RunStats
    ) -> None:
        """CPU metrics now; for the models, their inputs."""
        cpu = [name for name in CPU_METRICS if name in todo]
        if cpu:
            with stats.timing("cpu_metrics"):
                self._add(item, self._cpu_metrics(rgb, cpu), plan)
        preprocess = {
            "clip_iqa": lambda: self._models.clip_iqa.get().preprocess(rgb),
            "embedding": lambda: self._models.clip.get().preprocess(rgb),
        }
        for part in preprocess.keys() & todo:
            try:
                with stats.timing("preprocess"):
                    item.inputs[part] = preprocess[part]()
            except WeightsError as error:
                self._add(item, {part: _failed(part, self._tolerated(error))}, plan)
            except Exception as error:
                log.exception("%s cannot take one photo of the batch; the others go on", part)
                self._add(item, {part: _failed(part, error)}, plan)

    def _cpu_metrics(self, rgb: NDArray[np.uint8], names: Sequence[str]) -> dict[str, Measurement]:
        try:
            return self._technical.measure(rgb, names)
        except WeightsError as error:  # only BRISQUE has weights
            failed = Measurement(error=_feature_error("brisque", self._tolerated(error)))
            return {**self._technical.measure(rgb, [name for name in names if name != "brisque"]), "brisque": failed}

    def _tolerated(self, error: WeightsError) -> WeightsError:
        """Pass on an error about weights where settings permit a degraded run; raise it where they do not."""
        if self._settings.on_missing_weights == "fail":
            raise error
        return error

    def _run_models(self, items: Sequence[_Item], plan: Plan, stats: RunStats) -> None:
        """The model parts of a group of photos, as one batch each."""
        for part, run in (("clip_iqa", self._score), ("embedding", self._embed)):
            group = [item for item in items if part in item.inputs]
            with stats.timing(STAGE_OF_PART.get(part, part)):
                results = each_or_error(run, [item.inputs.pop(part) for item in group])
            for item, result in zip(group, results, strict=True):
                if isinstance(result, Exception):
                    log.warning("%s failed on one photo of the batch: %s", part, result)
                    result = _failed(part, result)
                self._add(item, {part: result}, plan)

    def _score(self, inputs: Sequence[NDArray[np.float32]]) -> list[Measurement | Embedding]:
        return [*self._technical.measure_clip_iqa(np.stack(inputs))]

    def _embed(self, inputs: Sequence[NDArray[np.float32]]) -> list[Measurement | Embedding]:
        vectors = self._models.clip.get().encode_images(np.stack(inputs))
        return [_embedding(vector) for vector in vectors]

    def _add(self, item: _Item, results: Mapping[str, Measurement | Embedding], plan: Plan) -> None:
        """Put new results into the record and, unless they are passing errors, into the cache entry."""
        for part, result in results.items():
            if isinstance(result, Embedding):
                item.record.embedding = result
            else:
                item.record.measurements[part] = result
            if item.entry is not None:
                item.entry.add(part, plan.versions[part], result)
                item.changed = True

    def _keep(self, item: _Item, stats: RunStats) -> None:
        if item.entry is not None and item.changed:
            with stats.timing("cache"):
                self._cache.save(item.record.photo_id, item.entry)


def _feature_error(part: str, error: Exception) -> FeatureError:
    stage = STAGE_OF_PART.get(part, part)
    if isinstance(error, WeightsError):
        return FeatureError(stage, error.reason, error.summary)
    reason = (
        "out_of_memory" if "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError) else "model_error"
    )
    return FeatureError(stage, reason, f"{type(error).__name__}: {error}")


def _failed(part: str, error: Exception) -> Measurement | Embedding:
    found = _feature_error(part, error)
    return Embedding(error=found) if part == "embedding" else Measurement(error=found)


def _embedding(vector: NDArray[np.float32]) -> Embedding:
    if not np.isfinite(vector).all():
        return Embedding(
            error=FeatureError("image_embedding", "not_finite", "the model gave a vector that is not finite")
        )
    return Embedding(np.ascontiguousarray(vector, dtype=np.float32))
