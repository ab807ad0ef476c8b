"""The table of published models: what is fetched when nothing else is named, and what is recommended beside it.

Any other open_clip model works too; of those listed here it is known which bytes they should be. Digests, sizes and
licences are those of the publishers' pages on the Hugging Face hub. Zero-shot accuracy and GFLOP are open_clip's own
(`docs/openclip_results.csv`, `docs/model_profile.csv`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class PublishedClip:
    """A CLIP model on the Hugging Face hub.

    Attributes:
        repo: `ORG/REPO`; `hf-hub:ORG/REPO` in the settings.
        revision: the commit that is fetched unless the settings name another revision.
        file: its checkpoint.
        sha256: digest of the checkpoint; empty where the publisher's own is not known.
        megabytes: size of the checkpoint.
        licence: as its publisher names it.
        gflop: work of the image tower for a photo.
        zero_shot: share of ImageNet-1k's photos that it labels rightly with 1,000 labels (top 1).
        use: what it is good for.
        text_cosines: cosines of pairs of prompts, recorded from the published model.
    """

    repo: str
    revision: str
    file: str
    sha256: str
    megabytes: int
    licence: str
    gflop: float
    zero_shot: float
    use: str
    text_cosines: tuple[tuple[str, str, float], ...] = ()


LABELLERS = (
    PublishedClip(
        repo="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        revision="84c9828e63dc9a9351d1fe637c346d4c1c4db341",
        file="open_clip_pytorch_model.bin",
        sha256="6509f07e6fc0da68f8e1ee881bf90803f0b053d2f7ed2013cc7c3a49ac4dd3db",
        megabytes=1711,
        licence="MIT",
        gflop=162.0,
        zero_shot=0.792,
        use="the default: the best labels",
    ),
    PublishedClip(
        repo="laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        revision="d110532e8d4ff91c574ee60a342323f28468b287",
        file="open_clip_pytorch_model.bin",
        sha256="",
        megabytes=599,
        licence="MIT",
        gflop=35.1,
        zero_shot=0.735,
        use="a laptop with a GPU",
    ),
    PublishedClip(
        repo="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        revision="4afec35ffe57a943d569ff7ee888061830164da8",
        file="open_clip_model.safetensors",
        sha256="92c26d60d3200ed5ed040dff31a8d19f8140648da8007216c25744c478deef27",
        megabytes=605,
        licence="MIT",
        gflop=11.5,
        zero_shot=0.728,
        use="a laptop without one: a fourteenth of the default's work",
    ),
    PublishedClip(
        repo="timm/ViT-B-16-SigLIP",
        revision="41f575766f40e752fdd1383e9565b7f02388c1c4",
        file="open_clip_model.safetensors",
        sha256="81942ea8c09b9e41963357cca5d2682118bf7eb7491c2ae51a28bc4f4f95b194",
        megabytes=813,
        licence="Apache-2.0",
        gflop=35.4,
        zero_shot=0.760,
        use="trained with a sigmoid: flatter confidences; needs curation-features[transformers]",
    ),
    PublishedClip(
        repo="timm/vit_base_patch32_clip_224.openai",
        revision="a6f597a30f7b82c51704746581f9a4e41421e878",
        file="open_clip_model.safetensors",
        sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        megabytes=605,
        licence="Apache-2.0",
        gflop=8.8,
        zero_shot=0.633,
        use="OpenAI's first, to compare with",
        text_cosines=(("a cat", "a dog", 0.936), ("a cat", "a car", 0.895)),  # of Detic's recorded vectors
    ),
)
"""The models that are recommended for labels, the default first."""

_CLIP_IQA_RN50 = PublishedClip(
    repo="timm/resnet50_clip.openai",
    revision="ec3d92cf63a5f9d591f0d611b736895966c73076",
    file="open_clip_model.safetensors",
    sha256="da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
    megabytes=408,
    licence="MIT",
    gflop=12.2,
    zero_shot=0.598,
    use="CLIP-IQA's RN50 from the hub (clip_iqa_weights)",
)

PUBLISHED_CLIPS = MappingProxyType({clip.repo: clip for clip in (*LABELLERS, _CLIP_IQA_RN50)})
"""Every model of the table by its repository, the default first."""
