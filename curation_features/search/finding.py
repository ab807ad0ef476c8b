"""Finds photos in the index: an exact search, filtered, with copies folded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from curation_features.concurrency import worker_count
from curation_features.errors import BusyError, StoreError, WeightsError, require_extra
from curation_features.search.cutoff import count_likely, noise_limit
from curation_features.search.index import Contents, ContentsReader, Index
from curation_features.search.indexing import Reading, is_due, update_index
from curation_features.search.query import Picture, Query
from curation_features.search.ranking import Directions, Scores, best_places, directions, score, score_more
from curation_features.search.vectors import QueryVectors, find_row, find_rows
from curation_features.settings import Settings, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.clip.engine import ClipEngine
    from curation_features.weights import LazyModel

log = logging.getLogger(__name__)

_EXTRA_CANDIDATES = 200  # beyond three times the number of results: copies are folded
_FEWEST_ROWS = 10_000  # that are worth a thread
_OTHER_MODEL = (
    "name its model in the settings, or embed the photos with the present one: "
    "curation-features process MANIFEST, or a backfill of image_embeddings"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A result.

    Attributes:
        path: the URI of the original photo, or else of the analysed image, as in the batch.
        cosine: with the wanted terms together, in [-1, 1].
        standard: standard score: how many standard deviations it is above the mean of all photos; gives the order.
        copies: number of other photos that show the same picture.
    """

    batch_id: str
    photo_id: str
    sha256: str
    path: str
    cosine: float
    standard: float
    copies: int


@dataclass(frozen=True, slots=True)
class Found:
    """The results of a search, the best first.

    Attributes:
        likely: how many of the hits are likely to show what was asked for; None: too few photos for an estimate.
        searched: number of photos that were compared; one in two batches counts twice.
        other_versions: number of photos that have only vectors of other versions, and were not compared.
    """

    query: Query
    hits: tuple[Hit, ...]
    likely: int | None
    searched: int
    other_versions: int


class Finder:
    """Finds photos. Thread-safe.

    Args:
        settings: settings of the project.
        engine: the CLIP model; by default the one that the settings name.
        reading: opens the progress of batches that are indexed, of their number.

    Raises:
        MissingExtraError: the extra `search` is not installed.
    """

    def __init__(
        self, settings: Settings, engine: LazyModel[ClipEngine] | None = None, reading: Reading | None = None
    ) -> None:
        require_extra("search")
        self._settings = settings
        self._data_path = settings.data_path
        self._vectors = QueryVectors(settings, engine)
        self._reading = reading
        self._contents = ContentsReader(self._data_path)
        self._opened: tuple[Contents, dict[str, Index]] = (Contents(), {})

    def find(
        self,
        texts: Iterable[str] = (),
        *,
        like: Iterable[Picture] = (),
        without: Iterable[str] = (),
        where: str | None = None,
        batches: Collection[str] = (),
        top: int = 50,
        seconds: float | None = None,
    ) -> Found:
        """See `Library.find`.

        Args:
            seconds: a condition that takes longer is refused.
        """
        query = Query.parse(texts, like, without)
        index, others = self._choose(self._refresh(), query, batches)
        own = find_rows(query, index)
        towards = directions(query.terms, self._vectors.embed(query, index, own))
        parts = index.ranges(batches)
        searched = sum(part.stop - part.start for part in parts)
        if not searched:
            return Found(query, (), None, 0, others)
        scores = score(self._cosines(index, parts, towards), towards.weights)
        standard = scores.standard
        if where and where.strip():
            standard = np.where(self._meets(index, where, batches, seconds), standard, np.float32(-np.inf))
        hidden = index.keys(np.array([row for row in own if row is not None], np.int64))
        rows = _best(standard, index, parts, hidden, top)
        hits = _hits(index, rows, scores, towards)
        likely = count_likely(np.array([hit.standard for hit in hits]), noise_limit(scores.standard))
        return Found(query, hits, likely, searched, others)

    def embed(self, text: str, index: Index) -> NDArray[np.float32]:
        """Return the vector (D,) of a text, norm 1. Raises like `find`."""
        vector: NDArray[np.float32] = self._vectors.embed(Query.parse([text]), index, [None])[0]
        return vector

    def _refresh(self) -> Contents:
        """Return the content of the index; bring it up to date first, unless another process does."""
        contents = None
        try:
            with suppress(StoreError):  # damaged: it is made again
                contents = self._contents.read()
            if contents is None or is_due(self._data_path, contents):
                update_index(self._data_path, self._reading, wait=False)
        except BusyError as error:
            log.info("The index is searched as it is: %s", error)
        except StoreError as error:
            if contents is None or not contents.batches:
                raise
            log.warning("The index is searched without the last changes: %s", error)
        return self._contents.read()

    # The index

    def _choose(self, contents: Contents, query: Query, batches: Collection[str]) -> tuple[Index, int]:
        """Return the index whose vectors the query can be compared with, and the number of photos of others."""
        for batch_id in batches:
            if batch_id not in contents.batches:
                remedy = nearest(batch_id, contents.batches) or "; to process it: curation-features process MANIFEST"
                raise StoreError(f"{self._data_path / 'features'}: has no finished batch {batch_id!r}{remedy}")
        if not contents.versions:
            raise StoreError(
                f"{self._data_path}: no photo has an image embedding, which a search compares: "
                "fetch the weights of CLIP (curation-features models pull), and process a batch again"
            )
        version = self._choose_version(contents, query)
        photos = sum(contents.live_rows(name) for name in contents.versions)
        return self._open(contents, version), photos - contents.live_rows(version)

    def _choose_version(self, contents: Contents, query: Query) -> str:
        try:
            usable = [version for version in self._vectors.versions if version in contents.versions]
        except WeightsError:  # photos of the library have vectors without the model
            usable = [name for name in contents.versions if self._has_all(contents, name, query)]
            if not usable:
                raise
        if not usable:
            models = ", ".join(sorted({repr(files.model) for files in contents.versions.values()}))
            raise StoreError(
                f"the image embeddings in {self._data_path} are of {models}, and of another version than those of the "
                f"model in the settings, {self._settings.model!r}: {_OTHER_MODEL}"
            )
        return max(usable, key=contents.live_rows)

    def _has_all(self, contents: Contents, version: str, query: Query) -> bool:
        """Whether all terms are photos with a vector of a version."""
        index = self._open(contents, version)
        return all(term.is_picture and find_row(term, index) is not None for term in query.terms)

    def _open(self, contents: Contents, version: str) -> Index:
        known, opened = self._opened
        if known is not contents:
            opened = {}
        if version not in opened:
            try:
                opened = {**opened, version: Index(self._data_path, contents, version)}
            except StoreError:  # replaced in the meantime, or damaged
                update_index(self._data_path)
                contents = self._contents.read()
                opened = {version: Index(self._data_path, contents, version)}
        self._opened = contents, opened
        return opened[version]

    # Rows

    def _cosines(self, index: Index, parts: Sequence[slice], towards: Directions) -> NDArray[np.float32]:
        """Return the cosines (K, N) of each direction with the photos of some rows."""
        import simsimd

        vectors = towards.vectors.astype(np.float16)
        threads = worker_count(self._settings.workers)
        pieces = [piece for part in parts for piece in _pieces(part, threads)]

        def compare(piece: slice) -> NDArray[np.float32]:
            found = simsimd.cdist(vectors, index.vectors[piece], metric="dot", out_dtype="float32", threads=1)
            return np.asarray(found)

        # SimSIMD's own threads spin. Not in the caller's thread: it sets OpenMP's number of threads there, torch's too.
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate([*pool.map(compare, pieces)], axis=1)

    def _meets(self, index: Index, where: str, batches: Collection[str], seconds: float | None) -> NDArray[np.bool_]:
        """Return for each row of some batches whether it meets a condition."""
        from curation_features.search.tables import Tables

        with Tables(self._data_path, batches) as tables, tables.limited(seconds):
            return np.isin(index.keys_in_batches(batches), tables.keys_in_batches(where))


