"""The dataset card of a Hugging Face folder: `README.md` with metadata that `datasets.load_dataset` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from curation_features.text import inert

if TYPE_CHECKING:
    import pyarrow as pa

_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)  # limits of the Hub's size categories
_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
_HEAD = "| column | type | unit | range | best | description |"
_FACTS = (b"unit", b"range", b"direction", b"description")


def dataset_card(record: Mapping[str, Any], schemas: Mapping[str, pa.Schema]) -> bytes:
    """Return the card of a dataset.

    Args:
        record: the record of the dataset.
        schemas: of each table, by the name of its folder; the first is the default configuration.
    """
    lines = ["---", *_metadata(record["rows"], list(schemas)), "---", "# Photo features", ""]
    lines += [
        f"{record['rows']:,} photos of {len(record['batches']):,} batches, gathered with curation-features "
        f"{record['release']}.",
        "",
        "A value that could not be measured is null. Compare scores only within one `version_technical`, signals "
        "within one `version_signals`, groups within one `version_groups`, "
        "labels within one `version_clip`, and vectors within one `version_embedding`.",
    ]
    if "artifact" in next(iter(schemas.values())).names:
        lines += ["", "The column `artifact` has all EXIF of a photo, and with it positions and serial numbers."]
    for part, versions in record["versions"].items():
        counts = ", ".join(f"`{inert(version)}` ({rows:,} rows)" for version, rows in versions.items())
        lines += ["", f"Versions of `{part}`: {counts}."]
    for name, schema in schemas.items():
        lines += [
            "",
            f"## {name}",
            _HEAD,
            "|---|---|---|---|---|---|",
        ]
        lines += map(_row, schema)
    return "\n".join([*lines, ""]).encode()


def _metadata(rows: int, configurations: Iterable[str]) -> Iterable[str]:
    """Yield the lines of the YAML block. JSON texts are YAML."""
    yield "pretty_name: Photo features"
    yield f"size_categories: [{json.dumps(_size_category(rows))}]"
    yield 'tags: ["image-quality", "clip", "photo-curation", "curation-features"]'
    yield "configs:"
    for number, name in enumerate(configurations):
        yield f"- config_name: {name}"
        yield f"  data_files: {name}/*.parquet"
        if number == 0:
            yield "  default: true"


def _size_category(rows: int) -> str:
    """Return the Hub's category, such as `1M<n<10M`."""
    if rows < _SIZES[0]:
        return "n<1K"
    place = sum(rows >= limit for limit in _SIZES)
    return f"{_NAMES[place - 1]}<n<{_NAMES[place]}" if place < len(_NAMES) else "n>1B"


def _row(field: pa.Field) -> str:
    facts = field.metadata or {}
    unit, limits, best, description = (facts.get(name, b"").decode(errors="replace") for name in _FACTS)
    best = best.removesuffix(" is best")
    return f"| `{field.name}` | `{field.type}` | {unit} | {limits} | {best} | {description} |".replace("\n", " ")
