"""The per-photo cache: `{md5("{photo_id}_features")}.json`, holding `{"version": {...}, "features": {...}}`.

An entry is valid only for the exact bytes of its photo and their decoding, and per part: each metric, the embedding and
the labels have separate versions (see `versions`). A damaged entry, or one of another photo or other bytes, is ignored.
If the cache cannot be written, later runs are slower; results do not change.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curation_features.atomic_files import open_regular, sweep, write_bytes, writing
from curation_features.schema import (
    FINGERPRINT,
    METRIC_NAMES,
    PERMANENT_REASONS,
    UNIT_NORM_TOLERANCE,
    Embedding,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    Signals,
    SignalValue,
    StoredFingerprint,
)
from curation_features.versions import digest

log = logging.getLogger(__name__)

_FEATURES = b', "features": '


@dataclass(slots=True)
class CacheEntry:
    """Cached results of one photo. `versions` covers every part present.

    Attributes:
        decoding: version of the decoding that gave the pixels (`photos.decoding_version`).
    """

    info: PhotoInfo
    versions: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    signals: dict[str, Signals] = field(default_factory=dict)
    fingerprint: StoredFingerprint | None = None
    embedding: Embedding | None = None
    prediction: LabelPrediction | None = None
    decoding: int = 1

    def add(
        self,
        part: str,
        version: str,
        result: Measurement | Signals | StoredFingerprint | Embedding | LabelPrediction,
    ) -> None:
        """Keep a result, except an error that may not recur."""
        if result.error is not None and not (
            isinstance(result, Measurement) and result.error.reason in PERMANENT_REASONS
        ):
            return
        self.versions[part] = version
        if isinstance(result, Measurement):
            self.measurements[part] = result
        elif isinstance(result, Signals):
            self.signals[part] = result
        elif isinstance(result, StoredFingerprint):
            self.fingerprint = result
        elif isinstance(result, Embedding):
            self.embedding = result
            self.versions.pop("labels", None)  # they belong to another embedding
            self.prediction = None
        else:
            self.prediction = result

    def valid(self, versions: Mapping[str, str]) -> frozenset[str]:
        """Return the parts whose stored version equals the requested one."""
        return frozenset(part for part, version in versions.items() if self.versions.get(part) == version)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Size of a cache: photo entries, bytes, and files of label embeddings."""

    photos: int
    bytes: int
    label_embeddings: int


