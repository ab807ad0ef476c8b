"""The body of a job of Dagster Pipes: processes a manifest, and reports progress and numbers to the partition.

    python -m curation_features.engines.pipes_worker

Needs `dagster-pipes` alone, not Dagster. The run passes two extras: `manifest`, the path of a manifest, and optionally
`root`, the project folder (default: the current one).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation_features.engines.batch_work import batch_work
from curation_features.engines.dispatch import describe
from curation_features.engines.executor import ShardResult
from curation_features.engines.progress import PacedCounter
from curation_features.engines.shard_files import read_shards
from curation_features.errors import CurationError, require_extra
from curation_features.settings import load_settings

_PROGRESS_EVERY_S = 10.0


def main() -> int:
    """Process the manifest of the run; returns the exit code, 1 if it failed."""
    require_extra("pipes")
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        logging.getLogger("curation_features").handlers = [_LogToDagster(pipes)]
        try:
            result = _process(Path(pipes.get_extra("manifest")), pipes.extras.get("root"), pipes.log.info)
        except CurationError as error:
            pipes.log.error(str(error))
            return 1
        pipes.log.info(f"Batch {result.batch_id}: {describe(result)}")
        numbers = {"photos": result.photos, "seconds": result.seconds, **result.statuses}
        pipes.report_asset_materialization(metadata={"batch_id": result.batch_id, "state": result.state, **numbers})
    return 0


def _process(manifest: Path, root: str | None, say: Callable[[str], None]) -> ShardResult:
    (shard,) = read_shards([manifest])
    if isinstance(shard, ShardResult):
        raise CurationError(shard.reason)
    name, photos = shard.batch_id, shard.photos

    def report(_: int, done: int) -> None:
        say(f"Batch {name}: {done:,} of {photos:,} photos")

    function = batch_work(load_settings(root)).prepare()
    return function(shard, PacedCounter(report, _PROGRESS_EVERY_S).add, wait=True)


class _LogToDagster(logging.Handler):
    """Sends log records to the run."""

    def __init__(self, pipes: Any) -> None:
        super().__init__()
        self._pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        self._pipes.log.log(record.levelno, record.getMessage())


if __name__ == "__main__":
    sys.exit(main())
