"""Per-photo work before the models: read, cache look-up, decode, model-free metrics, model inputs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from curation_features.concurrency import is_out_of_memory
from curation_features.errors import (
    TOO_MANY_FILES,
    CurationError,
    PhotoError,
    ResourceError,
    WeightsError,
    too_many_files,
)
from curation_features.photos.decoding_version import decoding_version
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoFile, PhotoReader
from curation_features.photos.thumbnail import PREVIEW
from curation_features.photos.thumbnails import Thumbnails
from curation_features.pipeline.plan import LABEL_PARTS, MODEL_PARTS, SCORE_PARTS, Models, Plan, tolerated
from curation_features.pipeline.stats import RunStats
from curation_features.schema import (
    FINGERPRINT,
    PARTS,
    SIGNAL_PARTS,
    Embedding,
    FeatureError,
    Measurement,
    PhotoRecord,
    Signals,
    StoredFingerprint,
)
from curation_features.settings import Settings
from curation_features.storage.cache import CacheEntry, FeatureCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.signals.views import Views
    from curation_features.technical.analyzer import TechnicalQualityAnalyzer

log = logging.getLogger(__name__)

Result: TypeAlias = Measurement | Signals | StoredFingerprint | Embedding


@dataclass(slots=True)
class Item:
    """A photo in progress: its record, its cache entry, its thumbnail if it is not cached, and its model inputs."""

    record: PhotoRecord
    entry: CacheEntry | None = None
    thumbnail: bytes | None = None
    inputs: dict[str, ModelInput] = field(default_factory=dict)
    changed: bool = False

    def add(self, part: str, result: Result, plan: Plan) -> None:
        """Add a new result to the record and to the cache entry, which ignores transient errors."""
        if isinstance(result, Embedding):
            self.record.embedding = result
        elif isinstance(result, Signals):
            self.record.signals[part] = result
        elif isinstance(result, StoredFingerprint):
            self.record.fingerprint = result
        else:
            self.record.measurements[part] = result
        if self.entry is not None:
            self.entry.add(part, plan.versions[part], result)
            self.changed = True


class Preparation:
    """Prepares photos one by one. Thread-safe."""

    def __init__(self, settings: Settings, models: Models, cache: FeatureCache) -> None:
        self.reader = PhotoReader(settings)
        self.thumbnails = Thumbnails(settings, PREVIEW)
        self._decoder = Decoder(settings)
        self._settings = settings
        self._models = models
        self._cache = cache
        self._lock = threading.Lock()
        self._technical: TechnicalQualityAnalyzer | None = None

    def technical(self) -> TechnicalQualityAnalyzer:
        """Return the metrics; they are created for the first photo that is not cached, since they import OpenCV."""
        from curation_features.technical.analyzer import TechnicalQualityAnalyzer

        with self._lock:
            if self._technical is None:
                brisque, clip_iqa = self._models.brisque, self._models.clip_iqa
                self._technical = TechnicalQualityAnalyzer(self._settings, brisque=brisque, clip_iqa=clip_iqa)
            return self._technical

    def __call__(self, photo: tuple[str, str], plan: Plan, stats: RunStats, read: Callable[[str], PhotoFile]) -> Item:
        """Use valid cached results, measure the parts that need no batch, and prepare model inputs.

        Args:
            photo: id and URI.
            read: reads a photo by its URI; raises like `PhotoReader.read`.

        Raises:
            CurationError: the whole run is affected (a model cannot be loaded, say). An error of this photo only
                becomes the record's `failure`.
        """
        record = PhotoRecord(*photo)
        try:
            return self._process(record, plan, stats, read)
        except PhotoError as error:
            record.failure = FeatureError("photo", error.reason, str(error))
        except CurationError:
            raise
        except Exception as error:
            if too_many_files(error):  # a late import, say
                raise ResourceError(f"{error}; {TOO_MANY_FILES}") from error
            log.exception("Unexpected error in one photo of the batch; the run continues")
            record.failure = FeatureError("photo", "internal_error", f"{type(error).__name__}: {error}")
        return Item(record)

    def _process(self, record: PhotoRecord, plan: Plan, stats: RunStats, read: Callable[[str], PhotoFile]) -> Item:
        with stats.timing("read"):
            file = read(record.image_uri)
        with stats.timing("cache"):
            entry = self._cache.load(record.photo_id, file.sha256)
            decoding = decoding_version(file.data)
        if entry is not None and entry.decoding < decoding:
            entry = None  # measured on pixels that are decoded otherwise now
        if entry is not None and entry.info.width * entry.info.height > self._settings.max_pixels:
            entry = None  # decoding raises the error
        valid = entry.valid(plan.versions) if entry else frozenset()
        todo = plan.versions.keys() - valid - LABEL_PARTS
        item = Item(record, entry)
        record.cached = entry is not None and not todo
        record.partly_cached = bool(todo and valid)
        if entry is None or todo:
            with stats.timing("decode"):
                photo = self._decoder.decode(file)
            item.entry = entry = entry or CacheEntry(photo.info, decoding=decoding)
            if plan.thumbnails:
                with stats.timing("thumbnails"):
                    item.thumbnail = self.thumbnails.make_missing(photo)
            self._measure(item, photo.rgb, todo, plan, stats)
        record.info = entry.info
        _fill(record, entry, valid, plan)
        return item

    def _measure(self, item: Item, rgb: NDArray[np.uint8], todo: Set[str], plan: Plan, stats: RunStats) -> None:
        """Measure the metrics that need no batch, and prepare the model inputs."""
        one_by_one = todo - set(MODEL_PARTS) - set(SIGNAL_PARTS) - {FINGERPRINT}
        for part in (part for part in MODEL_PARTS if part in todo):
            try:
                model = self._models.load(part)
            except WeightsError as error:
                item.add(part, failed(part, tolerated(error, self._settings)), plan)
                continue
            if model is None:
                one_by_one |= {part}
                continue
            with stats.timing("preprocess"):
                try:
                    item.inputs[part] = model.preprocess(rgb)
                except Exception as error:
                    log.exception("%s cannot preprocess one photo of the batch; the run continues", part)
                    item.add(part, failed(part, error), plan)
        if one_by_one:
            with stats.timing("cpu_metrics"):
                for part, measurement in self.technical().measure_cpu(rgb, one_by_one).items():
                    item.add(part, measurement, plan)
        if viewed := todo & {*SIGNAL_PARTS, FINGERPRINT}:
            _measure_views(item, rgb, viewed, plan, stats)


def _measure_views(item: Item, rgb: NDArray[np.uint8], parts: Set[str], plan: Plan, stats: RunStats) -> None:
    """Measure the signals and the fingerprint, as far as they are in `parts`, from the same reduced copies."""
    from curation_features.signals.table import measure_parts  # OpenCV loads with the first photo
    from curation_features.signals.views import Views

    views = Views(rgb)
    with stats.timing("signals"):
        for part, signals in measure_parts(views, parts).items():
            item.add(part, signals, plan)
    if FINGERPRINT in parts:
        with stats.timing(FINGERPRINT):
            item.add(FINGERPRINT, _fingerprint(views), plan)


def _fingerprint(views: Views) -> StoredFingerprint:
    """Measure the fingerprint of a photo; a failure does not affect the other parts."""
    from curation_features.fingerprints.encoding import to_bytes  # OpenCV loads with the first photo
    from curation_features.fingerprints.measure import measure

    try:
        return StoredFingerprint(to_bytes(measure(views.preview_rgb, views.detail_luma)))
    except Exception as error:
        log.exception("Unexpected error in the fingerprint of one photo of the batch; the run continues")
        reason = "out_of_memory" if is_out_of_memory(error) else "internal_error"
        return StoredFingerprint(error=FeatureError(FINGERPRINT, reason, str(error) or type(error).__name__))


def failed(part: str, error: Exception) -> Result:
    """Return the result of a part that failed."""
    stage = PARTS[part].stage
    if isinstance(error, WeightsError):
        feature_error = FeatureError(stage, error.reason, error.summary)
    else:
        reason = "out_of_memory" if is_out_of_memory(error) else "model_error"
        feature_error = FeatureError(stage, reason, f"{type(error).__name__}: {error}")
    return Embedding(error=feature_error) if part == "embedding" else Measurement(error=feature_error)


def _fill(record: PhotoRecord, entry: CacheEntry, valid: Collection[str], plan: Plan) -> None:
    """Add the valid cached results, and the errors of missing models, to a record."""
    record.measurements.update({name: entry.measurements[name] for name in SCORE_PARTS & set(valid)})
    record.signals.update({part: entry.signals[part] for part in SIGNAL_PARTS if part in valid})
    if FINGERPRINT in valid:
        record.fingerprint = entry.fingerprint
    for part, error in plan.missing.items():
        if part in SCORE_PARTS:
            record.measurements[part] = Measurement(error=error)
        elif part == "embedding":
            record.embedding = Embedding(error=error)
    if "embedding" in valid:
        record.embedding = entry.embedding
    if "labels" in valid:
        record.prediction = entry.prediction
