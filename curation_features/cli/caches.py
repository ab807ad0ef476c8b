"""Commands over the per-photo cache: `cache stats`, `cache clear`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any

from curation_features.cli.command import COMMAND, Outcome, declare
from curation_features.cli.terminal import say
from curation_features.settings import Settings

STATS_FIELDS = {
    "folder": "where the cache lies",
    "photos": "how many photos it knows",
    "bytes": "how large it is",
    "label_embeddings": "how many vocabularies it has those of",
}
CLEAR_FIELDS = {"folder": "where the cache lies", "deleted": "how many files were deleted"}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    cache = commands.add_parser("cache", help="the per-photo cache").add_subparsers(required=True, metavar=COMMAND)
    declare(cache, "stats", cache_stats, "curation-features cache stats --json", STATS_FIELDS)
    command = declare(cache, "clear", cache_clear, "curation-features cache clear --all", CLEAR_FIELDS)
    command.add_argument("--all", action="store_true", help="the label embeddings too")


def cache_stats(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show what the cache holds."""
    from curation_features.storage.cache import FeatureCache

    stats = FeatureCache(settings.cache_path).stats()
    kept = f"with label embeddings of {stats.label_embeddings}" if stats.label_embeddings else "without those of any"
    told = f"{settings.cache_path}: {stats.photos} photos, {stats.bytes / 1e6:.1f} MB, {kept} vocabularies"
    return Outcome({"folder": settings.cache_path, **asdict(stats)}, partial(say, told))


def cache_clear(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Delete what the cache holds; artifacts stay."""
    from curation_features.storage.cache import FeatureCache

    count = FeatureCache(settings.cache_path).clear(label_embeddings=args.all)
    told = f"{settings.cache_path}: {count} files deleted"
    return Outcome({"folder": settings.cache_path, "deleted": count}, partial(say, told))
