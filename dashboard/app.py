"""The web app over one dataset: its pages, its media, and what is said where something is wrong.

Every route but `/check` is a GET; nothing is ever written into the dataset.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import duckdb
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard import media as previews
from dashboard.index.index import MOST_QUERIES, BusyError, Index
from dashboard.pages import captions, check, clip, clips, drops, exports, map, now, runs, shards, sql, train
from dashboard.security import HEADERS, Access, Guard
from dashboard.site import Site
from dashboard.verdicts import Verdicts
from manifests.errors import RushesError
from manifests.layout import Dataset

HERE = Path(__file__).parent
_THREADS = 2 * MOST_QUERIES
"""That answer: more would wait for each other, and each keeps memory."""


def make_app(
    uri: str,
    cache: Path | None = None,
    access: Access | None = None,
    trainings: list[Path] | None = None,
    prices: tuple[float, float] | None = None,
    ray: str = "",
    hide_paths: bool = False,
    verdicts: Path | None = None,
) -> FastAPI:
    """An app over one dataset.

    What is committed is looked up anew, so a running ingest shows as it goes.

    Args:
        cache: folder of the index.
        access: who is answered; loopback without a token where it is not given.
        trainings: run folders besides those in the dataset.
        prices: of an hour of a processor, and of a GPU.
        verdicts: file of verdicts on captions, outside the dataset; without one there is no such page.
        ray: address of Ray's own dashboard, to link to.
    """
    dataset = Dataset(uri)
    index = Index(dataset, cache)
    judged = Verdicts(verdicts, dataset) if verdicts else None
    site = Site(dataset, index, trainings or [], prices, judged, ray, hide_paths)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield
        index.close()

    app = FastAPI(title="rushes", docs_url=None, redoc_url=None, openapi_url=None, lifespan=closing)
    app.add_middleware(_HeadAsGet)
    app.add_middleware(Guard, access=access or Access())
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.state.site = site

    def wrong(request: Request, code: int, text: str) -> Response:
        text = site.told(text)
        if request.url.path.endswith((".json", ".csv", ".jpg")) or not _wants_page(request):
            return JSONResponse({"error": text}, code)
        answer = site.page(request, "wrong.html", {"code": code, "text": text}, site.scopes.named("newest"))
        answer.status_code = code
        return answer

    @app.exception_handler(BusyError)
    def busy(request: Request, error: Exception) -> Response:
        return PlainTextResponse("too many questions at once; try again", 503, {"Retry-After": "1"})

    @app.exception_handler(duckdb.CatalogException)
    def changing(request: Request, error: Exception) -> Response:
        return PlainTextResponse("the index has just been made anew; try again", 503, {"Retry-After": "1"})

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> Response:
        answer = PlainTextResponse("something went wrong here; the terminal says what", 500)
        answer.headers.update(HEADERS)  # it is answered outside of the guard
        return answer

    @app.exception_handler(RushesError)
    def refused(request: Request, error: RushesError) -> Response:
        return wrong(request, 400, str(error))

    @app.exception_handler(HTTPException)
    def answered(request: Request, error: HTTPException) -> Response:
        return wrong(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def unreadable(request: Request, error: RequestValidationError) -> Response:
        named = ", ".join(sorted({str(one["loc"][-1]) for one in error.errors()}))
        return wrong(request, 400, f"{named}: what the address gives cannot be read")

    @app.get("/media/{name}")
    def media(request: Request, name: str, v: str = "") -> Response:
        return previews.answer(index, name, request.headers.get("range"), v)

    for page in (now, shards, exports, clips, clip, drops, captions, train, runs, sql, map, check):
        page.add(app, site)
    return app


class _HeadAsGet:
    """Answers HEAD, which players and checkers of links ask, as GET without its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        is_done = False

        async def bodiless(message: Message) -> None:
            nonlocal is_done
            if is_done:
                raise OSError("nobody asked for what comes now")  # as where a client has gone
            is_done = message["type"] == "http.response.body"
            await send({"type": message["type"], "body": b""} if is_done else message)

        try:
            await self._app({**scope, "method": "GET"}, receive, bodiless)
        except (OSError, ClientDisconnect):
            if not is_done:
                raise


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
