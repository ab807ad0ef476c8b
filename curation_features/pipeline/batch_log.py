"""Log line of a batch."""

from __future__ import annotations

import logging

from curation_features.manifest import Batch
from curation_features.pipeline.merge import EnrichedBatch
from curation_features.pipeline.stats import RunStats
from curation_features.pipeline.summary import flagged_count

log = logging.getLogger(__name__)


def log_batch(batch: Batch, merged: EnrichedBatch, stats: RunStats) -> None:
    """Log the result of a batch in one line; the record's attribute `curation_features` has the fields."""
    fields = {
        "batch_id": batch.batch_id,
        "artifacts": len(batch.artifacts),
        **merged.statuses(),
        "flagged": flagged_count(merged),
        **stats.summary(),
        "labels": list(merged.label_counts())[:3],
    }
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    log.info("Features extracted for batch: %s", text, extra={"curation_features": fields})
