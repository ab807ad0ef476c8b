"""Published weights: the CLIP models that are recommended, RN50 as a single file, and the file in this package.

Any other open_clip model works too; for those of the table the expected bytes are known. Digests, sizes and licences
are from the publishers' pages on the Hugging Face hub. Zero-shot accuracy and GFLOP are open_clip's own
(`docs/openclip_results.csv`, `docs/model_profile.csv`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from curation_features.weights.files import weights_folder

RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
RN50_URL = f"https://openaipublic.azureedge.net/clip/models/{RN50_SHA256}/RN50.pt"
LIVE_URL = "http://live.ece.utexas.edu/research/quality/BRISQUE_release.zip"
BRISQUE_SHA256 = "54f929435a07ba3c31f10fd8d1c379fe90fcb133bfd4d6899fba2784faf72d86"
PIQ_BRISQUE_URL = "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/brisque_svm_weights.pt"


@dataclass(frozen=True, slots=True)
class PublishedClip:
    """A CLIP model on the Hugging Face hub.

    Attributes:
        repo: `ORG/REPO`; `hf-hub:ORG/REPO` in the settings.
        revision: the commit that is fetched unless the settings name another revision.
        file: name of the checkpoint.
        sha256: digest of the checkpoint; empty if the publisher gives none.
        megabytes: size of the checkpoint.
        licence: as the publisher names it.
        gflop: work of the image tower for one photo.
        zero_shot: zero-shot top-1 accuracy on ImageNet-1k (0 to 1).
        use: the purpose that it suits.
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
        text_cosines=(("a cat", "a dog", 0.936), ("a cat", "a car", 0.895)),  # from Detic's recorded embeddings
    ),
)
"""Models recommended for labels, the default first."""

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
"""All models of the table by repository, the default first."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A weights file with a well-known download.

    Attributes:
        name: name in messages.
        url: its download.
        elsewhere: where the library that it belongs to stores it; used if it exists.
        setting: the setting that names another file instead.
        sha256: digest of the published file; empty if unknown.
        licence: as the publisher names it.
    """

    name: str
    url: str
    elsewhere: Path
    setting: str
    sha256: str = ""
    licence: str = ""

    @property
    def path(self) -> Path:
        """Target of its download."""
        return weights_folder() / self.url.rpartition("/")[2]

    @property
    def description(self) -> str:
        """Its name as a default, in messages."""
        return self.url


@dataclass(frozen=True, slots=True)
class BundledFile:
    """A weights file in this package.

    Attributes:
        name: name in messages.
        url: the release that its numbers are from.
        path: the file.
        setting: the setting that names another file instead.
        sha256: its digest.
        licence: as the publisher names it.
        replaces: URL of the download with the same numbers that earlier versions used.
    """

    name: str
    url: str
    path: Path
    setting: str
    sha256: str
    licence: str
    replaces: str

    @property
    def description(self) -> str:
        """Its name as a default, in messages."""
        return "the one in this package"


def clip_iqa_file() -> KnownFile:
    """OpenAI's RN50; also found in the caches of piq and of OpenAI's clip."""
    elsewhere = Path("~/.cache/clip/RN50.pt").expanduser()
    return KnownFile("CLIP-IQA's RN50", RN50_URL, elsewhere, "clip_iqa_weights", RN50_SHA256, "MIT")


def brisque_file() -> BundledFile:
    """The regressor of LIVE's release of BRISQUE; `tools/brisque_regressor.py` builds it.

    Its notice is stored next to it. The regressor is described in A. Mittal, A. K. Moorthy and A. C. Bovik,
    "No-Reference Image Quality Assessment in the Spatial Domain", IEEE TIP 21 (2012).
    """
    path = Path(__file__).parent / "bundled" / "brisque.npz"
    licence = "LIVE's own: free use with its notice"
    name, setting = "BRISQUE's regressor", "brisque_weights"
    return BundledFile(name, LIVE_URL, path, setting, BRISQUE_SHA256, licence, PIQ_BRISQUE_URL)
