"""Measure one photo.

    python examples/one_image.py beach.jpg

Sharpness, exposure and noise need no model. BRISQUE needs the extra `clip`, and CLIP-IQA also its weights; without
these the example prints why a score is missing.
"""

from __future__ import annotations

import sys

from curation_features import CurationError, TechnicalQualityAnalyzer, load_settings


def main(path: str) -> None:
    """Print each score and the numbers behind it."""
    settings = load_settings().replace(on_missing_weights="degrade")
    for name, measured in TechnicalQualityAnalyzer(settings).measure(path).items():
        if measured.error:
            print(f"{name:10} -      {measured.error.message}")
        else:
            raw = ", ".join(f"{key} {value:g}" for key, value in measured.raw.items())
            print(f"{name:10} {measured.score:.3f}  {raw}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/one_image.py PHOTO")
    try:
        main(sys.argv[1])
    except CurationError as error:
        sys.exit(f"error: {error}")
