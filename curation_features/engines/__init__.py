"""Runs over many batches: the seam `Executor`, its engines, and the split of a manifest into shards.

An engine is imported only when it is created (`create_engine`).
"""

from curation_features.engines.executor import Executor, Shard, ShardFunction, ShardResult, Work
from curation_features.engines.registry import ENGINES, EngineEntry, EngineOptions, create_engine

__all__ = [
    "ENGINES",
    "EngineEntry",
    "EngineOptions",
    "Executor",
    "Shard",
    "ShardFunction",
    "ShardResult",
    "Work",
    "create_engine",
]
