"""Sample photos from scikit-image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from curation_features.ingest.folder import find_photos
from curation_features.ingest.samples import write_samples


def test_samples_are_real_photos_and_existing_ones_are_kept(tmp_path: Path) -> None:
    first, second, *_ = paths = write_samples(tmp_path / "samples")
    assert sorted(paths) == find_photos(tmp_path / "samples")
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert min(image.size) >= 256
            original = getattr(data, path.stem)()
            assert np.abs(np.asarray(image).astype(int) - original).mean() < 6
    bytes_of_second = second.read_bytes()
    first.write_bytes(b"mine")
    second.unlink()
    write_samples(tmp_path / "samples")
    assert (first.read_bytes(), second.read_bytes()) == (b"mine", bytes_of_second)
