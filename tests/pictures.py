"""Encoding and decoding of test images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation_features.errors import PhotoError
from curation_features.photos.decode import Photo, decode
from curation_features.photos.reader import PhotoFile
from curation_features.schema import PHOTO_REASONS


def encoded(image: Image.Image | np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def file_of(data: bytes) -> PhotoFile:
    return PhotoFile(data, hashlib.sha256(data).hexdigest())


def decoded(data: bytes, **limits: float) -> Photo:
    return decode(file_of(data), **{"max_pixels": 100_000_000, **limits})


def rgb_of(data: bytes) -> np.ndarray:
    return decoded(data).rgb


def reason_of(action: Callable[[], object]) -> str:
    with pytest.raises(PhotoError) as caught:
        action()
    assert caught.value.reason in PHOTO_REASONS
    return caught.value.reason
