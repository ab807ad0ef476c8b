"""The figures of `docs/scores.md` are those of its pictures."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation_features import TechnicalQualityAnalyzer
from curation_features.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
COLUMNS = ("sharpness", "exposure", "noise", "brisque")
ROWS = re.findall(
    r"^\| !\[[^]]*\]\((figures/\w+\.jpg)\) \|[^|]*\| (.*) \|$", (DOCS / "scores.md").read_text(), re.MULTILINE
)


@pytest.fixture(scope="module")
def analyzer() -> TechnicalQualityAnalyzer:
    settings = Settings(root=REPOSITORY, device="cpu", clip_iqa_weights="no/such.pt", on_missing_weights="degrade")
    return TechnicalQualityAnalyzer(settings)


@pytest.mark.parametrize(("picture", "figures"), ROWS)
def test_the_figures_beside_a_picture(analyzer: TechnicalQualityAnalyzer, picture: str, figures: str) -> None:
    scores = analyzer.analyze(DOCS / picture)
    expected = dict(zip(COLUMNS, map(float, figures.split(" | ")), strict=True))
    assert {name: round(scores[name], 3) for name in COLUMNS} == pytest.approx(expected, abs=0.0011)


def test_every_picture_is_in_the_guide() -> None:
    assert {picture for picture, _ in ROWS} == {f"figures/{path.name}" for path in (DOCS / "figures").glob("*.jpg")}
    assert len(ROWS) == 7


@pytest.mark.long
def test_the_pictures_are_drawn_by_the_script(tmp_path: Path) -> None:
    """Up to differences of JPEG encoders."""
    runpy.run_path(str(DOCS / "figures" / "draw.py"))["draw"](tmp_path)
    for path in (DOCS / "figures").glob("*.jpg"):
        kept, drawn = (np.asarray(Image.open(file), dtype=float) for file in (path, tmp_path / path.name))
        assert abs(kept - drawn).mean() < 2, path.name
