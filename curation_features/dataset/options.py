"""Options of a dataset: layout, embeddings, size of files."""

from __future__ import annotations

from dataclasses import dataclass

from curation_features.errors import InputError
from curation_features.schema import DATASET_LAYOUTS
from curation_features.settings import nearest
from curation_features.storage.tables import FEATURE_COLUMNS

KEYS = ("batch_id", "position", "photo_id")
"""Columns that identify a row."""

ROWS_PER_FILE = 1_000_000
BYTES_PER_FILE = 500_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a dataset; all have an effect on its content.

    Attributes:
        layout: one of `schema.DATASET_LAYOUTS`.
        embeddings: write the image embeddings, too.
        float16: write them in half precision: half the size, each number rounded to 11 bits.
        version: only embeddings of this version.
        mixed: allow embeddings of several versions.
        distinct: keep one row per `sha256`, the first.
        without: columns to leave out.
        rows_per_file: most rows of a file.
        bytes_per_file: most bytes of a file, if one row group is not larger.

    Raises:
        InputError: the options contradict each other.
    """

    layout: str = "parquet"
    embeddings: bool = False
    float16: bool = False
    version: str | None = None
    mixed: bool = False
    distinct: bool = False
    without: tuple[str, ...] = ()
    rows_per_file: int = ROWS_PER_FILE
    bytes_per_file: int = BYTES_PER_FILE

    def __post_init__(self) -> None:
        if self.layout not in DATASET_LAYOUTS:
            raise InputError(f"layout {self.layout!r} is none of {', '.join(DATASET_LAYOUTS)}")
        if not self.embeddings and (self.float16 or self.mixed or self.version is not None):
            raise InputError("half precision, a version and mixed versions are of embeddings: add --embeddings")
        if self.mixed and self.version is not None:
            raise InputError("--mixed and --version cannot be combined: one version is not mixed")
        if self.rows_per_file < 1 or self.bytes_per_file < 1:
            raise InputError("a file has at least 1 row and 1 byte")
        for name in self.without:
            if name in KEYS:
                raise InputError(f"column {name!r} identifies a row and cannot be left out")
            if name not in FEATURE_COLUMNS:
                raise InputError(f"no column {name!r}{nearest(name, FEATURE_COLUMNS)}")
