"""Shows and clears the per-photo cache: `cache stats`, `cache clear`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any

from curation_features.cli.command import Outcome, add_group, declare
from curation_features.cli.terminal import count_of, say, size
from curation_features.settings import Settings

STATS_FIELDS = {
    "folder": "the cache's folder",
    "photos": "number of photos",
    "bytes": "size",
    "label_embeddings": "number of vocabularies with label embeddings",
}
CLEAR_FIELDS = {"folder": "the cache's folder", "deleted": "number of deleted files"}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    cache = add_group(commands, "cache", "the per-photo cache")
    declare(cache, "stats", cache_stats, "curation-features cache stats --json", STATS_FIELDS)
    command = declare(cache, "clear", cache_clear, "curation-features cache clear --all", CLEAR_FIELDS)
    command.add_argument("--all", action="store_true", help="the label embeddings too")


def cache_stats(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show the content of the cache."""
    from curation_features.storage.cache import FeatureCache

    stats = FeatureCache(settings.cache_path).stats()
    vocabularies = f"{stats.label_embeddings} {'vocabulary' if stats.label_embeddings == 1 else 'vocabularies'}"
    content = f"{count_of(stats.photos, 'photo')}, {size(stats.bytes)}, label embeddings of {vocabularies}"
    text = f"{settings.cache_path}: {content}"
    return Outcome({"folder": settings.cache_path, **asdict(stats)}, partial(say, text))


def cache_clear(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Delete the content of the cache; artifacts stay."""
    from curation_features.storage.cache import FeatureCache

    count = FeatureCache(settings.cache_path).clear(label_embeddings=args.all)
    fields = {"folder": settings.cache_path, "deleted": count}
    return Outcome(fields, partial(say, f"{settings.cache_path}: {count_of(count, 'file')} deleted"))