class FeatureCache:
    """Reads and writes the cache in one folder. Safe for use by several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warned = False
        self._swept = False

    @property
    def label_embeddings(self) -> Path:
        """Return the path of the label embeddings. Other vocabularies are next to it."""
        return self.folder / "label_embeddings.pt"

    def path(self, photo_id: str) -> Path:
        """Return the file of one photo."""
        name = hashlib.md5(f"{photo_id}_features".encode(), usedforsecurity=False).hexdigest()
        return self.folder / f"{name}.json"

    def load(self, photo_id: str, image_sha256: str) -> CacheEntry | None:
        """Return the entry of a photo with these bytes. None if missing or invalid."""
        try:
            with open_regular(self.path(photo_id)) as file:
                return _decode(file.read(), photo_id, image_sha256)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def image_digest(self, photo_id: str) -> str | None:
        """Return the sha256 of the file that a photo's entry was measured on. None without a readable entry."""
        try:
            with open_regular(self.path(photo_id)) as file:
                return str(json.loads(file.read())["version"]["image"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self, photo_id: str, entry: CacheEntry) -> bool:
        """Replace a photo's entry. Return False, and log one warning, if the cache cannot be written."""
        if not self._swept:
            self._swept = True
            sweep(self.folder)
        try:
            write_bytes(self.path(photo_id), _encode(photo_id, entry), durable=False)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("The feature cache cannot be written (%s); results are not kept for the next run", error)
            return False
        return True

    def stats(self) -> CacheStats:
        """Return number and size of the entries."""
        sizes: list[int] = []
        for path in self._entries():
            with suppress(FileNotFoundError):  # deleted meanwhile
                sizes.append(path.stat().st_size)
        return CacheStats(len(sizes), sum(sizes), len(self._label_files()))

    def clear(self, *, label_embeddings: bool = False) -> int:
        """Delete all entries and leftovers, and return the number of entries.

        Args:
            label_embeddings: delete the label embeddings, too.

        Raises:
            StoreError: a file cannot be deleted.
        """
        sweep(self.folder)
        paths = [*self._entries(), *(self._label_files() if label_embeddings else ())]
        for path in paths:
            with writing(path):
                path.unlink(missing_ok=True)
        return len(paths)

    def _label_files(self) -> list[Path]:
        return list(self.folder.glob("label_embeddings*.pt"))

    def _entries(self) -> list[Path]:
        return list(self.folder.glob("[0-9a-f]*.json"))


def _encode(photo_id: str, entry: CacheEntry) -> bytes:
    features: dict[str, Any] = {
        "photo": {"format": entry.info.format, "width": entry.info.width, "height": entry.info.height},
        "tech": {name: _to_json(measurement) for name, measurement in entry.measurements.items()},
    }
    if entry.signals:
        features["signals"] = {part: dict(signals.values) for part, signals in entry.signals.items()}
    if entry.fingerprint is not None and entry.fingerprint.data is not None:
        features[FINGERPRINT] = base64.b64encode(entry.fingerprint.data).decode()
    if entry.embedding is not None and entry.embedding.vector is not None:
        vector = np.ascontiguousarray(entry.embedding.vector, dtype="<f4")
        features["embedding"] = base64.b64encode(vector.tobytes()).decode()
        if entry.embedding.norm is not None:
            features["embedding_norm"] = entry.embedding.norm
    if entry.prediction is not None:
        features["clip_labels"] = _to_json(entry.prediction)
    text = json.dumps(features, allow_nan=False).encode()
    content = hashlib.sha256(text).hexdigest()
    version: dict[str, Any] = {
        "photo_id": photo_id,
        "image": entry.info.sha256,
        "content": content,
        "parts": entry.versions,
    }
    if entry.decoding != 1:  # entries of the first decoding keep their bytes
        version["decoding"] = entry.decoding
    return b'{"version": ' + json.dumps(version).encode() + _FEATURES + text + b"}"


def _to_json(result: Measurement | LabelPrediction) -> dict[str, Any]:
    if isinstance(result, LabelPrediction):
        fields = {"labels": [label._asdict() for label in result.labels], "cosines": result.cosines}
        return fields if result.margin is None else {**fields, "margin": result.margin}
    if result.error is not None:
        return {"raw": dict(result.raw), "error": asdict(result.error)}
    return {"score": result.score, "raw": dict(result.raw)}


def _decode(data: bytes, photo_id: str, image_sha256: str) -> CacheEntry | None:
    """Parse an entry. Returns None or raises for anything that `_encode` does not write."""
    document = json.loads(data)
    version, features = document["version"], document["features"]
    if version["photo_id"] != photo_id or version["image"] != image_sha256:
        return None
    text = data.partition(_FEATURES)[2].removesuffix(b"}")  # a JSON string cannot contain the quotes of `_FEATURES`
    content = version["content"]
    if hashlib.sha256(text).hexdigest() != content and digest(features) != content:  # the second: older entries
        return None
    photo = features["photo"]
    entry = CacheEntry(
        PhotoInfo(image_sha256, str(photo["format"]), int(photo["width"]), int(photo["height"])),
        {str(part): str(value) for part, value in version["parts"].items()},
        {name: _parse_measurement(features["tech"][name]) for name in METRIC_NAMES if name in features["tech"]},
        {part: _parse_signals(values) for part, values in features.get("signals", {}).items()},
        _parse_fingerprint(features[FINGERPRINT]) if FINGERPRINT in features else None,
        _parse_embedding(features["embedding"], features.get("embedding_norm")) if "embedding" in features else None,
        _parse_prediction(features["clip_labels"]) if "clip_labels" in features else None,
        int(version.get("decoding", 1)),
    )
    present = {*entry.measurements, *entry.signals} | ({"embedding"} if entry.embedding else set())
    present |= {"labels"} if entry.prediction else set()
    present |= {FINGERPRINT} if entry.fingerprint else set()
    return entry if present == set(entry.versions) else None


def _parse_measurement(fields: Mapping[str, Any]) -> Measurement:
    error = fields.get("error")
    score = fields.get("score")
    if (error is None) == (score is None) or (score is not None and not 0 <= score <= 1):
        raise ValueError("a measurement holds a score in [0, 1] or an error")
    return Measurement(score, dict(fields["raw"]), FeatureError(**error) if error else None)


def _parse_signals(values: Mapping[str, SignalValue]) -> Signals:
    """Parse the signals of a part; an older part may have other signals, and another version."""
    if not all(value is None or math.isfinite(value) for value in values.values()):
        raise ValueError("a signal is finite, or None")
    return Signals(dict(values))


def _parse_fingerprint(encoded: str) -> StoredFingerprint:
    return StoredFingerprint(base64.b64decode(encoded, validate=True))


def _parse_embedding(encoded: str, norm: float | None) -> Embedding:
    """Parse an embedding; an entry of an earlier release has no norm."""
    vector = np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4")
    if not math.isclose(math.sqrt(vector.dot(vector)), 1.0, abs_tol=UNIT_NORM_TOLERANCE):
        raise ValueError("an embedding has unit norm")
    if norm is not None and not 0 <= norm < math.inf:
        raise ValueError("the norm before normalisation is finite, and not negative")
    return Embedding(vector, norm=norm)


def _parse_prediction(fields: Mapping[str, Any]) -> LabelPrediction:
    labels = tuple(LabelScore(**label) for label in fields["labels"])
    return LabelPrediction(labels, tuple(fields["cosines"]), fields.get("margin"))
