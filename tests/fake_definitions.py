"""Dagster definitions of the current project with fake models: a run starts in a tenth of the time that torch needs.

A backfill takes few batches per run, so that a small one has several runs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import patch

import dagster as dg

from curation_features.orchestration import project
from curation_features.orchestration.resources import ModelsResource
from curation_features.pipeline import Models
from curation_features.settings import Settings, load_settings
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel, Weights

BATCHES_PER_RUN = 4


def models() -> Models:
    """New fake models; the log has a line when CLIP is loaded."""

    def load(_: Weights) -> FakeClipEngine:
        logging.getLogger("curation_features").info("Loading the fake CLIP")
        return FakeClipEngine()

    return Models(
        LazyModel(lambda: Weights("fake-clip", Path(), ""), load),
        LazyModel.ready(FakeQualityModel(), "fake-clip-iqa"),
        LazyModel.ready(FakeBrisque(), "fake-brisque"),
    )


class FakeModels(ModelsResource):
    def models(self, settings: Settings) -> Models:
        return models()


def definitions() -> dg.Definitions:
    """The entry point of a workspace."""
    settings = load_settings()
    policy = dg.BackfillPolicy.multi_run(BATCHES_PER_RUN)
    with patch.object(project, "photo_features", project.photo_features.with_attributes(backfill_policy=policy)):
        return project.build_definitions(settings, resources={"models": FakeModels.configure_at_launch()})
