"""Sample photos for a first try, from the scikit-image package."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image

from curation_features.atomic_files import store_bytes, sweep
from curation_features.errors import require_extra

SAMPLES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "hubble_deep_field", "moon", "rocket")
"""Photos in the wheel of scikit-image, by name in `skimage.data`."""


def write_samples(folder: Path) -> list[Path]:
    """Write missing samples to `folder` as `{name}.jpg` and return all paths.

    Origin and licence are in the docstring of `skimage.data.{name}`. The same library versions write the same bytes.

    Raises:
        MissingExtraError: scikit-image is not installed.
        StoreError: the folder cannot be written.
    """
    sweep(folder)
    paths = [folder / f"{name}.jpg" for name in SAMPLES]
    for name, path in zip(SAMPLES, paths, strict=True):
        if not path.exists():
            store_bytes(path, _encode_jpeg(name), durable=False)
    return paths


def _encode_jpeg(name: str) -> bytes:
    require_extra("samples")
    from skimage import data

    buffer = BytesIO()
    Image.fromarray(getattr(data, name)()).save(buffer, "JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue()
