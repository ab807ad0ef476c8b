"""What `settings.model` can name: a repository of the Hugging Face hub, a folder, or open_clip's own name and tag."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curation_features import atomic_files
from curation_features.errors import SettingsError
from curation_features.settings import Settings
from curation_features.weights.catalog import PUBLISHED_CLIPS, PublishedClip

CONFIG_FILE = "open_clip_config.json"
CHECKPOINT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names of a CLIP checkpoint, in the order in which open_clip takes them."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model on the Hugging Face hub.

    Attributes:
        name: as in the settings.
        repo: `ORG/REPO`.
        revision: a branch, a tag or a commit.
        checkpoints: names that the checkpoint may have, best first.
        config: what open_clip itself knows of the model; None: the repository holds `open_clip_config.json`.
    """

    name: str
    repo: str
    revision: str = "main"
    checkpoints: tuple[str, ...] = CHECKPOINT_FILES
    config: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def published(self) -> PublishedClip | None:
        """The entry of the table of models that this is; None where it is not in it, or at another revision."""
        published = PUBLISHED_CLIPS.get(self.repo)
        return published if published and published.revision == self.revision else None


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A model in a folder of one's own, with `open_clip_config.json`."""

    name: str
    folder: Path


Source = HubSource | FolderSource


def model_source(settings: Settings) -> Source:
    """What `settings.model` names. Imports torch for a name and tag that were never asked for before.

    Raises:
        SettingsError: it names nothing of the kind; says what can be named.
    """
    name = settings.model
    if hub := re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name):
        return _on_hub(name, hub[1], hub[2] or "")
    kind, _, folder = name.partition(":")
    if kind == "local-dir" and folder:
        return FolderSource(name, settings.root / Path(folder).expanduser())
    if tagged := re.fullmatch(r"([\w.@-]+)/([\w.-]+)", name):
        return _tagged(settings, name, tagged[1], tagged[2])
    raise SettingsError(
        f"model: {name!r} is neither hf-hub:ORG/REPO[@REVISION] (a model of the Hugging Face hub), nor "
        "local-dir:FOLDER (a folder with open_clip_config.json and its weights), nor NAME/TAG (a model of open_clip's "
        "own list, as ViT-B-32/laion2b_s34b_b79k)"
    )


def _tagged(settings: Settings, name: str, model: str, tag: str) -> Source:
    """A model of open_clip's list. To ask open_clip is to import torch, so its answer is remembered."""
    memo = settings.data_path / "cache" / "model_names.json"
    key = f"{name} in open_clip {version('open_clip_torch')}"
    known = _read(memo)
    if key not in known:
        known[key] = _ask_open_clip(name, model, tag)
        with suppress(OSError):  # it is asked again
            atomic_files.write_bytes(memo, json.dumps(known, indent=1).encode(), durable=False)
    repo, _, file = known[key]["hub"].rpartition("/")
    safe = re.sub(r"\.(bin|pth|pt)$", ".safetensors", file)
    names = tuple(dict.fromkeys((safe, file))) if file else CHECKPOINT_FILES
    return _on_hub(name, repo, checkpoints=names, config=known[key]["config"])


def _on_hub(
    name: str,
    repo: str,
    revision: str = "",
    checkpoints: tuple[str, ...] = CHECKPOINT_FILES,
    config: Mapping[str, Any] | None = None,
) -> HubSource:
    """A repository; one of the table of models is at its commit there, unless another revision is named."""
    published = PUBLISHED_CLIPS.get(repo)
    if published and revision in ("", published.revision):
        return HubSource(name, repo, published.revision, (published.file,), config)
    return HubSource(name, repo, revision or "main", checkpoints, config)


def _ask_open_clip(name: str, model: str, tag: str) -> dict[str, Any]:
    """Where open_clip publishes a model, and its configuration.

    Raises:
        SettingsError: it knows no such model or tag.
    """
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise SettingsError(f"model: {name!r}: open_clip has no model {model!r}; see open_clip.list_models()")
    published = open_clip.get_pretrained_cfg(model, tag)
    if not published:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise SettingsError(f"model: {name!r}: open_clip has no weights {tag!r} for {model}; it has {tags}")
    preprocess = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in published}
    if not published.get("hf_hub"):
        raise SettingsError(f"model: {name!r}: open_clip has its weights from elsewhere than the Hugging Face hub")
    return {
        "hub": published["hf_hub"],
        # The weights decide the activation: open_clip warns where its model of that name has another.
        "config": {
            "model_cfg": {**config, "quick_gelu": bool(published.get("quick_gelu"))},
            "preprocess_cfg": preprocess,
        },
    }


def _read(path: Path) -> dict[str, Any]:
    """What open_clip said before; nothing where the file is missing or is not what it should be."""
    try:
        known = json.loads(path.read_bytes())
        return {key: value for key, value in known.items() if value["hub"] and value["config"]["model_cfg"]}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}
