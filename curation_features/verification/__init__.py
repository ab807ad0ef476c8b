"""Checks of a finished batch: are its files correct, its numbers usual?

The blocking checks read the files as a consumer would and compare them with the manifest (`verify`). The others are
numbers that cause a warning beyond a threshold of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation_features.manifest import Batch, document_digest
from curation_features.verification.files import Key, verify_document, verify_embeddings, verify_table
from curation_features.verification.report import CHECKS, UNCHANGED, Check, Report
from curation_features.verification.usual import cached_share, degraded_share, flag_shift, label_shift

__all__ = ["CHECKS", "Check", "cached_share", "degraded_share", "flag_shift", "label_shift", "verify"]


def verify(batch: Batch, json_path: Path, table_path: Path, embeddings_path: Path) -> dict[str, list[str]]:
    """Compare the finished files of a batch with its manifest.

    Does not raise for the content of files: a missing or unreadable file is a problem of every check. A number that
    JSON does not have (`NaN`) is a problem of its field; the file counts as readable.

    Args:
        batch: the accepted manifest.
        json_path: the enriched batch.
        table_path: the same as a table, read by row groups.
        embeddings_path: the image embeddings, read by row groups.

    Returns:
        The problems of each blocking check by its name; empty if there are none. At most `PROBLEMS_SHOWN` texts, and
        one with the number of the others. A text names file position, photo and field, is printable and without
        markup, and quotes no metadata.
    """
    report = Report()
    valid: dict[Key, Mapping[str, Any]] = {}
    if document_digest(batch.document) != batch.digest:
        report.add(UNCHANGED, "manifest", "was changed after it was accepted: its digest differs")
    with report.reading(json_path):
        valid = verify_document(batch, json_path, report)
    with report.reading(table_path):
        verify_table(batch, valid, table_path, report)
    with report.reading(embeddings_path):
        verify_embeddings(batch, embeddings_path, report)
    return report.problems()
