"""Measure photos with a metric of your own; here colourfulness, as the paper has it.

    python examples/custom_metric.py beach.jpg forest.jpg

A metric is a pure function from an image to a number. This one runs outside the pipeline; CONTRIBUTING.md, "A new
metric", lists the steps that add one to it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from curation_features import CurationError, load_settings, read_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def colourfulness(rgb: NDArray[np.uint8]) -> float:
    """Return the colourfulness M of Hasler and Süsstrunk, "Measuring colourfulness in natural images" (2003).

    M = sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), with rg = R - G and yb = (R + G) / 2 - B. It is 0
    for a gray image; the authors call 33 moderately and 82 highly colourful.

    Args:
        rgb: (H, W, 3), 0 to 255.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float64), 2, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.sqrt(rg.var() + yb.var()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


if __name__ == "__main__":
    settings = load_settings()
    try:
        for path in sys.argv[1:]:
            print(f"{colourfulness(read_pixels(path, settings)):6.1f}  {path}")
    except CurationError as error:
        sys.exit(f"error: {error}")
