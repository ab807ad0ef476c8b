"""Finished batches with given vectors, written as tables without any computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation_features.settings import Settings
from curation_features.storage.tables import EMBEDDING_COLUMNS, FEATURE_COLUMNS, rows_writer
from curation_features.testing import FakeClipEngine
from curation_features.versions import part_version
from curation_features.weights import LazyModel

MODEL = "stand-in"
DIMENSION = 16


def engine(dimension: int = DIMENSION) -> LazyModel[Any]:
    return LazyModel.ready(FakeClipEngine(dimension), MODEL)


def version(settings: Settings) -> str:
    """The version of the vectors that `engine` makes."""
    return part_version("embedding", settings, engine().identity)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def write_batch(
    settings: Settings,
    batch_id: str,
    vectors: Mapping[str, NDArray[np.float32] | None],
    rows: Sequence[Mapping[str, Any]] | None = None,
    of: str | None = None,
) -> None:
    """Write a batch of photos with these vectors, by photo_id; `rows` add columns of the table, `of` is the version."""
    features = settings.data_path / "features"
    (features / "embeddings").mkdir(parents=True, exist_ok=True)
    made = of or version(settings)
    ids = {"batch_id": batch_id}
    metadata = {"version": made, "model": MODEL, "dimension": DIMENSION}
    with rows_writer(features / "embeddings" / f"{batch_id}.parquet", EMBEDDING_COLUMNS, metadata) as add:
        for photo_id, vector in sorted(vectors.items(), key=lambda item: item[1] is None):
            add(
                {
                    **ids,
                    "photo_id": photo_id,
                    "sha256": f"bytes of {photo_id}",
                    "embedding": vector,
                    "embedding_norm": 9.0,
                }
            )
    table = rows or [{"photo_id": photo_id} for photo_id in vectors]
    facts = {"version": {"technical": made, "clip": made}, "labels": []}
    with rows_writer(features / f"{batch_id}.parquet", FEATURE_COLUMNS, facts) as add:
        for position, row in enumerate(table):
            uri = f"photos/{row['photo_id']}.jpg"
            plain = {"sha256": f"bytes of {row['photo_id']}", "original_uri": uri, "image_uri": uri, "status": "ok"}
            lists = {name: [] for name in ("errors", "flags", "hints", "flag_reasons")}
            texts = dict.fromkeys((name for name in FEATURE_COLUMNS if name.startswith("version_")), made)
            empty = dict.fromkeys(FEATURE_COLUMNS)
            add({**empty, **ids, "position": position, "artifact": "{}", **plain, **lists, **texts, **row})
    (features / f"{batch_id}.json").write_text("{}")
