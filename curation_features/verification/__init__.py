"""Checks of a finished batch: is what lies on disk right, and is it what batches usually look like?

The blocking checks read the artifacts back as a consumer would and hold them against the manifest (`verify`). The
others are numbers that are worth a warning beyond a threshold of the settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation_features.manifest import Batch
from curation_features.verification.document import read_document, verify_document
from curation_features.verification.embeddings import verify_embeddings
from curation_features.verification.matching import Key
from curation_features.verification.report import CHECKS, UNCHANGED, Check, Report
from curation_features.verification.table import verify_table
from curation_features.verification.usual import cached_share, degraded_share, label_shift

__all__ = ["CHECKS", "Check", "cached_share", "degraded_share", "label_shift", "verify"]


def verify(batch: Batch, json_path: Path, table_path: Path, embeddings_path: Path) -> dict[str, list[str]]:
    """Hold the finished artifacts of a batch against its manifest.

    Never raises for what lies on disk: a file that is missing or cannot be read is a problem of every check, because
    none of them could look. Numbers that are no JSON (`NaN`) are problems with a place, not an unreadable file.

    Args:
        batch: the accepted manifest.
        json_path: the enriched batch.
        table_path: the same as a table; it is read a row group at a time.
        embeddings_path: the image vectors; so are they.

    Returns:
        for each blocking check, by name, what is wrong; empty where nothing is. At most `PROBLEMS_SHOWN` texts and
        one that counts the others. They name position, photo and field, quote no metadata, and are
        printable and without markup.
    """
    report = Report()
    sound: dict[Key, Mapping[str, Any]] = {}
    accepted = json.dumps(batch.document, separators=(",", ":")).encode()
    if hashlib.sha256(accepted).hexdigest() != batch.digest:
        report.add(UNCHANGED, "manifest", "was changed after it was accepted: its digest is another")
    with report.reading():
        sound = verify_document(batch, read_document(json_path), report)
    with report.reading():
        verify_table(batch, sound, table_path, report)
    with report.reading():
        verify_embeddings(batch, embeddings_path, report)
    return report.texts()
