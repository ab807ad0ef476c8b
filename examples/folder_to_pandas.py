"""Measure a folder of photos into a pandas DataFrame, without a batch and without files.

    python examples/folder_to_pandas.py ~/Pictures/trip

For large folders prefer batches: `curation-features process` caches each photo, and `curation_features.load()` reads
the result as a DataFrame.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from curation_features import CurationError, PhotoError, TechnicalQualityAnalyzer, find_photos, load_settings


def measure(folder: Path) -> pd.DataFrame:
    """Return one row for each readable photo, indexed by path: scores (NaN if missing) and raw measurements."""
    analyzer = TechnicalQualityAnalyzer(load_settings().replace(on_missing_weights="degrade"))

    def row(path: Path) -> dict[str, float | None]:
        try:
            found = analyzer.measure(path)
        except PhotoError as error:
            print(f"skipped {path}: {error}", file=sys.stderr)
            return {}
        raw = {name: value for measured in found.values() for name, value in measured.raw.items()}
        return {name: measured.score for name, measured in found.items()} | raw

    paths = find_photos(folder)
    with ThreadPoolExecutor() as pool:
        rows = {str(path.relative_to(folder)): row for path, row in zip(paths, pool.map(row, paths), strict=True)}
    return pd.DataFrame.from_dict({path: row for path, row in rows.items() if row}, orient="index", dtype=float)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/folder_to_pandas.py FOLDER")
    try:
        photos = measure(Path(sys.argv[1]))
    except CurationError as error:
        sys.exit(f"error: {error}")
    print(photos.sort_values("tenengrad", ascending=False)[["tenengrad", "sharpness", "exposure", "noise"]].to_string())
