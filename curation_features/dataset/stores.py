"""Datasets in object stores: uploaded next to the old one, which the record replaces at the end.

    PREFIX/_dataset.json                            the record; names the files of the dataset
    PREFIX/features/part-00000-{tag}.parquet        each run has another tag, and overwrites no file
    PREFIX/_uploading-{tag}/...                     of a running or killed run

A store cannot exchange folders. So the files are uploaded to a folder that readers do not look at, copied within the
store, and the old files are deleted after the record names the new ones.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from curation_features.dataset.record import CARD, KIND, RECORD, SUFFIX, card_digest
from curation_features.errors import CurationError, InputError, StoreError
from curation_features.text import mask_secrets

_OURS = re.compile(
    rf"(?:_uploading-[0-9a-f]{{8}}/)?(?:features|embeddings)/part-\d{{5,}}-[0-9a-f]{{8}}{re.escape(SUFFIX)}"
)

_FOLDER = re.compile(r"[^:/]+://[^/]+/.+")


class StoredDataset:
    """A dataset below a prefix of an object store.

    Args:
        uri: such as `s3://bucket/photos`.

    Raises:
        InputError: the store's client is not installed, or the URI has no bucket and prefix.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri.rstrip("/")
        if not _FOLDER.fullmatch(self.uri) or self.uri.endswith(SUFFIX):
            raise InputError(f"{mask_secrets(uri)}: name a folder in a bucket, such as s3://bucket/photos")
        try:
            self._store, path = fsspec.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            cause = mask_secrets(str(error))
            raise InputError(f"{mask_secrets(uri)}: {cause}; see the extras in docs/install.md") from error
        self._root = path.rstrip("/")
        self._store.invalidate_cache()

    def read_record(self) -> dict[str, Any] | None:
        """Return the record; None without a dataset of ours. Raises `StoreError` if the store does not answer."""
        with self._reaching(RECORD):
            try:
                record = json.loads(self._store.cat_file(self._path(RECORD)))
            except (FileNotFoundError, ValueError):
                return None
        is_ours = isinstance(record, dict) and record.get("kind") == KIND and isinstance(record.get("files"), dict)
        return record if is_ours else None

    def check(self) -> dict[str, Any] | None:
        """Return the record of the dataset to replace, None if there is none.

        Raises:
            InputError: the prefix has objects that `gather` has not written.
            StoreError: the store does not answer.
        """
        record = self.read_record()
        known = {RECORD, CARD} if record else set()
        others = sorted(name for name in self._sizes() if name not in known and not _OURS.fullmatch(name))
        if others:
            where = mask_secrets(self.uri)
            raise InputError(f"{where}: has objects that `gather` has not written ({others[0]}); name another prefix")
        return record

    def is_complete(self, record: Mapping[str, Any]) -> bool:
        """Whether all files of a record exist, with their sizes."""
        sizes = self._sizes()
        return all(sizes.get(name) == size for name, size in record["files"].items())

    def replace(self, folder: Path, record: dict[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
        """Upload a dataset from a folder, and return its record, with the names of its files in the store.

        If this fails or the process is killed before the record is written, the old record and its files stay.

        Args:
            record: the record of the folder.
            old: the record of the dataset to replace.

        Raises:
            StoreError: an object cannot be written.
        """
        tag = secrets.token_hex(4)
        names = {name: f"{name.removesuffix(SUFFIX)}-{tag}{SUFFIX}" for name in record["files"]}
        record = {**record, "files": {names[name]: size for name, size in record["files"].items()}}
        try:
            for name, stored in names.items():
                with self._reaching(name):
                    self._store.put_file(str(folder / name), self._path(f"_uploading-{tag}/{stored}"))
            for stored in names.values():
                with self._reaching(stored):
                    self._store.cp_file(self._path(f"_uploading-{tag}/{stored}"), self._path(stored))
            self._write_card(folder, old)
            with self._reaching(RECORD):
                self._store.pipe_file(self._path(RECORD), json.dumps(record, indent=1).encode())
        except BaseException:
            with suppress(Exception):
                self.tidy(old)
            raise
        self.tidy(record)
        return record

    def tidy(self, record: Mapping[str, Any] | None) -> None:
        """Delete files of former and killed runs: names that only `gather` gives, and that the record does not have."""
        kept = record["files"] if record else ()
        for name in [name for name in self._sizes() if _OURS.fullmatch(name) and name not in kept]:
            with self._reaching(name):
                self._store.rm_file(self._path(name))

    def _write_card(self, folder: Path, old: Mapping[str, Any] | None) -> None:
        """Write the card, unless the user has edited the one in the store."""
        if not (folder / CARD).exists():
            return
        with self._reaching(CARD):
            try:
                is_edited = card_digest(self._store.cat_file(self._path(CARD))) != (old or {}).get("card")
            except FileNotFoundError:
                is_edited = False
            if not is_edited:
                self._store.pipe_file(self._path(CARD), (folder / CARD).read_bytes())

    def _sizes(self) -> dict[str, int]:
        """Sizes of all objects, by name below the prefix."""
        with self._reaching(""):
            self._store.invalidate_cache()
            found = self._store.find(self._root, detail=True)
        start = len(self._root) + 1
        return {path[start:]: info["size"] for path, info in found.items() if path.startswith(f"{self._root}/")}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Raise errors of the store as a `StoreError` that names the object."""
        try:
            yield
        except CurationError:
            raise
        except Exception as error:  # each backend has its own exceptions
            cause = mask_secrets(str(error) or type(error).__name__)
            where = mask_secrets(f"{self.uri}/{name}".rstrip("/"))
            raise StoreError(f"{where}: the store failed: {cause}; check bucket and credentials") from error
