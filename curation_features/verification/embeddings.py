"""Compare the image embeddings of a finished batch with its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation_features.manifest import Batch
from curation_features.schema import UNIT_NORM_TOLERANCE
from curation_features.storage.tables import EMBEDDING_COLUMNS, ROWS_PER_GROUP, vectors
from curation_features.verification.matching import Key, PhotosOfFile, keys_of
from curation_features.verification.parquet import usable_columns
from curation_features.verification.report import COMPLETE, FINITE, IN_RANGE, Report, reading

_NEEDED = ("batch_id", "photo_id", "embedding")


def verify_embeddings(batch: Batch, path: Path, report: Report) -> None:
    """Check the embeddings file: one row per `photo_id`, those with an embedding first.

    Raises:
        StoreError: it cannot be read to its end.
    """
    if not usable_columns(path, EMBEDDING_COLUMNS, "embeddings", report).issuperset(_NEEDED):
        report.add(COMPLETE, "embeddings", f"its rows cannot be checked without the columns {', '.join(_NEEDED)}")
        return
    photos = PhotosOfFile("embeddings, row {}", report)
    measured: set[Key] = set()
    dimension = 0
    for batch_id, photo_id, vector in _read_rows(path):
        key = photos.add(photo_id)
        if batch_id != batch.batch_id:
            photos.report(COMPLETE, "batch_id: differs from the manifest")
        if vector is None:
            continue
        measured.add(key)
        dimension = dimension or len(vector)
        norm = float(np.linalg.norm(vector))
        if len(vector) != dimension:
            photos.report(IN_RANGE, f"embedding: has {len(vector)} numbers instead of {dimension}")
        if not np.isfinite(vector).all():
            photos.report(FINITE, "embedding: is not finite")
        elif abs(norm - 1) > UNIT_NORM_TOLERANCE:
            photos.report(IN_RANGE, f"embedding: has norm {norm:.6g} instead of 1")
    keys = keys_of(dict.fromkeys(artifact.photo_id for artifact in batch.artifacts))
    photos.check_order(sorted(keys, key=lambda key: key not in measured))


def _read_rows(path: Path) -> Iterator[tuple[str, str, NDArray[np.float32] | None]]:
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path) as file:
        for part in file.iter_batches(ROWS_PER_GROUP, columns=list(_NEEDED)):
            names = (part.column(name).to_pylist() for name in _NEEDED[:2])
            yield from zip(*names, vectors(part.column("embedding")), strict=True)
