"""The contact sheet in Dagster: linked from the asset, and without effect on the batch."""

from __future__ import annotations

import logging

import dagster as dg
import pytest

from curation_features.events.outbox import Outbox

pytestmark = pytest.mark.long


def page_of(pipeline, batch_id: str = "batch_1"):
    return pipeline.store.feature_paths(batch_id)[0].with_suffix(".html")


def test_a_run_writes_the_page_and_dagster_links_it(pipeline) -> None:
    assert pipeline.run().success
    page = page_of(pipeline)
    assert page.read_bytes().startswith(b"<!doctype html>")
    metadata = pipeline.materialization("features").metadata
    assert metadata["contact_sheet"] == dg.MetadataValue.path(str(page))


def test_the_page_exists_before_the_event(pipeline, monkeypatch) -> None:
    there = []
    publish = Outbox.publish

    def watched(outbox, event):
        there.append(page_of(pipeline).exists())
        return publish(outbox, event)

    monkeypatch.setattr(Outbox, "publish", watched)
    assert pipeline.run().success
    assert there == [True]


def test_a_current_page_is_not_written_again(pipeline) -> None:
    pipeline.run()
    before = page_of(pipeline).stat()
    assert pipeline.run().success
    after = page_of(pipeline).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "contact_sheet" in pipeline.materialization("features").metadata


def test_new_labels_make_a_new_page(pipeline, world) -> None:
    pipeline.run()
    before = page_of(pipeline).read_bytes()
    pipeline.settings = pipeline.settings.replace(temperature=7.0)
    assert pipeline.run().success
    assert page_of(pipeline).read_bytes() != before


def test_without_contact_sheet_an_old_page_is_deleted(pipeline) -> None:
    pipeline.run()
    pipeline.settings = pipeline.settings.replace(temperature=7.0, contact_sheet=False)
    assert pipeline.run().success
    assert not page_of(pipeline).exists()
    assert "contact_sheet" not in pipeline.materialization("features").metadata


@pytest.mark.parametrize("batches", [("batch_1",), ("b00", "b01")])
def test_a_page_that_cannot_be_written_fails_nothing_else(pipeline, caplog, batches) -> None:
    pipeline.accept_many(2)
    page_of(pipeline, batches[0]).mkdir(parents=True)
    with caplog.at_level(logging.WARNING, logger="curation_features"):
        result = pipeline.run_range(*batches) if len(batches) == 2 else pipeline.run()
    assert result.success
    for batch_id in batches:
        checks = pipeline.checks(batch_id)
        assert {"artifacts_complete", "metadata_unchanged", "schema_and_ranges", "values_finite"} <= checks.keys()
        assert all(checks.values())
    assert [name.rpartition("-")[0] for name in pipeline.events()] == list(batches)
    assert "contact_sheet" not in pipeline.materialization("features", batches[0]).metadata
    assert any(f"No contact sheet of batch {batches[0]}: " in record.getMessage() for record in caplog.records)
    assert page_of(pipeline, batches[-1]).is_file() == (len(batches) == 2)


def test_pages_do_not_affect_data_versions(pipeline) -> None:
    pipeline.run()

    def without() -> None:
        page_of(pipeline).unlink()
        pipeline.settings = pipeline.settings.replace(contact_sheet=False)
        pipeline.run()

    assert pipeline.changed_by(without) == set()
