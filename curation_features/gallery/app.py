"""The requests of the page and their answers, as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from curation_features.errors import CurationError, PhotoError, QueryError
from curation_features.gallery import answers
from curation_features.gallery.asking import Asked, Searcher, parse
from curation_features.gallery.current import QUERY_S, CurrentTables
from curation_features.gallery.pictures import Photo, Picture, Pictures
from curation_features.gallery.selection import LOADED, selection_from
from curation_features.inventory import list_batches
from curation_features.report import signals
from curation_features.report.page import REASONS
from curation_features.schema import METRICS
from curation_features.search.finding import Found
from curation_features.settings import Settings
from curation_features.signals.flags import FLAGS, HINTS
from curation_features.storage.tables import FEATURE_COLUMNS

_FILES = {
    "": ("curation_features.gallery", "library.html", "text/html"),
    "icon.svg": ("curation_features.gallery", "icon.svg", "image/svg+xml"),
    "library.css": ("curation_features.gallery", "library.css", "text/css"),
    "library.js": ("curation_features.gallery", "library.js", "text/javascript"),
    "page.css": ("curation_features.report", "page.css", "text/css"),
    "parts.js": ("curation_features.report", "parts.js", "text/javascript"),
}
_YEAR_S = 365 * 24 * 3600
_BATCHES_S = 10.0  # an answer on batches is used again so long
_LOADING_S = 0.5  # after which the page is shown how much is loaded
_MOST_FOUND = 500
_NOT_COLUMNS = ("artifact", "clip_labels", "label_cosines", "errors", "embedding_norm")

log = logging.getLogger(__name__)


class LibraryApp:
    """The page and its requests.

    Args:
        searcher: makes what searches by words and by example, when it is first used.
    """

    def __init__(self, settings: Settings, searcher: Callable[[], Searcher]) -> None:
        self._settings = settings
        self._photos = CurrentTables(settings.data_path)
        self._pictures = Pictures(settings, self._photos)
        self._make_searcher = searcher
        self._searcher: Searcher | None = None
        self._searching, self._listing = asyncio.Lock(), asyncio.Lock()
        self._batches: tuple[float, list[dict[str, Any]]] | None = None

    def at(self, base: str) -> Starlette:
        """Return the application with its paths under `base`."""
        pages = [Route(f"/{name}", _static(*file)) for name, file in _FILES.items()]
        answers = {name: getattr(self, name) for name in ("photos", "counts", "photo", "groups", "batches", "search")}
        routes = [Route(f"/api/{name}", _explained(answer)) for name, answer in answers.items()]
        routes += [Route("/api/about", _explained(self.about))]
        routes += [Route(f"/{name}", _explained(getattr(self, name))) for name in ("thumbnail", "full")]
        return Starlette(routes=[Mount(base, routes=[*pages, *routes])], lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.close()

    def close(self) -> None:
        """Close the tables."""
        self._photos.close()

    # What the page shows

    async def about(self, _: Request) -> Response:
        """Answer: metrics, signals, flags, reasons and columns, as the page names them."""
        columns = {
            name: column.full_description for name, column in FEATURE_COLUMNS.items() if name not in _NOT_COLUMNS
        }
        return JSONResponse(
            {
                "metrics": [asdict(metric) for metric in METRICS],
                "signals": list(signals.SHOWN),
                "flags": list(FLAGS),
                "hints": list(HINTS),
                "reasons": dict(REASONS),
                "columns": columns,
            }
        )

    async def photos(self, request: Request) -> Response:
        """Answer: a part of the photos of a selection, in its order."""
        selection = selection_from(_query(request))
        start, count = _whole(request, "start", 0), _whole(request, "count", answers.MOST_ROWS)
        return JSONResponse(
            await self._photos.ask(lambda opened: answers.photos(opened, selection, start, count, self._pictures.note))
        )

    async def counts(self, request: Request) -> Response:
        """Answer: how many photos of a selection have each value of each facet.

        Columns of all photos are loaded first, batches at a time, so that other requests are answered in between. While
        they are not, the answer is only the share that is `loaded`, and the page asks again.
        """
        selection = selection_from(_query(request))
        ends = asyncio.get_running_loop().time() + _LOADING_S
        while (share := await self._photos.ask(lambda opened: opened.tables.load(LOADED))) < 1:
            if asyncio.get_running_loop().time() > ends:
                return JSONResponse({"loaded": share})
        return JSONResponse({"loaded": 1, **await self._photos.ask(lambda opened: answers.counts(opened, selection))})

    async def photo(self, request: Request) -> Response:
        """Answer: all about one photo."""
        batch_id, photo_id, position = _photo(request)
        found = await self._photos.ask(lambda opened: answers.one(opened, (batch_id, photo_id), position))
        return JSONResponse(found) if found else _problem(404, "missing", "no finished batch has this photo any more")

    async def groups(self, request: Request) -> Response:
        """Answer: a part of the groups, the newest first."""
        kind, start, count = (
            request.query_params.get("kind", ""),
            _whole(request, "start", 0),
            _whole(request, "count", 20),
        )
        return JSONResponse(await self._photos.ask(lambda opened: answers.groups(opened, kind, start, count)))

    async def batches(self, _: Request) -> Response:
        """Answer: all batches, with their state, and why a run now would give another result."""
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if self._batches is None or now - self._batches[0] > _BATCHES_S:
                found = await asyncio.to_thread(lambda: [_entry(asdict(one)) for one in list_batches(self._settings)])
                self._batches = asyncio.get_running_loop().time(), found
        return JSONResponse({"batches": self._batches[1]})

    async def search(self, request: Request) -> Response:
        """Answer: the photos that fit a text, or look like a photo, best first."""
        given = request.query_params
        asked = parse(given.get("text", ""))
        like = await self._pictures.row(_photo(request, "of")) if "photo" in given else None
        if not asked.texts and like is None:
            return _problem(400, "query", "write what to look for, such as: beach, 2:golden hour, -people")
        selection = selection_from(_query(request))
        await self._photos.ask(lambda opened: opened.tables.check(selection.where))
        top = min(_whole(request, "top", 100), _MOST_FOUND)
        pictures = [(like["photo_id"], like["sha256"])] if like else []
        async with self._searching:  # one search uses all cores
            found = await asyncio.to_thread(self._find, asked, pictures, selection.sql, top)
        wanted = [(hit.batch_id, hit.photo_id) for hit in found.hits]
        cards = await self._photos.ask(lambda opened: answers.named(opened, wanted, self._pictures.note))
        hits = [
            {**cards[key], "cosine": hit.cosine, "standard": hit.standard, "copies": hit.copies}
            for key, hit in zip(wanted, found.hits, strict=True)
            if key in cards
        ]
        likely = None if found.likely is None else sum(key in cards for key in wanted[: found.likely])
        return JSONResponse({"photos": hits, "likely": likely, "searched": found.searched})

    def _find(self, asked: Asked, like: Sequence[tuple[str, str]], where: str | None, top: int) -> Found:
        if self._searcher is None:
            self._searcher = self._make_searcher()
        return self._searcher.find(asked.texts, like=like, without=asked.without, where=where, top=top, seconds=QUERY_S)

    # Pictures

    async def thumbnail(self, request: Request) -> Response:
        """Answer: the thumbnail of a photo; its address names the digest of its file."""
        picture = await self._pictures.thumbnail(_photo(request))
        if picture is None:
            return _problem(404, "missing", "this photo has no thumbnail")
        is_named = request.query_params.get("sha256") == picture.digest
        caching = f"private, max-age={_YEAR_S}, immutable" if is_named else "no-store"
        return _sent(picture, {"cache-control": caching})

    async def full(self, request: Request) -> Response:
        """Answer: a photo at full size."""
        which = "analysed" if request.query_params.get("which") == "analysed" else "original"
        known = request.headers.get("if-none-match", "").strip('"')
        picture = await self._pictures.full(_photo(request), which, known)
        if picture is None:
            return _problem(404, "missing", "no finished batch has this photo any more")
        headers = {"cache-control": "private, no-cache", "etag": f'"{picture.digest}"'}
        return Response(status_code=304, headers=headers) if picture.data is None else _sent(picture, headers)


Answer = Callable[[Request], Awaitable[Response]]


def _static(package: str, name: str, media_type: str) -> Answer:
    async def answer(_: Request) -> Response:
        return Response(files(package).joinpath(name).read_bytes(), media_type=media_type)

    return answer


def _explained(answer: Answer) -> Answer:
    """Return a route whose errors are JSON with their reason."""

    async def explaining(request: Request) -> Response:
        try:
            return await answer(request)
        except QueryError as error:
            return _problem(400, "query", str(error))
        except PhotoError as error:
            return _problem(404, error.reason, str(error))
        except CurationError as error:
            return _problem(503, "failed", str(error))
        except Exception as error:
            log.warning("A request of the page failed", exc_info=True)
            return _problem(500, "internal", f"{type(error).__name__}: {error}")

    return explaining


def _sent(picture: Picture, headers: Mapping[str, str]) -> Response:
    """Return a picture; a browser that shows it as a page runs nothing of it."""
    policy = "default-src 'none'; sandbox"
    return Response(picture.data, media_type=picture.media_type, headers={**headers, "content-security-policy": policy})


def _problem(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"kind": kind, "message": message}}, status_code=status)


def _query(request: Request) -> dict[str, Sequence[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


def _photo(request: Request, batch: str = "batch") -> Photo:
    given = request.query_params
    return given.get(batch, ""), given.get("photo", ""), _whole(request, "position", -1)


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    finished = entry["finished"]
    return {**entry, "finished": finished and finished.isoformat(timespec="seconds")}
