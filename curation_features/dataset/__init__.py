"""One dataset of many batches' tables: a folder of Parquet files, or one file.

Tables stream through as Arrow record batches: memory does not grow with the number of rows or batches.
"""

from curation_features.dataset.gather import Gathered, gather_features, gather_planned
from curation_features.dataset.options import BYTES_PER_FILE, ROWS_PER_FILE, Options
from curation_features.dataset.plan import Plan, plan_dataset
from curation_features.dataset.writing import write_dataset

__all__ = [
    "BYTES_PER_FILE",
    "ROWS_PER_FILE",
    "Gathered",
    "Options",
    "Plan",
    "gather_features",
    "gather_planned",
    "plan_dataset",
    "write_dataset",
]
