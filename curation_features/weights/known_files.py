"""Weights with a well-known download: OpenAI's RN50 for CLIP-IQA, and BRISQUE's regressor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
RN50_URL = f"https://openaipublic.azureedge.net/clip/models/{RN50_SHA256}/RN50.pt"
BRISQUE_URL = "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/brisque_svm_weights.pt"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A weights file with a well-known download.

    Attributes:
        name: what it is, for messages.
        url: where it is published.
        file_name: its name in the weights folder (see `weights_folder`).
        elsewhere: where the library that it belongs to keeps it; used if it is there.
        setting: the setting that names another file in its place.
        sha256: digest of the published file; empty where none is known.
        megabytes: its size.
        licence: as its publisher names it.
    """

    name: str
    url: str
    file_name: str
    elsewhere: Path
    setting: str
    sha256: str = ""
    megabytes: float = 0.0
    licence: str = ""

    @property
    def path(self) -> Path:
        """Where it is downloaded to."""
        return weights_folder() / self.file_name


def weights_folder() -> Path:
    """Where weights lie that do not come from the Hugging Face hub: in its cache, as assets of this package.

    So one folder, `HF_HOME`, holds everything that is downloaded.
    """
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "curation-features" / "weights"


def clip_iqa_file() -> KnownFile:
    """OpenAI's RN50; also found where piq and OpenAI's clip keep it."""
    return KnownFile(
        "CLIP-IQA's RN50",
        RN50_URL,
        "RN50.pt",
        Path("~/.cache/clip/RN50.pt").expanduser(),
        "clip_iqa_weights",
        RN50_SHA256,
        255.8,
        "MIT",
    )


def brisque_file() -> KnownFile:
    """The copy of the LIVE regressor that piq publishes; also found where torch's hub keeps it.

    No digest of the file is published: whoever loads it checks the numbers in it.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser()
    return KnownFile(
        "BRISQUE's regressor",
        BRISQUE_URL,
        "brisque_svm_weights.pt",
        home / "hub" / "checkpoints" / "brisque_svm_weights.pt",
        "brisque_weights",
        megabytes=0.1,
        licence="LIVE's own: free use with its notice",
    )
