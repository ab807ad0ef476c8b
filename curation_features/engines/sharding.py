"""Splits a manifest into shards whose boundaries depend on the photos next to them, not on their positions.

Content-defined chunking over the order of the manifest, as FastCDC does for the bytes of a file (W. Xia et al.,
"FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication", USENIX ATC 2016): a shard ends
after a photo whose id has a small hash. So photos that are added or deleted change the shard around them, and the next
boundaries stay. The order is kept, so neighbours in time stay together; a series of photos is not split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from curation_features.errors import ManifestError
from curation_features.manifest import Batch
from curation_features.storage.tables import taken_at

SHARD_OF = "shard_of"
"""Field of a shard's manifest: the id of the batch that was split."""

SERIES_S = 2.0
"""Photos taken within so many seconds belong to one series."""

_FEWEST, _USUAL, _MOST = 0.25, 0.8, 2.0  # photos of a shard : size
_EARLY, _LATE = 0.25, 4.0  # probability of a boundary after a photo * size, before and after _USUAL
_MAX_PREFIX = 100  # characters of the batch's id in those of its shards; 128 are legal


@dataclass(frozen=True, slots=True)
class _Boundary:
    """The end of a shard.

    Attributes:
        after: number of artifacts before it.
        key: names it; the same as long as the photo before it is the same.
    """

    after: int
    key: str


def split(batch: Batch, size: int) -> Iterator[dict[str, Any]]:
    """Split a batch into shards of about `size` photos: a quarter to twice as many, the last one maybe fewer.

    Yields their manifests, in order, with all fields of the batch's, another `batch_id`, and `shard_of`. The id depends
    on the photo before the first one of the shard, so that a shard that gains or loses photos keeps its id and replaces
    its results. The result depends on the manifest alone, not on earlier shards.

    Args:
        size: mean number of artifacts, at least 1.
    """
    ids = set[str]()
    start = _Boundary(0, "")
    for end in (*_boundaries(batch, size), _Boundary(len(batch.artifacts), "")):
        if end.after > start.after:
            batch_id = _shard_id(batch, start)
            if batch_id in ids:  # a chance of 1e-6 for 25,000 shards
                raise ManifestError(
                    "batch_id", f"two shards have the id {batch_id!r}; change the size of shards a little"
                )
            ids.add(batch_id)
            artifacts = batch.document["artifacts"][start.after : end.after]
            yield {**batch.document, "batch_id": batch_id, "artifacts": artifacts, SHARD_OF: batch.batch_id}
        start = end


def shard_ids_pattern(batch_id: str) -> str:
    """Return the pattern (`fnmatch`) of the ids of shards of a batch; others may match it, too."""
    return f"{batch_id[:_MAX_PREFIX]}-{'[0-9a-f]' * 12}"


def _shard_id(batch: Batch, start: _Boundary) -> str:
    digest = hashlib.sha256(json.dumps([batch.batch_id, start.key]).encode()).hexdigest()
    return f"{batch.batch_id[:_MAX_PREFIX]}-{digest[:12]}"


def _boundaries(batch: Batch, size: int) -> Iterator[_Boundary]:
    """Yield the boundaries between shards, in order.

    A shard may end with each series. It does if the hash of one of the photos of the series is small, so that the
    number of series has no influence on the size.
    """
    fewest, usual, most = (max(1, round(factor * size)) for factor in (_FEWEST, _USUAL, _MOST))
    times = [taken_at(artifact) for artifact in batch.document["artifacts"]]
    seen = Counter[str]()
    start, lowest = 0, 1.0
    for artifact in batch.artifacts[:-1]:
        seen[artifact.photo_id] += 1
        key = f"{seen[artifact.photo_id]} {artifact.photo_id}"  # a manifest may have a photo several times
        lowest = min(lowest, _hash(key))
        after = artifact.position + 1
        photos, is_end = after - start, not _is_series(times, after)
        is_small = lowest * size < (_EARLY if photos < usual else _LATE)
        if photos >= most or (photos >= fewest and is_end and is_small):
            start = after
            yield _Boundary(after, key)
        if is_end:
            lowest = 1.0


def _hash(key: str) -> float:
    """Return a number in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64


def _is_series(times: Sequence[datetime | None], at: int) -> bool:
    """Return whether the photos before and after a boundary were taken within `SERIES_S`."""
    before, after = times[at - 1], times[at]
    return before is not None and after is not None and abs((after - before).total_seconds()) <= SERIES_S
