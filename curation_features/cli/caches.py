"""Commands over the per-photo cache: `cache stats`, `cache clear`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from curation_features.cli.command import declare
from curation_features.settings import Settings


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    cache = commands.add_parser("cache", help="the per-photo cache").add_subparsers(required=True, metavar="COMMAND")
    command = declare(cache, "stats", cache_stats, "curation-features cache stats --json")
    command.add_argument("--json", action="store_true", help="for machines")
    command = declare(cache, "clear", cache_clear, "curation-features cache clear --all")
    command.add_argument("--all", action="store_true", help="the label embeddings too")


def cache_stats(args: argparse.Namespace, settings: Settings) -> int:
    """Show what the cache holds."""
    from curation_features.cache import FeatureCache

    stats = FeatureCache(settings.cache_path).stats()
    if args.json:
        print(json.dumps(asdict(stats)))
    else:
        kept = "with" if stats.label_embeddings else "without"
        print(f"{settings.cache_path}: {stats.photos} photos, {stats.bytes / 1e6:.1f} MB, {kept} label embeddings")
    return 0


def cache_clear(args: argparse.Namespace, settings: Settings) -> int:
    """Delete what the cache holds; artifacts stay."""
    from curation_features.cache import FeatureCache

    count = FeatureCache(settings.cache_path).clear(label_embeddings=args.all)
    print(f"{settings.cache_path}: {count} files deleted")
    return 0
