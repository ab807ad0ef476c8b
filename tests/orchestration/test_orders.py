"""In every order of actions on a batch, the results are those of the newest accepted manifest.

Four actions in a row, over two batches, on a real instance of Dagster with stand-in models. By default a few
orders are drawn; `ORDERS=2000 pytest tests/orchestration/test_orders.py` draws more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from curation_features.clip.vocabulary import load_vocabulary
from curation_features.events.outbox import FileSink
from curation_features.ingest.folder import find_photos, ingest
from curation_features.manifest import Batch, read_manifest
from curation_features.orchestration.adoption import adopt_pending
from curation_features.orchestration.assets import SPECS
from curation_features.schema import ASSETS, LABEL_ASSETS
from curation_features.storage.tables import read_metadata

# Dagster's own evaluation warns.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::dagster.BetaWarning")]

BATCHES = ("one", "two")
VOCABULARIES = (["cat", "dog", "bird", "boat", "tree"], ["sea", "sky", "sand", "sun", "ship", "surf"])


@dataclass
class Archive:
    """Two batches, and the results that a user expects.

    Attributes:
        ingested: number of ingests of each folder; each one has one more photo.
        expected: newest accepted manifest and labels of each finished batch.
    """

    pipeline: Any
    daemon: Any
    reconciler: Any
    ingested: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BATCHES, 0))
    expected: dict[str, tuple[Batch, list[str]]] = field(default_factory=dict)
    vocabulary: int = 0

    def __post_init__(self) -> None:
        self._write_labels()
        self.reconciler.tick()

    # --- actions

    def ingest(self, batch_id: str) -> None:
        folder = self.pipeline.world.root / "photos" / batch_id
        folder.mkdir(parents=True, exist_ok=True)
        self.ingested[batch_id] += 1
        number = 10 * BATCHES.index(batch_id) + self.ingested[batch_id]
        Image.effect_noise((24, 16), number).convert("RGB").save(folder / f"{number}.png")
        ingest(find_photos(folder), self.pipeline.settings, batch_id=batch_id)

    def process(self, batch_id: str) -> None:
        self.pipeline.process(self._accepted(batch_id))

    def materialize(self, batch_id: str) -> None:
        self.pipeline.accept(self._accepted(batch_id))
        assert self.pipeline.run(batch_id).success

    def submit(self, batch_id: str) -> None:
        before = self.expected.get(batch_id)
        batch = self._accepted(batch_id)
        self.daemon.drop(list(batch.document["artifacts"]), batch_id)
        if not self.daemon.tick():  # finished before, perhaps with other labels
            assert before is not None
            assert before[0].digest == batch.digest
            self.expected[batch_id] = before

    def backfill(self, _: str) -> None:
        adopt_pending(self.pipeline.store, self.pipeline.instance, SPECS)
        for batch_id in self.pipeline.instance.get_dynamic_partitions("batch_id"):
            assert self.pipeline.run(batch_id, *LABEL_ASSETS).success
        self._relabelled()

    def reconcile(self, _: str) -> None:
        adopt_pending(self.pipeline.store, self.pipeline.instance, SPECS)
        requested = self.reconciler.tick()
        for batch_id in BATCHES:
            assets = [name for name in ASSETS if batch_id in requested.get(name, ())]
            if assets:
                assert self.pipeline.run(batch_id, *assets).success
        self._relabelled()

    def change_labels(self, _: str) -> None:
        self.vocabulary = 1 - self.vocabulary
        self._write_labels()

    # --- invariants

    def check(self) -> None:
        finished = {path.stem for path in (self.data / "features").glob("*.json")}
        assert finished == set(self.expected)
        for batch_id, (batch, labels) in self.expected.items():
            document = self.pipeline.features(batch_id)
            photos = [artifact["photo_id"] for artifact in document["artifacts"]]
            assert photos == [artifact["photo_id"] for artifact in batch.document["artifacts"]]
            assert {artifact["features"]["status"] for artifact in document["artifacts"]} == {"ok"}
            assert self._labels_of(batch_id) == labels
            self._check_events(batch_id)

    def _check_events(self, batch_id: str) -> None:
        """The newest event describes the files on disk, and every version has an event, in order."""
        digest = hashlib.sha256(self.pipeline.store.feature_paths(batch_id)[0].read_bytes()).hexdigest()
        events = FileSink(self.data).of_batch(batch_id)
        assert events[-1] == self.pipeline.outbox.latest.get(batch_id)
        assert events[-1]["data"]["features"] == digest
        assert events[-1]["data"]["manifest"] == self.expected[batch_id][0].digest
        assert [event["data"]["sequence"] for event in events] == list(range(1, len(events) + 1))
        assert [event["data"]["supersedes"] for event in events] == [None, *(event["id"] for event in events[:-1])]

    # --- helpers

    @property
    def data(self) -> Path:
        return self.pipeline.settings.data_path

    def _accepted(self, batch_id: str) -> Batch:
        """The manifest of the latest ingest, which becomes the expected one."""
        if not self.ingested[batch_id]:
            self.ingest(batch_id)
        batch = read_manifest(self.data / "batches" / f"{batch_id}.json")
        self.expected[batch_id] = (batch, VOCABULARIES[self.vocabulary])
        return batch

    def _relabelled(self) -> None:
        labels = VOCABULARIES[self.vocabulary]
        self.expected = {batch_id: (batch, labels) for batch_id, (batch, _) in self.expected.items()}

    def _labels_of(self, batch_id: str) -> list[str]:
        return list(read_metadata(self.pipeline.store.feature_paths(batch_id)[1])["labels"])

    def _write_labels(self) -> None:
        path = self.pipeline.world.root / "config" / "labels.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"labels": VOCABULARIES[self.vocabulary]}))
        assert list(load_vocabulary(self.pipeline.settings).labels) == VOCABULARIES[self.vocabulary]


OF_A_BATCH = ("ingest", "process", "materialize", "submit")
OF_ALL = ("backfill", "reconcile", "change_labels")
ACTIONS = [*((name, batch_id) for name in OF_A_BATCH for batch_id in BATCHES), *((name, "") for name in OF_ALL)]


@given(st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=4))
@settings(
    max_examples=int(os.environ.get("ORDERS", "6")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example([("materialize", "one"), ("ingest", "one"), ("process", "one"), ("backfill", "")])
@example([("process", "one"), ("change_labels", ""), ("reconcile", ""), ("submit", "one")])
@example([("process", "one"), ("materialize", "two"), ("change_labels", ""), ("backfill", "")])
@example([("submit", "two"), ("ingest", "two"), ("process", "two"), ("submit", "two")])
def test_no_order_of_actions_leaves_older_results(new_archive: Callable[[], Any], actions) -> None:
    with new_archive() as parts:
        archive = Archive(*parts)
        for name, batch_id in actions:
            getattr(archive, name)(batch_id)
            archive.check()
