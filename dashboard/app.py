"""The web app: one status page, its JSON twin, and previews straight out of the tars.

Every route is a GET; nothing is ever written into the dataset.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from dashboard import media as previews
from dashboard.index.index import BusyError, Index
from dashboard.security import guard
from dashboard.summary import summary
from manifests.layout import Dataset

HERE = Path(__file__).parent
TEMPLATES = Jinja2Templates(directory=str(HERE / "templates"))
TEMPLATES.env.filters["local_time"] = lambda seconds: time.strftime(
    "%Y-%m-%d %H:%M:%S", time.localtime(seconds)
)
_NUM_CLIPS = 24
_FIRST_CLIPS = (
    "SELECT clip_id, width_px, height_px, num_frames, camera FROM clips "
    "WHERE version = (SELECT max(version) FROM clips) ORDER BY shard, clip_id LIMIT ?"
)


def make_app(uri: str, cache: Path | None = None) -> FastAPI:
    """An app over one dataset.

    What is committed is looked up anew, so a running ingest shows as it goes.

    Args:
        cache: folder of the index.
    """
    dataset = Dataset(uri)
    index = Index(dataset, cache)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        index.close()

    app = FastAPI(title="rushes", docs_url=None, redoc_url=None, openapi_url=None, lifespan=closing)
    guard(app)
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    @app.exception_handler(BusyError)
    def busy(request: Request, error: Exception) -> Response:
        return PlainTextResponse("too many questions at once; try again", 503, {"Retry-After": "1"})

    @app.get("/", response_class=HTMLResponse)
    def page(request: Request) -> Response:
        found = {**summary(dataset), "clips": index.rows(_FIRST_CLIPS, [_NUM_CLIPS])}
        return TEMPLATES.TemplateResponse(request, "status.html", found | {"building": index.progress})

    @app.get("/status.json")
    def status() -> dict:
        return summary(dataset)

    @app.get("/media/{name}")
    def media(request: Request, name: str) -> Response:
        return previews.answer(index, name, request.headers.get("range"))

    return app
