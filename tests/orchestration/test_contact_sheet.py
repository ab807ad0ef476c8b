"""The contact sheet in Dagster: linked from the asset, and without effect on the batch."""

from __future__ import annotations

import logging

import dagster as dg
import pytest

from curation_features.events.outbox import Outbox

pytestmark = pytest.mark.long


def page_of(pipeline, batch_id: str = "batch_1"):
    return pipeline.store.feature_paths(batch_id)[0].with_suffix(".html")


def test_a_run_writes_the_page_before_its_event(pipeline, monkeypatch) -> None:
    there = []
    publish = Outbox.publish

    def watched(outbox, event):
        there.append(page_of(pipeline).read_bytes().startswith(b"<!doctype html>"))
        return publish(outbox, event)

    monkeypatch.setattr(Outbox, "publish", watched)
    assert pipeline.run().success
    assert there == [True]
    metadata = pipeline.materialization("features").metadata
    assert metadata["contact_sheet"] == dg.MetadataValue.path(str(page_of(pipeline)))


def test_the_page_follows_the_features(finished) -> None:
    """A current page is kept, an old one is replaced, or deleted if no page is wanted."""
    page = page_of(finished)
    before, old = page.stat(), page.read_bytes()
    assert finished.run().success
    after = page.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "contact_sheet" in finished.materialization("features").metadata
    finished.settings = finished.settings.replace(temperature=7.0)
    assert finished.run().success
    assert page.read_bytes() != old
    finished.settings = finished.settings.replace(temperature=8.0, contact_sheet=False)
    assert finished.run().success
    assert not page.exists()
    assert "contact_sheet" not in finished.materialization("features").metadata


def test_a_page_that_cannot_be_written_fails_nothing_else(pipeline, caplog) -> None:
    batches = pipeline.accept_many(2)
    page_of(pipeline, "b00").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, logger="curation_features"):
        assert pipeline.run_range("b00", "b01").success
    for batch_id in batches:
        checks = pipeline.checks(batch_id)
        assert {"artifacts_complete", "metadata_unchanged", "schema_and_ranges", "values_finite"} <= checks.keys()
        assert all(checks.values())
    assert [name.rpartition("-")[0] for name in pipeline.events()] == batches
    assert "contact_sheet" not in pipeline.materialization("features", "b00").metadata
    assert any("No contact sheet of batch b00: " in record.getMessage() for record in caplog.records)
    assert page_of(pipeline, "b01").is_file()


def test_pages_do_not_affect_data_versions(finished) -> None:

    def without() -> None:
        page_of(finished).unlink()
        finished.settings = finished.settings.replace(contact_sheet=False)
        finished.run()

    assert finished.changed_by(without) == set()
