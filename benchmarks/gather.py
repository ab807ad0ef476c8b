"""Measure `gather`: rows per second and peak memory of one dataset out of many batches' tables.

The tables are written with the columns, types and row groups of real ones. Their values are random, but for texts that
repeat, and the artifact of each row has 700 characters. With --data the tables are kept, and used again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import Report, arguments, process_peak_mib

from curation_features import Settings, gather_features
from curation_features.storage.tables import EMBEDDING_COLUMNS, FEATURE_COLUMNS, arrow_schema

DIMENSION = 768
VERSION = {"technical": "1-aaaaaaaaaaaa", "clip": "1-bbbbbbbbbbbb", "signals": "1-cccccccccccc"}


def template(rows: int) -> pa.Table:
    """Return a table of features."""
    random = np.random.default_rng(0)
    values = {field.name: column_of(field, rows, random) for field in arrow_schema(FEATURE_COLUMNS)}
    return pa.table(values, schema=arrow_schema(FEATURE_COLUMNS, {"version": VERSION, "labels": ["a"] * 50}))


def column_of(field: pa.Field, rows: int, random: np.random.Generator) -> pa.Array:
    if field.name == "artifact":
        exif = {"camera": "NIKON D3400", "iso": 100, "gps": {"latitude": 1.5}, "note": "x" * 500}
        ids = (hashlib.sha256(b"%d" % n).hexdigest() for n in range(rows))
        return pa.array([json.dumps({"photo_id": photo_id, "exif": exif}) for photo_id in ids])
    if field.name == "label_cosines":
        return pa.array(list(random.normal(0.2, 0.05, (rows, 50))), field.type)
    if field.name == "clip_labels":
        return pa.array([[{"label": f"label {n}", "confidence": 0.2, "cosine_score": 0.25} for n in range(5)]] * rows)
    if field.name == "position":
        return pa.array(range(rows), field.type)
    if pa.types.is_floating(field.type):
        return pa.array(np.round(random.random(rows), 6))
    if pa.types.is_integer(field.type):
        return pa.array(random.integers(0, 4000, rows), field.type)
    if pa.types.is_string(field.type):
        return pa.array([f"{field.name} {n % 7}" for n in range(rows)])
    if pa.types.is_boolean(field.type):
        return pa.array(random.random(rows) > 0.9)
    return pa.nulls(rows, field.type) if pa.types.is_timestamp(field.type) else pa.array([[]] * rows, field.type)


def make_batches(root: Path, batches: int, rows: int, *, embeddings: bool) -> None:
    """Write finished batches; `sha256` and `photo_id` are different in each row."""
    folder = root / "data" / "features"
    (folder / "embeddings").mkdir(parents=True)
    table, number = template(rows), 0
    vectors = np.random.default_rng(1).normal(size=(rows, DIMENSION)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION).cast(pa.list_(pa.float32()))
    source = {"version": "1-dddddddddddd", "model": "ViT-L-14/openai", "dimension": DIMENSION}
    for batch in range(batches):
        name = f"batch-{batch:06}"
        digests = pa.array([hashlib.sha256(b"%d" % (number + n)).hexdigest() for n in range(rows)])
        number += rows
        changed = {"batch_id": pa.array([name] * rows), "photo_id": digests, "sha256": digests}
        for column_name, values in changed.items():
            table = table.set_column(table.schema.names.index(column_name), table.schema.field(column_name), values)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=1024, compression="zstd")
        (folder / f"{name}.json").touch()
        if embeddings:
            found = pa.table({**changed, "embedding": column}, schema=arrow_schema(EMBEDDING_COLUMNS, source))
            path = folder / "embeddings" / f"{name}.parquet"
            pq.write_table(found, path, row_group_size=1024, compression="none", use_dictionary=["batch_id"])


def measured(root: str, output: str, options: dict[str, Any]) -> dict[str, float]:
    """Gather in a new process; its figures."""
    start, used = time.perf_counter(), time.process_time()
    gathered = gather_features(output, settings=Settings(root=Path(root)), **options)
    seconds = time.perf_counter() - start
    cpu = time.process_time() - used
    return {
        "rows": gathered.rows,
        "seconds": seconds,
        "CPU s": cpu,
        "rows per CPU s": gathered.rows / cpu,
        "GB written": gathered.bytes / 1e9,
        "peak MiB": process_peak_mib(),
    }


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--batches", type=int, default=100, help="number of batches (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2000, help="rows of each (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep the batches here, and use them again")
    parser.add_argument("--embeddings", action="store_true", help=f"also with vectors of {DIMENSION} numbers")
    options = parser.parse_args()
    ways: dict[str, dict[str, Any]] = {"gather": {}, "gather --distinct": {"distinct": True}}
    if options.embeddings:
        ways = {"gather --embeddings": {"embeddings": True}, "with --float16": {"embeddings": True, "float16": True}}
    with tempfile.TemporaryDirectory() as temporary:
        root = options.data or Path(temporary)
        if not (root / "data").exists():
            make_batches(root, options.batches, options.rows, embeddings=options.embeddings)
        report = Report(
            f"One dataset of {options.batches:,} batches of {options.rows:,} rows ({options.rounds} rounds)"
        )
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for name, chosen in ways.items():
                found = []
                for _ in range(options.rounds):
                    found.append(pool.apply(measured, (str(root), f"{temporary}/gathered", chosen)))
                    shutil.rmtree(f"{temporary}/gathered")
                report.add(name, **{key: median(figures[key] for figures in found) for key in found[0]})
        report.show(options.json)


if __name__ == "__main__":
    main()
