"""Run `FeaturesService` as one of the services of a user-supplied orchestrator.

    python examples/orchestrator.py ~/Pictures/trip

Photos pass ingest, preprocess and features; the result is written to `data/orchestrator/`. The settings are those of
the current folder. CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade lets it run without model weights.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from curation_features import (
    METRIC_NAMES,
    CurationError,
    FeaturesService,
    find_photos,
    ingest_photos,
    load_settings,
    new_batch_id,
)


class RealServices:
    """The services of the pipeline; each takes the output of the one before."""

    def __init__(self) -> None:
        self.settings = load_settings()
        self.features_service = FeaturesService()

    def process_ingest_service(self, photos_dir: Path) -> dict[str, Any]:
        """List the photos of the batch."""
        return {"batch_id": new_batch_id(datetime.now()), "photos": find_photos(photos_dir)}

    def process_preprocess_service(self, input_data: dict[str, Any]) -> dict[str, Any]:
        """Make ids, EXIF and standardised images; `ingest_photos` makes all of them at once."""
        return ingest_photos(input_data["photos"], self.settings, batch_id=input_data["batch_id"]).manifest

    def process_features_service(self, input_data: dict[str, Any]) -> dict[str, Any]:
        """Return the same batch with `features` on every artifact."""
        return self.features_service.process(input_data)


def format_row(artifact: dict[str, Any]) -> str:
    """Format a photo, its scores and its best label; `-` replaces a missing value."""
    features = artifact["features"]
    missing = {error["stage"] for error in features["errors"]}
    scores = ["-" if missing & {name, "photo"} else f"{score:.3f}" for name, score in features["tech"].items()]
    best = features["clip_labels"][0]
    name = repr(Path(artifact["original_uri"]).name)[1:-1]  # without control characters
    label = best["label"] if best["confidence"] else "-"
    return f"{name:20.20} {' '.join(f'{score:>9}' for score in scores)}  {label}"


def main(photos_dir: Path) -> None:
    """Run the pipeline for one folder of photos."""
    services = RealServices()
    ingested = services.process_ingest_service(photos_dir)
    preprocessed = services.process_preprocess_service(ingested)
    result = services.process_features_service(preprocessed)

    path = services.settings.data_path / "orchestrator" / f"{result['batch_id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2), encoding="utf-8")
    print(f"{'photo':20}", *(f"{name:>9}" for name in METRIC_NAMES), " best label")
    for artifact in result["artifacts"]:
        print(format_row(artifact))
    errors = [error for artifact in result["artifacts"] for error in artifact["features"]["errors"]]
    if without := sorted({error["stage"] for error in errors if error["reason"] == "missing_weights"}):
        print(f"Degraded: no model weights for {', '.join(without)}; see `curation-features models status`")
    print(path)


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger("curation_features").setLevel(logging.INFO)
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/orchestrator.py PHOTOS_DIR")
    try:
        main(Path(sys.argv[1]))
    except CurationError as error:
        sys.exit(f"error: {error}")
