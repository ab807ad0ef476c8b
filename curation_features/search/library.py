"""`Library`: finds photos among all that were ever measured, as DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from curation_features.search.finding import Finder, Found, Hit
from curation_features.search.indexing import Reading
from curation_features.search.query import Picture
from curation_features.settings import Settings, load_settings

if TYPE_CHECKING:
    import pandas as pd

    from curation_features.clip.engine import ClipEngine
    from curation_features.weights import LazyModel

__all__ = ["Found", "Hit", "Library"]


class Library:
    """All photos of all finished batches.

        library = Library()
        library.search("two parrots", "2:golden hour", without=["cage"], where="blur_px < 0.6")
        library.similar("photos/IMG_0001.jpg", top=20)
        library.where("camera = 'X100' AND list_contains(flags, 'blurred')")

    Photos are found by their image embeddings, with an exact search; a photo without one is not found by words or
    pictures, only by `where`. The index is brought up to date first. Thread-safe.

    Args:
        settings: settings of the project; by default those of the current project.
        engine: the CLIP model; by default the one that the settings name. It is loaded only for pictures that are not
            in the library, and for texts if its architecture is unusual.
        reading: opens the progress of batches that are indexed, of their number.

    Raises:
        MissingExtraError: the extra `search` is not installed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: LazyModel[ClipEngine] | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._settings = settings or load_settings()
        self._finder = Finder(self._settings, engine, reading)

    def find(
        self,
        texts: Iterable[str] = (),
        *,
        like: Iterable[Picture] = (),
        without: Iterable[str] = (),
        where: str | None = None,
        batches: Sequence[str] = (),
        top: int = 50,
    ) -> Found:
        """Find photos by words, by example and by numbers; imports no pandas.

        Args:
            texts: words. A number and a colon in front are a weight: `2:golden hour`.
            like: pictures: files, also with a weight, or `(photo_id, sha256)` of photos of the library. Such a photo is
                not a result itself.
            without: words that results shall not match.
            where: an SQL condition on the columns of `read_features`.
            batches: ids; by default all.
            top: largest number of results.

        Raises:
            QueryError: a term or the condition cannot be understood.
            StoreError: no photo has a vector of this model, or a file cannot be read or written.
            WeightsError: the model cannot be used.
            PhotoError: a picture cannot be decoded.
        """
        return self._finder.find(texts, like=like, without=without, where=where, batches=batches, top=top)

    def search(
        self,
        *texts: str,
        like: Iterable[Picture] = (),
        without: Iterable[str] = (),
        where: str | None = None,
        batches: Sequence[str] = (),
        top: int = 50,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Find photos, and return their rows, the best first.

        Args:
            texts, like, without, where, batches, top: see `find`.
            columns: those of `read_features` to return; by default all.

        Returns:
            The columns `cosine`, `standard`, `copies` and `is_likely` (see `Hit` and `Found`; missing without an
            estimate), and those of `read_features`.

        Raises:
            CurationError: see `find`.
        """
        found = self.find(texts, like=like, without=without, where=where, batches=batches, top=top)
        return _frame(found, self._settings, columns)

    def similar(
        self, photo: Picture, *, where: str | None = None, top: int = 50, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Find photos like a file, or like the photo with this `photo_id` and `sha256`; see `search`."""
        return self.search(like=[photo], where=where, top=top, columns=columns)

    def where(
        self, condition: str, *, batches: Sequence[str] = (), columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the rows that meet an SQL condition, in the order of batches and manifests; see `read_features`.

        Raises:
            QueryError: the condition is wrong.
            StoreError: a table cannot be read.
        """
        from curation_features.search.tables import Tables
        from curation_features.storage.frames import read_rows_of

        with Tables(self._settings.data_path, batches) as tables:
            rows = tables.rows(["batch_id", "position"], condition, "batch_id, position")
        return read_rows_of(self._settings, ("batch_id", "position"), [tuple(row.values()) for row in rows], columns)


def _frame(found: Found, settings: Settings, columns: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows of hits."""
    import pandas as pd

    from curation_features.storage.frames import read_rows_of

    keys = [(hit.batch_id, hit.photo_id, hit.sha256) for hit in found.hits]
    rows = read_rows_of(settings, ("batch_id", "photo_id", "sha256"), keys, columns)
    likely = [None if found.likely is None else place < found.likely for place in range(len(keys))]
    scores = pd.DataFrame(
        {
            "cosine": pd.Series([hit.cosine for hit in found.hits], dtype="float64"),
            "standard": pd.Series([hit.standard for hit in found.hits], dtype="float64"),
            "copies": pd.Series([hit.copies for hit in found.hits], dtype="int32"),
            "is_likely": pd.Series(likely, dtype="boolean"),
        }
    )
    frame = pd.concat([scores, rows], axis=1)
    frame.attrs = rows.attrs
    return frame
