"""Measure a folder of photos into a pandas DataFrame, without a batch and without files.

    python examples/folder_to_pandas.py ~/Pictures/trip

It prints the photos, the sharpest first, with their flags. For large folders prefer batches:
`curation-features process` caches each photo, and `curation_features.load()` reads the result as a DataFrame.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from curation_features import CurationError, PhotoError, find_photos, load_settings, measure_signals


def measure(folder: Path) -> pd.DataFrame:
    """Return one row for each readable photo, indexed by path: its signals (NaN if undefined) and its flags."""
    settings = load_settings()

    def row(path: Path) -> dict[str, float | str | None]:
        try:
            found = measure_signals(path, settings)
        except PhotoError as error:
            print(f"skipped {path}: {error}", file=sys.stderr)
            return {}
        return {**found.values, "flags": ", ".join(flag.name for flag in found.flags if flag.kind == "flag")}

    paths = find_photos(folder)
    with ThreadPoolExecutor() as pool:
        rows = {str(path.relative_to(folder)): row for path, row in zip(paths, pool.map(row, paths), strict=True)}
    return pd.DataFrame.from_dict({path: row for path, row in rows.items() if row}, orient="index")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/folder_to_pandas.py FOLDER")
    try:
        photos = measure(Path(sys.argv[1]))
    except CurationError as error:
        sys.exit(f"error: {error}")
    shown = ["blur_px", "focus_px", "noise_luma", "headroom_ev", "flags"]
    print(photos.sort_values("blur_px")[shown].to_string())
