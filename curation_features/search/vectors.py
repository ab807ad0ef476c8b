"""Vectors of the terms of a query: of labels, kept ones, photos of the index, or new ones from the model.

    {data_path}/cache/queries/{digest}.vector    D float32 numbers of a text; may be deleted at any time

The name of a file is a digest of the text and of the version of the model's text embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curation_features.atomic_files import file_digest, write_bytes
from curation_features.clip.words import words
from curation_features.errors import CurationError, QueryError, SettingsError
from curation_features.search.index import Index
from curation_features.search.query import Query, Term
from curation_features.settings import Settings
from curation_features.versions import digest, part_version, text_version
from curation_features.weights import ClipWeights, LazyModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.clip.engine import ClipEngine

log = logging.getLogger(__name__)

KEPT = 1000
"""Number of vectors of texts that are kept: those used last."""

_PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")


class QueryVectors:
    """Embeds the terms of queries.

    Args:
        settings: of the project.
        engine: the model; by default the one that the settings name.
    """

    def __init__(self, settings: Settings, engine: LazyModel[ClipEngine] | None = None) -> None:
        self._settings = settings
        self._folder = settings.cache_path / "queries"
        if engine is None:
            from curation_features.clip.engine import clip_model

            engine = clip_model(settings, fetch=False)
        self._engine = engine
        self._labels: dict[str, NDArray[np.float32]] | None = None

    @cached_property
    def versions(self) -> list[str]:
        """Return the versions of image embeddings that texts can be compared with; that of the settings first.

        Raises:
            WeightsError: the weights are missing.
        """
        identity = self._engine.identity
        precisions = dict.fromkeys((self._settings.precision, *_PRECISIONS))
        settings = (self._settings.replace(precision=precision) for precision in precisions)
        return list(dict.fromkeys(part_version("embedding", of, identity) for of in settings))

    def embed(self, query: Query, index: Index, rows: Sequence[int | None]) -> NDArray[np.float32]:
        """Return the vectors of all terms: (T, D), norm 1.

        Args:
            rows: of the terms in the index; see `find_rows`.

        Raises:
            QueryError: a picture does not exist, or a photo is not in the index.
            PhotoError: a picture cannot be decoded.
            WeightsError: the model cannot be used.
        """
        return np.stack([self._embed(term, index, row) for term, row in zip(query.terms, rows, strict=True)])

    def _embed(self, term: Term, index: Index, row: int | None) -> NDArray[np.float32]:
        if not term.is_picture:
            return self._embed_text(term.text)
        if row is None:
            return self._embed_picture(term)
        stored: NDArray[np.float32] = index.vectors[row].astype(np.float32)
        return stored

    # Texts

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        vector = self._read_labels().get(words(text))
        if vector is None:
            vector = self._read_kept(text)
        if vector is None:
            vector = self._encode(text)
            self._keep(text, vector)
        return vector

    def _encode(self, text: str) -> NDArray[np.float32]:
        from curation_features.clip.text_tower import TextTower, can_read

        weights = self._engine.weights
        is_light = isinstance(weights, ClipWeights) and can_read(weights)
        tower = TextTower(weights) if is_light and isinstance(weights, ClipWeights) else self._engine.get()
        vector: NDArray[np.float32] = tower.encode_texts([text])[0]
        return vector

    def _read_labels(self) -> dict[str, NDArray[np.float32]]:
        """Return the stored label embeddings by label; none if there are none of this model and vocabulary."""
        if self._labels is None:
            self._labels = {}
            from curation_features.clip import label_embeddings
            from curation_features.clip.vocabulary import load_vocabulary

            try:
                vocabulary = load_vocabulary(self._settings)
            except SettingsError as error:
                log.warning("Labels are not used for this search: %s", error)
                return self._labels
            path = self._settings.cache_path / label_embeddings.FILE_NAME
            version = label_embeddings.label_version(self._text_version(), vocabulary)
            if path.exists() and (stored := label_embeddings.read(path, version)):
                self._labels = dict(zip(map(words, vocabulary.labels), stored.vectors, strict=True))
        return self._labels

    def _text_version(self) -> str:
        return text_version(self._settings, self._engine.identity)

    def _path(self, text: str) -> Path:
        return self._folder / f"{digest([self._text_version(), text])}.vector"

    def _read_kept(self, text: str) -> NDArray[np.float32] | None:
        path = self._path(text)
        try:
            vector = np.fromfile(path, "<f4")
            path.touch()  # used last
        except OSError:
            return None
        is_unit = vector.size and abs(float(np.linalg.norm(vector)) - 1) < 1e-3
        return vector if is_unit else None

    def _keep(self, text: str, vector: NDArray[np.float32]) -> None:
        try:
            write_bytes(self._path(text), vector.astype("<f4").tobytes(), durable=False)
            files = sorted(self._folder.glob("*.vector"), key=lambda path: path.stat().st_mtime_ns)
            for path in files[:-KEPT]:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.debug("The vector of a query is not kept: %s", error)

    # Pictures

    def _embed_picture(self, term: Term) -> NDArray[np.float32]:
        path = Path(term.text)
        if term.sha256:
            raise QueryError(f"the photo {term.text!r} has no vector of this version: process its batch again")
        if not path.is_file():
            raise QueryError(f"{path}: is neither a file nor the id of a photo with a vector")
        from curation_features.devices.transfer import stacked
        from curation_features.photos.inputs import read_pixels

        pixels = read_pixels(path.absolute(), self._settings)
        engine = self._engine.get()
        vector: NDArray[np.float32] = engine.encode_images(stacked([engine.preprocess(pixels)]))[0]
        if not np.isfinite(vector).all():
            raise QueryError(f"{path}: has no finite vector")
        return vector


def find_rows(query: Query, index: Index) -> list[int | None]:
    """Return the row of each term that is a picture in the index; None for the others."""
    return [find_row(term, index) if term.is_picture else None for term in query.terms]


def find_row(term: Term, index: Index) -> int | None:
    """Return a row of a picture that is in the index; None if it is not.

    A file is found by its digest, which `ingest` uses as `photo_id`.
    """
    with suppress(OSError, CurationError):
        found = index.find(term.text, term.sha256)
        if found is not None or term.sha256 or not Path(term.text).is_file():
            return found
        return index.find(file_digest(Path(term.text)))
    return None
