"""The dataset card of a Hugging Face folder."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import yaml
from gathering import photo, write

from curation_features import gather_features
from curation_features.dataset.card import _size_category
from curation_features.storage.tables import FEATURE_COLUMNS


def test_the_card_names_the_files_and_documents_the_columns(settings, tmp_path) -> None:
    write(settings, "a", photo("a0"), "gone")
    write(settings, "b", photo("b0"), clip="<script>")
    gather_features(tmp_path / "all", settings=settings, layout="huggingface", embeddings=True)
    text = (tmp_path / "all" / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    found = yaml.safe_load(metadata)
    assert found["configs"] == [  # as in the Hub's guide "Manual configuration"
        {"config_name": "features", "data_files": "features/*.parquet", "default": True},
        {"config_name": "embeddings", "data_files": "embeddings/*.parquet"},
    ]
    assert found["size_categories"] == ["n<1K"]
    for configuration in found["configs"]:
        rows = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "all").glob(configuration["data_files"]))
        assert rows == (3 if configuration.get("default") else 2)
    assert "3 photos of 2 batches" in body
    assert "<script>" not in body
    assert "positions and serial numbers" in body
    for name, column in FEATURE_COLUMNS.items():
        (row,) = [line for line in body.partition("## embeddings")[0].splitlines() if line.startswith(f"| `{name}` ")]
        cells = [cell.strip() for cell in row.split("|")[3:7]]
        facts = column.facts
        best = facts.get("direction", "").removesuffix(" is best")
        assert cells == [facts.get("unit", ""), facts.get("range", ""), best, column.description]
    gather_features(tmp_path / "all", settings=settings, layout="huggingface", without=("artifact",))
    assert "positions and serial numbers" not in (tmp_path / "all" / "README.md").read_text()


def test_an_edited_card_is_kept(settings, tmp_path) -> None:
    write(settings, "a", photo("a0"))
    card = tmp_path / "all" / "README.md"

    def gather(**options: object) -> str:
        gather_features(tmp_path / "all", settings=settings, **options)
        return card.read_text()

    assert "1 photos of 1" in gather(layout="huggingface")
    assert "## embeddings" in gather(layout="huggingface", embeddings=True)
    card.write_text("mine")
    assert [gather(layout="huggingface"), gather(), gather(distinct=True)] == ["mine"] * 3


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M"), (10**9 - 1, "100M<n<1B"), (10**9, "n>1B")],
)
def test_size_categories_are_those_of_the_hub(rows: int, category: str) -> None:
    assert _size_category(rows) == category
