"""A contact sheet of the results of a search, in order of score."""

from __future__ import annotations

from pathlib import Path

from curation_features.report.sheet import COLUMNS, write_results
from curation_features.search.finding import Found
from curation_features.search.forget import PAGE
from curation_features.search.query import Query, Term
from curation_features.search.tables import Tables
from curation_features.settings import Settings


def default_path(settings: Settings) -> Path:
    """Return the path of the page of the last search."""
    return settings.data_path / PAGE


def write_page(page: Path, found: Found, settings: Settings) -> None:
    """Write the page of a search.

    Raises:
        StoreError: a table cannot be read, or the page cannot be written.
    """
    columns = ["batch_id", *COLUMNS]
    with Tables(settings.data_path) as tables:
        found_rows = tables.rows_of(columns, [(hit.batch_id, hit.photo_id) for hit in found.hits])
    rows = {(row["batch_id"], row["photo_id"], row["sha256"]): row for row in found_rows}
    hits = [hit for hit in found.hits if (hit.batch_id, hit.photo_id, hit.sha256) in rows]  # others changed since
    matches = [f"{hit.standard:.1f} standard deviations above the mean, cosine {hit.cosine:.3f}" for hit in hits]
    shown = [rows[hit.batch_id, hit.photo_id, hit.sha256] for hit in hits]
    write_results(page, describe(found.query), shown, matches, found.likely, settings)


def describe(query: Query) -> str:
    """Return a query as a line of text."""
    parts = [_describe(term) for term in query.terms if term.is_wanted]
    unwanted = [_describe(term) for term in query.terms if not term.is_wanted]
    return " + ".join(parts) + (f", not {', '.join(unwanted)}" if unwanted else "")


def _describe(term: Term) -> str:
    name = f"like {Path(term.text).name}" if term.is_picture else term.text
    return name if term.weight == 1 else f"{term.weight:g} x {name}"
