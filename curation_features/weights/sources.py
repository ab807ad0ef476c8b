"""Models that `settings.model` can name (a repository, a folder, or open_clip's name and tag), and their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from curation_features.errors import InvalidWeightsError, SettingsError
from curation_features.settings import Settings, expand_home
from curation_features.weights.catalog import PUBLISHED_CLIPS, PublishedClip
from curation_features.weights.files import remember

DEGRADE = "accept results without it (--allow-degraded, or CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade)"
FETCH = f"run `curation-features models pull` (--from FOLDER imports files without a connection), or {DEGRADE}"
"""Remedy for missing weights."""
FETCH_LATER = f"pull again when connected (--from FOLDER imports files without a connection), or {DEGRADE}"
"""The same after a pull."""

CONFIG_FILE = "open_clip_config.json"
CHECKPOINT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names of a CLIP checkpoint, in open_clip's order of preference."""

VOCABULARY_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_OTHER_TOKENIZER_FILES = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer_config.json")
TOKENIZER_FILES = (*VOCABULARY_FILES, *_OTHER_TOKENIZER_FILES)
"""Possible files of a tokenizer of `transformers`. The last one is linked last: if it exists, all do."""

ENCODER_FILE = "config.json"
"""Configuration of a text encoder of `transformers`; its weights are in the CLIP checkpoint."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model on the Hugging Face hub.

    Attributes:
        name: as in the settings.
        repo: `ORG/REPO`.
        revision: a branch, a tag or a commit.
        checkpoints: possible names of the checkpoint, best first.
        config: open_clip's own configuration of the model; None: the repository holds `open_clip_config.json`.
    """

    name: str
    repo: str
    revision: str = "main"
    checkpoints: tuple[str, ...] = CHECKPOINT_FILES
    config: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def published(self) -> PublishedClip | None:
        """Its entry in the table of models; None if it has none, or one at another revision."""
        published = PUBLISHED_CLIPS.get(self.repo)
        return published if published and published.revision == self.revision else None


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A model in a user-supplied folder with `open_clip_config.json`."""

    name: str
    folder: Path
    published: ClassVar[None] = None
    config: ClassVar[None] = None


Source = HubSource | FolderSource


class Companion(NamedTuple):
    """Files that a model needs in addition to its own.

    Attributes:
        kind: `tokenizer`, or `configuration` of its text encoder.
        repo: the repository that holds them; the model's own has the model's revision.
        names: names of the files, the last of which must exist.
    """

    kind: str
    repo: str
    revision: str
    names: tuple[str, ...]


def model_source(settings: Settings) -> Source:
    """Parse `settings.model`. Imports torch for a name and tag that were never looked up before.

    Raises:
        SettingsError: it does not name a model; the message lists the legal forms.
    """
    name = settings.model
    if hub := re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name):
        return _hub_source(name, hub[1], hub[2] or "")
    kind, _, folder = name.partition(":")
    if kind == "local-dir" and folder:
        return FolderSource(name, settings.root / expand_home(folder))
    if tagged := re.fullmatch(r"([\w.@-]+)/([\w.-]+)", name):
        return _tagged_source(settings, name, tagged[1], tagged[2])
    raise SettingsError(
        f"model: {name!r} is neither hf-hub:ORG/REPO[@REVISION] (a model of the Hugging Face hub), nor "
        "local-dir:FOLDER (a folder with open_clip_config.json and its weights), nor NAME/TAG (a model of open_clip's "
        "own list, for example ViT-B-32/laion2b_s34b_b79k)"
    )


def _tagged_source(settings: Settings, name: str, model: str, tag: str) -> Source:
    """Find a model of open_clip's list. Importing open_clip imports torch, so its answer is remembered."""
    memo = settings.data_path / "cache" / "model_names.json"
    key = f"{name} in open_clip {version('open_clip_torch')}"
    look_up = partial(_look_up, name, model, tag)
    entry = remember(memo, key, look_up, lambda entry: entry["hub"] and entry["config"]["model_cfg"])
    repo, _, file = entry["hub"].rpartition("/")
    safetensors = re.sub(r"\.(bin|pth|pt)$", ".safetensors", file)
    names = tuple(dict.fromkeys((safetensors, file))) if file else CHECKPOINT_FILES
    return _hub_source(name, repo, checkpoints=names, config=entry["config"])


def _hub_source(
    name: str,
    repo: str,
    revision: str = "",
    checkpoints: tuple[str, ...] = CHECKPOINT_FILES,
    config: Mapping[str, Any] | None = None,
) -> HubSource:
    """Pin a repository of the table of models to the table's commit, unless another revision is given."""
    published = PUBLISHED_CLIPS.get(repo)
    if published and revision in ("", published.revision):
        return HubSource(name, repo, published.revision, (published.file,), config)
    return HubSource(name, repo, revision or "main", checkpoints, config)


def _look_up(name: str, model: str, tag: str) -> dict[str, Any]:
    """Ask open_clip for a model's repository and configuration.

    Raises:
        SettingsError: open_clip does not know the model or the tag.
    """
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise SettingsError(f"model: {name!r}: open_clip has no model {model!r}; see open_clip.list_models()")
    published = open_clip.get_pretrained_cfg(model, tag)
    if not published:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise SettingsError(f"model: {name!r}: open_clip has no weights {tag!r} for {model}; it has {tags}")
    if not published.get("hf_hub"):
        raise SettingsError(f"model: {name!r}: its weights are not on the Hugging Face hub")
    # The weights decide the activation: open_clip warns if its model of that name has another one.
    return {
        "hub": published["hf_hub"],
        "config": {
            "model_cfg": {**config, "quick_gelu": bool(published.get("quick_gelu"))},
            "preprocess_cfg": {
                key: published[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in published
            },
        },
    }


def parse_config(data: bytes, name: str, remedy: str) -> Mapping[str, Any]:
    """Parse an `open_clip_config.json`. Raises InvalidWeightsError, with `name` and `remedy`, if it is not valid."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidWeightsError(f"CLIP configuration {name} is not JSON: {error}", remedy) from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg") or {}, dict):
        raise InvalidWeightsError(f"CLIP configuration {name} has no model_cfg", remedy)
    return dict(config)


def companions(source: Source, config: Mapping[str, Any]) -> list[Companion]:
    """The other files that a model with this configuration needs."""
    text = config["model_cfg"].get("text_cfg") or {}
    needed = (
        ("tokenizer", text.get("hf_tokenizer_name"), TOKENIZER_FILES),
        ("configuration", text.get("hf_model_name"), (ENCODER_FILE,)),
    )
    own = {source.repo: source.revision} if isinstance(source, HubSource) else {}
    return [Companion(kind, repo, own.get(repo, "main"), names) for kind, repo, names in needed if repo]
