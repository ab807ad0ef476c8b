"""How a small error of an image vector changes its labels, with vectors that CLIP ViT-B/32 gave for seven photos.

    CURATION_FEATURES_SHARED_DATA=FOLDER python benchmarks/agreement.py

A fast precision moves a vector by some cosine. Here each recorded vector is moved by that cosine in random directions,
and its labels are compared with those of the recorded one: real vectors and class names, but errors of no real model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from measure import Report, arguments

if TYPE_CHECKING:
    from numpy.typing import NDArray

COSINES = (0.99999, 0.9999, 0.9996, 0.999)
NAMES = {
    "COCO, 80 labels": "coco_clip_a+cname",
    "OpenImages, 500": "oid_clip_a+cname",
    "LVIS, 1,203": "lvis_v1_clip_a+cname",
}
SCALE = 100
"""Logit scale of CLIP."""


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def moved(vectors: NDArray[np.float64], cosine: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Unit vectors with this cosine to `vectors`, in random directions."""
    noise = random.standard_normal(vectors.shape)
    noise -= (noise * vectors).sum(1, keepdims=True) * vectors
    return cosine * vectors + np.sqrt(1 - cosine**2) * unit(noise)


def confidences(images: NDArray[np.float64], texts: NDArray[np.float64]) -> NDArray[np.float64]:
    logits = SCALE * images @ texts.T
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def main() -> None:
    parser = arguments(__doc__, rounds=500)
    options = parser.parse_args()
    folder = Path(os.environ["CURATION_FEATURES_SHARED_DATA"]) / "clip" / "recorded_vitb32"
    images = unit(np.load(folder / "image_embeddings" / "clip_retrieval_test_images.npz")["emb"].astype(np.float64))
    random = np.random.default_rng(0)
    report = Report(f"Labels of {len(images)} recorded vectors that are moved ({options.rounds} directions)")
    for labels, name in NAMES.items():
        texts = unit(np.load(folder / "text_embeddings" / f"{name}.npy").astype(np.float64))
        before = confidences(images, texts)
        first = np.argsort(-before, 1)[:, :5]
        for cosine in COSINES:
            same, shared, shifts = [], [], []
            for _ in range(options.rounds):
                after = confidences(moved(images, cosine, random), texts)
                found = np.argsort(-after, 1)[:, :5]
                same.append((found[:, 0] == first[:, 0]).mean())
                shared += [len({*one} & {*other}) / 5 for one, other in zip(found, first, strict=True)]
                shifts.append(np.abs(after - before).max())
            report.add(
                f"{labels}, cosine {cosine}",
                **{
                    "same first label": float(np.mean(same)),
                    "first five shared": float(np.mean(shared)),
                    "confidence moves by": float(np.median(shifts)),
                },
            )
    report.show(options.json)


if __name__ == "__main__":
    main()
