"""The record of a dataset: what it was made of. Its presence marks a folder or file as a dataset of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation_features.atomic_files import open_regular
from curation_features.errors import InputError
from curation_features.settings import Settings
from curation_features.storage.places import PLACES
from curation_features.storage.tables import METADATA_KEY

RECORD = "_dataset.json"  # readers of Parquet folders skip names that begin with an underscore
CARD = "README.md"
SUFFIX = ".parquet"
KIND = "curation_features dataset"


def is_file(output: Path) -> bool:
    """Whether an output is one Parquet file rather than a folder."""
    return output.suffix == SUFFIX


def read_record(output: Path) -> dict[str, Any] | None:
    """Return the record of a dataset; None without a dataset of ours."""
    try:
        record = _of_file(output) if is_file(output) else json.loads((output / RECORD).read_bytes())
    except (OSError, ValueError, LookupError, RuntimeError):
        return None
    return record if isinstance(record, dict) and record.get("kind") == KIND else None


def _of_file(path: Path) -> Any:
    import pyarrow.parquet as pq

    open_regular(path).close()  # pyarrow would block on a FIFO
    return json.loads((pq.read_metadata(path).metadata or {})[METADATA_KEY])


def edited_card(output: Path, record: Mapping[str, Any] | None) -> bytes | None:
    """Return the `README.md` of a dataset, if `gather` has not written it in this form; None without any."""
    try:
        card = (output / CARD).read_bytes()
    except OSError:
        return None
    return card if record is None or card_digest(card) != record.get("card") else None


def card_digest(card: bytes) -> str:
    """Return the digest of a card for the record."""
    return hashlib.sha256(card).hexdigest()


def is_complete(output: Path, record: Mapping[str, Any]) -> bool:
    """Whether all files of a record exist, with their sizes."""
    if is_file(output):
        return True
    try:
        return all((output / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, LookupError, TypeError, AttributeError):
        return False


def check_output(output: Path, settings: Settings) -> dict[str, Any] | None:
    """Return the record of the dataset to replace, None if there is none.

    Raises:
        InputError: the output is in a folder of results, or it is anything but a dataset of ours; or its folder has
            other files, which would be lost.
    """
    if not output.parent.is_dir():
        raise InputError(f"{output}: cannot be written: folder {output.parent} does not exist; make it first")
    for folder in {settings.data_path / place.folder.partition("/")[0] for place in PLACES}:
        if output.is_relative_to(folder):
            raise InputError(f"{output}: {folder} is for batches; name another place, such as {output.name}")
    if not output.exists() or (output.is_dir() and not is_file(output) and not any(output.iterdir())):
        return None
    record = read_record(output) if output.is_dir() != is_file(output) else None
    if record is None:
        kind = "folder" if output.is_dir() else "file"
        raise InputError(f"{output}: is a {kind} that `gather` has not written, and stays; name another place")
    if not is_file(output) and (others := _other_files(output, record)):
        raise InputError(f"{output}: has files that `gather` has not written ({others[0]}); move them, or name another")
    return record


def _other_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    known = {RECORD, CARD, *record.get("files", ())}
    return sorted(str(name) for name in names if str(name) not in known)
