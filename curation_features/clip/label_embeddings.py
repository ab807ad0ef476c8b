"""Label embeddings and their cache files.

The project's vocabulary is stored in `label_embeddings.pt`. Other vocabularies are stored next to it, in files named by
their content; the `FILES_KEPT` most recently used ones are kept.

A file is a `torch.save` archive of `{"version", "labels", "templates", "logit_scale", "embeddings"}`. Its zip also has
the entries `version.json` and `embeddings.npy`, which are read without importing torch. Torch reads a file of an
earlier release, which has only the first.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features import atomic_files
from curation_features.clip.vocabulary import Vocabulary
from curation_features.concurrency import batched
from curation_features.errors import InvalidWeightsError
from curation_features.schema import UNIT_NORM_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.clip.engine import ClipEngine

logger = logging.getLogger(__name__)

FILE_NAME = "label_embeddings.pt"
FILES_KEPT = 64
"""Maximum number of files of other vocabularies; with 50 labels, each has 0.2 MB."""

PROMPTS_AT_ONCE = 128

_VERSION, _ARRAY = "version.json", "embeddings.npy"
_LARGEST_VERSION_BYTES = 4096
_FORMAT = 1  # increment when the computation of label embeddings changes


@dataclass(frozen=True, slots=True)
class LabelEmbeddings:
    """Label embeddings of a vocabulary.

    Attributes:
        vectors: (L, D) float32, unit norm, in the order of the labels.
        logit_scale: learned scale of cosines.
        version: see `label_version`.
    """

    vectors: NDArray[np.float32]
    logit_scale: float
    version: str


def label_version(texts: str, vocabulary: Vocabulary) -> str:
    """Return the version (hex) of the label embeddings of a model and a vocabulary.

    Args:
        texts: version of the model's text embeddings (`versions.text_version`).
    """
    return hashlib.sha256(json.dumps([_FORMAT, texts, vocabulary.fingerprint]).encode()).hexdigest()


def file_name(vocabulary: Vocabulary) -> str:
    """Return the file name for a vocabulary that is not the project's."""
    return f"label_embeddings-{vocabulary.fingerprint[:12]}.pt"


