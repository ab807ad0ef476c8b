"""Finished batches for tests of datasets, and their rows as DuckDB reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from records import batch, failed, measured, write_features

from curation_features.schema import PhotoInfo, PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import METADATA_KEY


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def photo(name: str, content: str = "", size: int = 4) -> PhotoRecord:
    """A photo with a vector; its bytes are `content`, by default its name."""
    vector = np.random.default_rng([*name.encode()]).normal(size=size)
    record = measured(name, (vector / np.linalg.norm(vector)).tolist())
    record.info = PhotoInfo(digest_of(content or name), "JPEG", 800, 600)
    return record


def write(settings: Settings, batch_id: str, *photos: PhotoRecord | str, **more: Any) -> None:
    """Write a finished batch; a photo that is only named could not be read. A photo may occur twice."""
    records = [failed(record) if isinstance(record, str) else record for record in photos]
    manifest = batch(*(record.photo_id for record in records), batch_id=batch_id)
    distinct = {record.photo_id: record for record in records}
    write_features(ArtifactStore(settings.data_path), list(distinct.values()), manifest, **more)


def table_path(settings: Settings, batch_id: str) -> Path:
    return settings.data_path / "features" / f"{batch_id}.parquet"


def vectors_path(settings: Settings, batch_id: str) -> Path:
    return settings.data_path / "features" / "embeddings" / f"{batch_id}.parquet"


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table] = lambda table: table, **metadata: Any) -> None:
    """Replace a table, and facts in its metadata."""
    table = change(pq.read_table(path, partitioning=None))
    facts = {**json.loads(pq.read_schema(path).metadata[METADATA_KEY]), **metadata}
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(facts).encode()}), path)


def rows_in(files: Path | str | list[str], columns: str = "*", rest: str = "") -> list[tuple[Any, ...]]:
    """Rows of Parquet files as DuckDB reads them, in the order of the files."""
    named = files if isinstance(files, list) else [str(files)]
    query = f"SELECT {columns} FROM read_parquet({named}, union_by_name = true) {rest}"
    return duckdb.connect().sql(query).fetchall()