def _pieces(rows: slice, threads: int) -> list[slice]:
    """Return equal parts of rows, for some threads."""
    count = max(1, min(threads, (rows.stop - rows.start) // _FEWEST_ROWS))
    ends = np.linspace(rows.start, rows.stop, count + 1).astype(int).tolist()
    return [slice(*part) for part in pairwise(ends)]


def _best(
    standard: NDArray[np.float32], index: Index, parts: Sequence[slice], hidden: NDArray[np.uint64], top: int
) -> NDArray[np.int64]:
    """Return the rows of the best scores in descending order; of the copies of a picture only the best.

    Args:
        standard: the scores of the rows of `parts`.
        hidden: keys of photos that are not wanted.
    """
    count = 3 * top + _EXTRA_CANDIDATES
    while True:
        places = best_places(standard, count)
        rows = _rows_at(places, parts)
        rows = rows[~np.isin(index.keys(rows), hidden)]
        _, firsts = np.unique(index.pictures(rows), return_index=True)
        if len(firsts) >= top or count >= len(standard):
            return rows[np.sort(firsts)[:top]]
        count *= 4


def _rows_at(places: NDArray[np.int64], parts: Sequence[slice]) -> NDArray[np.int64]:
    """Return the rows at some places of all `parts`, one behind the other."""
    sizes = np.array([part.stop - part.start for part in parts], np.int64)
    starts = np.cumsum(sizes) - sizes
    shifts = np.array([part.start for part in parts], np.int64) - starts
    rows: NDArray[np.int64] = places + shifts[np.searchsorted(starts, places, side="right") - 1]
    return rows


def _hits(index: Index, rows: NDArray[np.int64], scores: Scores, towards: Directions) -> tuple[Hit, ...]:
    """Return the hits of some rows, with scores of exact directions, in their order."""
    vectors = index.vectors[rows].astype(np.float32)
    standard = score_more(vectors @ towards.vectors.T, scores, towards.weights)
    cosines = vectors @ towards.main
    copies = index.copies(rows)
    hits = []
    for place in np.lexsort((rows, -standard)):
        row = int(rows[place])
        photo = index.photo(row)
        path = photo.uris[0] if photo.uris else photo.photo_id
        scored = float(cosines[place]), float(standard[place])
        others = int(copies[place]) + len(set(photo.uris[1:]) - {path})
        hits.append(Hit(index.batch_of(row), photo.photo_id, photo.sha256, path, *scored, others))
    return tuple(hits)
