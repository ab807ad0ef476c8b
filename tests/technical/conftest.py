"""Photos that come with scikit-image, real photos, and the regressor of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from curation_features.technical.brisque.index import Brisque
from curation_features.technical.brisque.loading import load_brisque
from curation_features.weights import LazyModel, Weights, brisque_file

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="session")
def bundled() -> Callable[[str], Pixels]:
    """An image of scikit-image's by name, as RGB."""
    return lambda name: np.array(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"))


@pytest.fixture(scope="session")
def real_photos(shared_data: Path) -> Mapping[str, Pixels]:
    """A few real photos by name; some have even skies, one is blown out."""
    files = [shared_data / "photos" / name for name in ("kodim05.png", "kodim20.png", "denali.webp")]
    photos = {file.name: np.array(Image.open(file).convert("RGB")) for file in files}
    blown = photos["kodim05.png"].copy()
    blown[:200] = 255
    return {**photos, "blown": blown}


@pytest.fixture(scope="session")
def brisque() -> Brisque:
    return load_brisque(Weights("test", brisque_file().path, ""))


@pytest.fixture(scope="session")
def lazy_brisque(brisque: Brisque) -> LazyModel[Brisque]:
    return LazyModel.ready(brisque, "test")
