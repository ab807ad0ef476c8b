"""Label vectors, and the files that keep them between runs.

The project's own vocabulary has `label_embeddings.pt`; others have files beside it that are named by their content, of
which the `FILES_KEPT` that were used last stay.

A file is a `torch.save` archive of `{"version", "labels", "templates", "logit_scale", "embeddings"}`. Beside torch's
own entries its zip holds `version.json`, so that whether it is up to date can be told without importing torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features import atomic_files
from curation_features.clip.engine import ClipEngine
from curation_features.clip.vocabulary import Vocabulary
from curation_features.errors import InvalidWeightsError
from curation_features.schema import UNIT_NORM_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FILE_NAME = "label_embeddings.pt"
FILES_KEPT = 64
"""Files of other vocabularies, at most: with 50 labels each has 0.2 MB."""

PROMPTS_AT_ONCE = 128

_LARGEST_VERSION_BYTES = 4096
_FORMAT = 1  # raised when the way of computing label vectors changes


@dataclass(frozen=True, slots=True)
class LabelEmbeddings:
    """The vectors of a vocabulary.

    Attributes:
        vectors: (L, D) float32, unit norm, in the order of the labels.
        logit_scale: the model's learned scale of cosines.
        version: see `label_version`.
    """

    vectors: NDArray[np.float32]
    logit_scale: float
    version: str


def label_version(texts: str, vocabulary: Vocabulary) -> str:
    """Names the label vectors of a model and a vocabulary (hex).

    Args:
        texts: the version of the model's vectors of texts (`versions.text_version`).
    """
    return hashlib.sha256(json.dumps([_FORMAT, texts, vocabulary.fingerprint]).encode()).hexdigest()


def file_name(vocabulary: Vocabulary) -> str:
    """Name of the file for the vectors of a vocabulary that is not the project's own."""
    return f"label_embeddings-{vocabulary.fingerprint[:12]}.pt"


def embed_labels(engine: ClipEngine, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """The vectors (L, D) of the labels: the mean over templates of the prompts' unit vectors, normalised again.

    Raises:
        InvalidWeightsError: the model gives no finite vector for a label.
    """
    sums = np.zeros((len(vocabulary.labels), engine.dimension))
    start = 0
    for vectors in _prompt_vectors(engine, vocabulary):
        np.add.at(sums, np.arange(start, start + len(vectors)) // len(vocabulary.templates), vectors)
        start += len(vectors)
    return directions(sums, vocabulary)


def directions(sums: NDArray[np.float64], vocabulary: Vocabulary) -> NDArray[np.float32]:
    """The vectors (L, D) of the labels: sums of their prompts' vectors, normalised.

    Raises:
        InvalidWeightsError: one is not finite, or has no direction.
    """
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise InvalidWeightsError(
            f"CLIP gives no finite vector for the label {vocabulary.labels[bad[0]]!r}",
            "fetch the model again, or set CURATION_FEATURES_PRECISION=fp32",
        )
    unit: NDArray[np.float32] = (sums / norms).astype(np.float32)
    return unit


def embed_prompts(engine: ClipEngine, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """The unit vectors (L, T, D) of every label in every template."""
    vectors = np.concatenate(list(_prompt_vectors(engine, vocabulary)))
    return vectors.reshape(len(vocabulary.labels), len(vocabulary.templates), -1)


def _prompt_vectors(engine: ClipEngine, vocabulary: Vocabulary) -> Iterator[NDArray[np.float64]]:
    prompts = vocabulary.prompts()
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        yield engine.encode_texts(prompts[start : start + PROMPTS_AT_ONCE]).astype(np.float64)


def write(path: Path, embeddings: LabelEmbeddings, vocabulary: Vocabulary) -> None:
    """Keep label vectors in a file, whole or not at all. Where that fails a warning is logged."""
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
        entries.writestr(_version_entry(entries), json.dumps({"version": embeddings.version}))
    try:
        atomic_files.write_bytes(path, archive.getvalue())
    except OSError as error:
        logger.warning("Label embeddings cannot be kept in %s (%s): the next run builds them again", path, error)
    if path.name != FILE_NAME:
        _drop_oldest(path.parent)


def read(path: Path, version: str) -> LabelEmbeddings | None:
    """The label vectors in a file, if it has this version; None where it is missing, old, damaged or hostile.

    Nothing in the file is executed (`torch.load` with `weights_only`).
    """
    import torch

    try:
        found = _checked(torch.load(path, map_location="cpu", weights_only=True), version)
        with suppress(OSError):
            os.utime(path)  # it is in use
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged or hostile file can raise anything
        logger.warning("Label embeddings in %s cannot be read and are built again: %s", path, type(error).__name__)
        return None


def stored_version(path: Path) -> str | None:
    """The version of the label vectors in a file, told without importing torch; None where it cannot be told."""
    try:
        with zipfile.ZipFile(path) as entries:
            if entries.getinfo(_version_entry(entries)).file_size > _LARGEST_VERSION_BYTES:
                return None
            version = json.loads(entries.read(_version_entry(entries)))["version"]
    except Exception:  # a damaged or hostile archive can raise anything
        return None
    return version if isinstance(version, str) else None


def _drop_oldest(folder: Path) -> None:
    """Keep the files of the `FILES_KEPT` vocabularies that were used last; never raises."""
    with suppress(OSError):
        ages = sorted((path.stat().st_mtime_ns, path) for path in folder.glob("label_embeddings-*.pt"))
        for _, path in ages[:-FILES_KEPT]:
            path.unlink(missing_ok=True)


def _version_entry(archive: zipfile.ZipFile) -> str:
    """Name of the entry with the version; torch refuses entries that are not in the folder of its own ones."""
    return f"{archive.namelist()[0].partition('/')[0]}/version.json"


def _checked(content: Any, version: str) -> LabelEmbeddings | None:
    """What a file holds, as label vectors; None where it is of another version. Raises where it is malformed."""
    if content["version"] != version:
        return None
    vectors, scale = content["embeddings"].numpy(), float(content["logit_scale"])
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(content["labels"]):
        raise ValueError("embeddings of another type or shape")
    if not (
        np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=UNIT_NORM_TOLERANCE)
        and math.isfinite(scale)
        and scale > 0
    ):
        raise ValueError("embeddings that are not of unit norm")
    return LabelEmbeddings(vectors, scale, version)
