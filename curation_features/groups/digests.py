"""Digests of what groups depend on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from curation_features.groups.photos import PhotoSet


def digest_of(photos: PhotoSet, rules: object) -> str:
    """Return a digest of photos in their order, with all that is compared of them.

    A fingerprint depends on the bytes of its file, and is not read.

    Args:
        rules: all else that groups depend on; its `repr` is digested.
    """
    digest = hashlib.sha256(repr(rules).encode())
    for photo in photos.photos:
        described = repr((replace(photo, measures={}), sorted(photo.measures.items())))
        digest.update(described.encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(photos.hashes).tobytes() + photos.has_hash.tobytes())
    if photos.vectors is not None:
        digest.update(np.ascontiguousarray(photos.vectors).tobytes())
    return digest.hexdigest()
