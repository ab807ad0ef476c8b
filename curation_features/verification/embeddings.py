"""The image vectors of a finished batch, held against its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation_features.manifest import Batch
from curation_features.storage.tables import EMBEDDING_COLUMNS, ROWS_PER_GROUP, vectors
from curation_features.verification.matching import Key, keys_of, sequence_problems
from curation_features.verification.parquet import usable_columns
from curation_features.verification.reading import reading
from curation_features.verification.report import COMPLETE, FINITE, IN_RANGE, Check, Report
from curation_features.verification.text import photo_text

_NEEDED = ("batch_id", "photo_id", "embedding")
_NORM_TOLERANCE = 1e-3


def verify_embeddings(batch: Batch, path: Path, report: Report) -> None:
    """Check the file of vectors: a row for each `photo_id`, those with a vector first.

    Raises:
        StoreError: it cannot be read, or not to its end.
    """
    if not usable_columns(path, EMBEDDING_COLUMNS, "embeddings", report).issuperset(_NEEDED):
        report.add(COMPLETE, "embeddings", f"without its columns {', '.join(_NEEDED)} no row can be checked")
        return
    found: list[Key] = []
    seen: Counter[str] = Counter()
    measured: set[Key] = set()
    dimension: int | None = None
    for batch_id, photo_id, vector in _rows(path):
        found += keys_of([photo_id], seen)
        place = f"embeddings, row {len(found) - 1} ({photo_text(found[-1])})"
        if batch_id != batch.batch_id:
            report.add(COMPLETE, place, "batch_id: is not that of the manifest")
        if vector is not None:
            measured.add(found[-1])
            dimension = len(vector) if dimension is None else dimension
            for check, problem in _vector_problems(vector, dimension):
                report.add(check, place, f"embedding: {problem}")
    photos = keys_of(dict.fromkeys(artifact.photo_id for artifact in batch.artifacts))
    for key, row, problem in sequence_problems(sorted(photos, key=lambda key: key not in measured), found):
        report.add(COMPLETE, f"embeddings, row {row} ({photo_text(key)})", problem)


def _rows(path: Path) -> Iterator[tuple[str, str, NDArray[np.float32] | None]]:
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path) as file:
        for part in file.iter_batches(ROWS_PER_GROUP, columns=list(_NEEDED)):
            names = (part.column(name).to_pylist() for name in _NEEDED[:2])
            yield from zip(*names, vectors(part.column("embedding")), strict=True)


def _vector_problems(vector: NDArray[np.float32], dimension: int) -> Iterator[tuple[Check, str]]:
    """What is wrong with a vector; `dimension` is that of the first one."""
    if len(vector) != dimension:
        yield IN_RANGE, f"has {len(vector)} numbers, and should have {dimension} as those before"
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(vector).all():
        yield FINITE, "is not finite"
    elif abs(norm - 1) > _NORM_TOLERANCE:
        yield IN_RANGE, f"has norm {norm:.6g}, and should have 1"