def embed_labels(engine: ClipEngine, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Compute the label embeddings (L, D): mean of the prompts' unit embeddings, normalised again.

    Raises:
        InvalidWeightsError: a label has no finite embedding.
    """
    return directions(embed_prompts(engine, vocabulary), vocabulary)


def directions(prompts: NDArray[np.float32], vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Average the embeddings (L, T, D) of the prompts of each label, and normalise: (L, D).

    Raises:
        InvalidWeightsError: an average is zero or not finite.
    """
    sums = prompts.sum(axis=1, dtype=np.float64)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise InvalidWeightsError(
            f"CLIP gives no finite embedding for the label {vocabulary.labels[bad[0]]!r}",
            "fetch the model again, or set CURATION_FEATURES_PRECISION=fp32",
        )
    unit: NDArray[np.float32] = (sums / norms).astype(np.float32)
    return unit


def embed_prompts(engine: ClipEngine, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Embed every label in every template: (L, T, D), unit norm."""
    batches = [engine.encode_texts(prompts) for prompts in batched(vocabulary.prompts(), PROMPTS_AT_ONCE)]
    return np.concatenate(batches).reshape(len(vocabulary.labels), len(vocabulary.templates), -1)


def write(path: Path, embeddings: LabelEmbeddings, vocabulary: Vocabulary) -> None:
    """Write label embeddings atomically; log a warning if that fails."""
    import torch

    content = {
        "version": embeddings.version,
        "labels": list(vocabulary.labels),
        "templates": list(vocabulary.templates),
        "logit_scale": embeddings.logit_scale,
        "embeddings": torch.tensor(embeddings.vectors),
    }
    archive = io.BytesIO()
    torch.save(content, archive)
    with zipfile.ZipFile(archive, "a") as entries:
        folder = _folder(entries)
        header = {
            "version": embeddings.version,
            "labels": len(vocabulary.labels),
            "logit_scale": embeddings.logit_scale,
        }
        entries.writestr(f"{folder}/{_VERSION}", json.dumps(header))
        array = io.BytesIO()
        np.save(array, np.ascontiguousarray(embeddings.vectors, dtype="<f4"), allow_pickle=False)
        entries.writestr(f"{folder}/{_ARRAY}", array.getvalue())
    try:
        atomic_files.write_bytes(path, archive.getvalue())
    except OSError as error:
        logger.warning("Label embeddings cannot be written to %s (%s): the next run computes them again", path, error)
    if path.name != FILE_NAME:
        _drop_oldest(path.parent)


def read(path: Path, version: str) -> LabelEmbeddings | None:
    """Read label embeddings; None if the file is missing, damaged or of another version.

    No code in the file is executed.
    """
    try:
        with zipfile.ZipFile(path) as entries:
            stored = _read_without_torch(entries, version)
        if stored is None:
            stored = _read_with_torch(path, version)
        with suppress(OSError):
            os.utime(path)  # mark as recently used
        return stored
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged or hostile file can raise anything
        logger.warning("Label embeddings in %s cannot be read and are computed again: %s", path, type(error).__name__)
        return None


def _read_without_torch(entries: zipfile.ZipFile, version: str) -> LabelEmbeddings | None:
    """Read an archive with an entry for the array; None if it has another version, or no such entry."""
    folder = _folder(entries)
    if f"{folder}/{_ARRAY}" not in entries.namelist():
        return None
    header = _read_header(entries)
    if header["version"] != version:
        return None
    entry = entries.getinfo(f"{folder}/{_ARRAY}")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError("a compressed entry")
    array = np.load(io.BytesIO(entries.read(entry)), allow_pickle=False)
    return _checked(array, header["labels"], header["logit_scale"], version)


def _read_with_torch(path: Path, version: str) -> LabelEmbeddings | None:
    """Read the archive of an earlier release; None if it has another version."""
    if stored_version(path) not in (None, version):
        return None
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["version"] != version:
        return None
    return _checked(content["embeddings"].numpy(), len(content["labels"]), content["logit_scale"], version)


def stored_version(path: Path) -> str | None:
    """Read the version of a file without importing torch; None if it has none."""
    try:
        with zipfile.ZipFile(path) as entries:
            version = _read_header(entries)["version"]
    except Exception:  # a damaged or hostile archive can raise anything
        return None
    return version if isinstance(version, str) else None


def _drop_oldest(folder: Path) -> None:
    """Delete all but the `FILES_KEPT` most recently used files; never raises."""
    with suppress(OSError):
        ages = sorted((path.stat().st_mtime_ns, path) for path in folder.glob("label_embeddings-*.pt"))
        for _, path in ages[:-FILES_KEPT]:
            path.unlink(missing_ok=True)


def _folder(archive: zipfile.ZipFile) -> str:
    """Return the folder of all entries; torch requires one."""
    return archive.namelist()[0].partition("/")[0]


def _read_header(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Read the version entry. Raises if it is malformed."""
    entry = archive.getinfo(f"{_folder(archive)}/{_VERSION}")
    if entry.file_size > _LARGEST_VERSION_BYTES:
        raise ValueError("a large version entry")
    header: dict[str, Any] = json.loads(archive.read(entry))
    return header


def _checked(vectors: NDArray[np.float32], labels: int, logit_scale: object, version: str) -> LabelEmbeddings:
    """Return label embeddings. Raises ValueError if they are malformed."""
    scale = float(logit_scale)  # type: ignore[arg-type]
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != labels:
        raise ValueError("embeddings of another type or shape")
    is_unit = np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=UNIT_NORM_TOLERANCE)
    if not (is_unit and math.isfinite(scale) and scale > 0):
        raise ValueError("embeddings that are not of unit norm")
    return LabelEmbeddings(vectors, scale, version)
