"""The web app: one status page, its JSON twin, and posters straight out of the tars.

Every route is a GET; nothing is ever written.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from dashboard.summary import summary
from manifests import queries
from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.store.shards import Member, read_member

TEMPLATES = Jinja2Templates(directory=str(Path(__file__).parent / "templates"))
_NUM_CLIPS = 24


def _previews(dataset: Dataset) -> Column | None:
    found = [column for column in dataset.columns() if column.name == "preview"]
    return found[-1] if found else None


def make_app(uri: str) -> FastAPI:
    """An app over one dataset.

    The dataset is read afresh for each request, so a running ingest shows as it goes.
    """
    app = FastAPI(title="rushes", docs_url=None, redoc_url=None)
    dataset = Dataset(uri)
    index: dict[str, tuple[str, Member]] = {}

    def member_of(name: str) -> tuple[str, Member] | None:
        column = _previews(dataset)
        if name not in index and column is not None:
            for path, members in queries.members(dataset, column).values():
                index.update(
                    {
                        member.name: (path, member)
                        for member in members
                        if member.field in {"poster.jpg", "proxy.webm"}
                    }
                )
        return index.get(name)

    @app.get("/", response_class=HTMLResponse)
    def page(request: Request) -> Response:
        column = _previews(dataset)
        clips = queries.table(dataset, "clips", column).slice(0, _NUM_CLIPS).to_pylist() if column else []
        return TEMPLATES.TemplateResponse(request, "status.html", {**summary(dataset), "clips": clips})

    @app.get("/status.json")
    def status() -> dict:
        return summary(dataset)

    @app.get("/media/{name}")
    def media(name: str) -> Response:
        found = member_of(name)  # a name in the index, never a path
        if found is None:
            raise HTTPException(404, "no such preview")
        try:
            data = read_member(dataset.filesystem, *found)
        except RushesError as error:
            raise HTTPException(500, str(error)) from error
        return Response(data, media_type="image/jpeg" if name.endswith(".jpg") else "video/webm")

    return app
