"""Gathers the tables of finished batches into one dataset."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.dataset.options import BYTES_PER_FILE, ROWS_PER_FILE, Options
from curation_features.dataset.plan import Plan, plan_dataset
from curation_features.dataset.record import check_output, is_complete, is_file
from curation_features.dataset.writing import write_dataset
from curation_features.errors import InputError
from curation_features.photos.reader import is_remote
from curation_features.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Gathered:
    """A dataset of many batches.

    Attributes:
        output: its folder, its file, or its URI in an object store.
        rows: number of rows.
        batches: rows by batch.
        embeddings: number of image embeddings; None without them.
        dimension: numbers of an embedding; None without them.
        versions: part of the results (`technical`, `clip`, `signals`, `groups`, `embedding`) -> version -> rows.
        other_versions: versions of embeddings that were left out -> batches.
        copies: rows left out because an earlier row has the same `sha256`.
        unfinished: batches without features, which were skipped.
        failed: batches with a damaged table, which were skipped -> why.
        bytes: size of the files.
        files: number of files.
        unchanged: the dataset was up to date, and nothing was written.
    """

    output: Path | str
    rows: int
    batches: Mapping[str, int]
    embeddings: int | None
    dimension: int | None
    versions: Mapping[str, Mapping[str, int]]
    other_versions: Mapping[str, int]
    copies: int
    unfinished: tuple[str, ...]
    failed: Mapping[str, str]
    bytes: int
    files: int
    unchanged: bool


def gather_features(
    output: str | Path,
    *batch_ids: str,
    settings: Settings | None = None,
    layout: str = "parquet",
    embeddings: bool = False,
    float16: bool = False,
    version: str | None = None,
    mixed: bool = False,
    distinct: bool = False,
    without: tuple[str, ...] = (),
    rows_per_file: int = ROWS_PER_FILE,
    bytes_per_file: int = BYTES_PER_FILE,
) -> Gathered:
    """Gather the tables of finished batches into one dataset, in constant memory.

    >>> gather_features("photos")                                       # doctest: +SKIP
    >>> pd.read_parquet("photos/features", columns=["photo_id"])        # doctest: +SKIP

    Rows are sorted by batch, and in the order of its manifest. Columns are matched by name: one that a batch of an
    earlier release lacks is null. A photo in several batches has a row in each. If nothing has changed since the last
    call, nothing is written.

    Args:
        output: a folder, in which `features/` and `embeddings/` hold Parquet files; or one file `*.parquet`. An
            existing dataset is replaced as a whole at the end; anything else is not touched. Or a folder in an object
            store, such as `s3://bucket/photos`; its files are named in `_dataset.json`.
        batch_ids: by default all finished batches.
        settings: settings of the project; by default those of the current project (see `load_settings`).
        layout: `parquet`; or `huggingface`, with a dataset card for `datasets.load_dataset`.
        embeddings: write the image embeddings as a second table: one row per photo with an embedding, which is a
            list of fixed size.
        float16: store the embeddings in half precision.
        version: only embeddings of this version.
        mixed: allow embeddings of several versions; the column `version_embedding` distinguishes them.
        distinct: keep one row per `sha256`: that of the first batch by id.
        without: columns to leave out, such as `artifact`, which has all EXIF.
        rows_per_file: most rows of a file.
        bytes_per_file: most bytes of a file; a file has at least one row group.

    Returns:
        A summary. Its `failed` names the batches that could not be read; the dataset is without them.

    Raises:
        InputError: a batch is unknown or not finished; options contradict each other; the embeddings have several
            versions; or `output` is something else than a dataset.
        StoreError: types of a column differ, the dataset cannot be written, or no batch can be read.
        SettingsError: the settings are invalid.
    """
    options = Options(
        layout, embeddings, float16, version, mixed, distinct, tuple(without), rows_per_file, bytes_per_file
    )
    plan = plan_dataset(settings or load_settings(), batch_ids, options)
    return gather_planned(plan, output)


def gather_planned(
    plan: Plan,
    output: str | Path,
    read: Callable[[Plan], object] = Plan.read,
    write: Callable[[Plan, Path], dict[str, Any]] = write_dataset,
) -> Gathered:
    """Write a planned dataset, unless it is up to date.

    Args:
        read: reads the footers of the tables; replaced to show progress.
        write: writes the dataset; replaced to show progress.
    """
    if is_remote(str(output)):
        return _gather_to_store(plan, str(output), read, write)
    output = Path(os.path.realpath(output))  # a link keeps its target
    if is_file(output):
        _check_single(plan.options)
    old = check_output(output, plan.settings)
    if old and not old["failed"] and old["fingerprint"] == plan.fingerprint and is_complete(output, old):
        return _summary(output, old, plan, unchanged=True)
    read(plan)
    return _summary(output, write(plan, output), plan, unchanged=False)


def _gather_to_store(
    plan: Plan, uri: str, read: Callable[[Plan], object], write: Callable[[Plan, Path], dict[str, Any]]
) -> Gathered:
    """Write a planned dataset to a temporary folder, and upload it, unless the one in the store is up to date."""
    from curation_features.dataset.stores import StoredDataset  # fsspec loads only for it

    stored = StoredDataset(uri)
    old = stored.check()
    if old and not old["failed"] and old["fingerprint"] == plan.fingerprint and stored.is_complete(old):
        stored.tidy(old)
        return _summary(stored.uri, old, plan, unchanged=True)
    read(plan)
    with tempfile.TemporaryDirectory(prefix="gather-") as temporary:
        folder = Path(temporary) / "dataset"
        record = stored.replace(folder, write(plan, folder), old)
    return _summary(stored.uri, record, plan, unchanged=False)


def _check_single(options: Options) -> None:
    """Raise `InputError` if one file cannot hold what the options ask for."""
    if options.layout != "parquet":
        raise InputError(f"layout {options.layout} is a folder: name one, without .parquet")
    if options.embeddings:
        raise InputError("embeddings are a second table: name a folder, without .parquet")
    if (options.rows_per_file, options.bytes_per_file) != (ROWS_PER_FILE, BYTES_PER_FILE):
        raise InputError("one file has no limit of its size: name a folder, without .parquet, for several files")


def _summary(output: Path | str, record: Mapping[str, Any], plan: Plan, *, unchanged: bool) -> Gathered:
    is_single = isinstance(output, Path) and is_file(output)
    sizes = [Path(output).stat().st_size] if is_single else list(record["files"].values())
    vectors = record["embeddings"] or {"rows": None, "dimension": None}
    return Gathered(
        output=output,
        rows=record["rows"],
        batches=record["batches"],
        embeddings=vectors["rows"],
        dimension=vectors["dimension"],
        versions=record["versions"],
        other_versions=record["other_versions"],
        copies=record["copies"],
        unfinished=plan.unfinished,
        failed=record["failed"],
        bytes=sum(sizes),
        files=len(sizes),
        unchanged=unchanged,
    )
