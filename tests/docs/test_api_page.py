"""`docs/api.md` is current."""

from __future__ import annotations

import runpy
from pathlib import Path

import curation_features

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "api.md").read_text()


def test_the_page_is_made_of_the_docstrings() -> None:
    made = runpy.run_path(str(REPOSITORY / "tools" / "api_page.py"))["page"]()
    assert made == PAGE, "run `make api`"


def test_every_public_name_has_a_heading() -> None:
    assert {line[4:] for line in PAGE.splitlines() if line.startswith("### ")} == {
        name for name in curation_features.__all__ if name != "__version__"
    }
