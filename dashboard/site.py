"""What all pages share: the dataset, its index, its views and its newest run, and how a page is answered."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.templating import Jinja2Templates
from markupsafe import Markup

from dashboard import drawing
from dashboard.asking.counts import Kept
from dashboard.asking.filters import Filters
from dashboard.asking.later import Later
from dashboard.asking.scope import NEWEST, Scope, Scopes
from dashboard.index.index import Index
from dashboard.live import Tail
from dashboard.states import Grids
from dashboard.verdicts import Verdicts
from manifests.layout import Dataset
from manifests.runs.pace import told_duration, told_range

HERE = Path(__file__).parent
PAGES = [
    ("/", "Now", "n"),
    ("/shards", "Shards", "s"),
    ("/clips", "Clips", "c"),
    ("/drops", "Drops", "d"),
    ("/captions", "Captions", "w"),
    ("/train", "Training", "t"),
    ("/map", "Map", "m"),
    ("/runs", "Runs", "r"),
    ("/sql", "SQL", "q"),
]
"""Address, title, and the letter that leads there after `g`."""
_SAMPLE = 250_000
"""Clips, about, that are looked at of many where every word counts."""


_NO_VERSIONS = {"of": {"preview": "", "latent": ""}}


@dataclass
class Site:
    """One dataset, watched.

    Attributes:
        runs: folders of trainings besides those in the dataset.
        prices: of an hour of a processor and of a GPU; None where none was told.
        verdicts: where verdicts of people on captions are kept; None to take none.
    """

    dataset: Dataset
    index: Index
    runs: list[Path] = field(default_factory=list)
    prices: tuple[float, float] | None = None
    verdicts: Verdicts | None = None
    ray: str = ""
    hide_paths: bool = False

    def __post_init__(self) -> None:
        self.scopes, self.tail = Scopes(self.index), Tail(self.dataset, self.index.store)
        self.grids, self.kept = Grids(self.index, self.tail), Kept(self.index)
        self.later = Later(self.index)
        self._templates = Jinja2Templates(directory=str(HERE / "templates"))
        self._templates.env.filters.update({**FILTERS, "path": self.shown_path})
        self._templates.env.trim_blocks = self._templates.env.lstrip_blocks = True

    def sample(self, scope: Scope) -> tuple[str, bool]:
        """A predicate on shards by which a large dataset is looked at in part, and whether that is so."""
        step = -(-self.kept.number(scope, Filters()) // _SAMPLE)
        return (f"shard % {step} = 0", True) if step > 1 else ("true", False)

    def shown_path(self, uri: str) -> str:
        """An address as pages show it."""
        return uri.rsplit("/", 1)[-1] if self.hide_paths else uri

    def told(self, data: Any) -> Any:
        """Data as pages and their twins show it: with hidden paths, where that is asked for."""
        return without_paths(data) if self.hide_paths else data

    def scope(self, request: Request) -> Scope:
        """The view that a request names."""
        return self.scopes.named(request.query_params.get("view", ""))

    def page(self, request: Request, name: str, data: dict[str, Any], scope: Scope | None = None) -> Response:
        """The page, or its JSON twin where its address ends in .json."""
        data = self.told(data)
        scope = scope or self.scope(request)
        if request.url.path.endswith(".json"):
            return self._twin(data, scope)
        scope = replace(scope, problem=self.told(scope.problem))
        about = {
            "dataset": self.shown_path(self.dataset.uri),
            "pages": [*PAGES, *([("/check", "Check", "k")] if self.verdicts else [])],
            "scope": scope,
            "of": self._pinned(scope),
            "views": self.scopes.names(),
            "view_query": urlencode({"view": scope.name}) if request.query_params.get("view") else "",
            "building": self.index.progress,
            "trouble": self.told(self.index.trouble),
            "twin": twin(request),
            "here": request.url.path,
            "hidden": [(key, value) for key, value in request.query_params.multi_items() if key != "view"],
            "ray": self.ray,
        }
        return self._rendered(request, name, {**about, **data})

    def _pinned(self, scope: Scope) -> dict[str, str]:
        """By column, what an address of media says where a view has another version than the newest."""
        newest = self.scopes.named(NEWEST).columns
        own = {name: scope.columns.get(name, "") for name in ("preview", "latent")}
        return {
            name: f"?{urlencode({'v': version})}" if version not in ("", newest.get(name)) else ""
            for name, version in own.items()
        }

    def part(self, request: Request, name: str, data: dict[str, Any]) -> Response:
        """A part of a page, or its JSON twin."""
        data = self.told(data)
        if request.url.path.endswith(".json"):
            return self._twin(data, self.scope(request))
        return self._rendered(request, name, data)

    def _twin(self, data: dict[str, Any], scope: Scope) -> Response:
        """A page's data, and where there is something to say of it: `building`, how far the index is while it
        is built and not all is there yet; `away`, of a store that does not answer or a folder that is gone;
        `problem`, why the view cannot be used, and nothing is in it."""
        notes = {"building": self.index.progress, "away": self.told(self.index.trouble)}
        notes["problem"] = self.told(scope.problem)
        return JSONResponse(plain({**data, **{name: note for name, note in notes.items() if note}}))

    def missing(self, text: str) -> HTTPException:
        """What to raise where something is not there, or not known yet."""
        if self.index.progress is None:
            return HTTPException(404, text)
        return HTTPException(503, "the index is being built; try again", {"Retry-After": "2"})

    def rendered(self, name: str, data: dict[str, Any]) -> str:
        """A template by itself, outside of any page."""
        return self._templates.get_template(name).render({**_NO_VERSIONS, **self.told(data)})

    def _rendered(self, request: Request, name: str, data: dict[str, Any]) -> Response:
        """A template whose links to pages keep the view that was asked for."""
        text = self._templates.get_template(name).render(request=request, **{**_NO_VERSIONS, **data})
        if view := request.query_params.get("view"):
            asked = urlencode({"view": view})
            text = _PAGE_LINK.sub(lambda link: _with_view(link[0], asked), text)
        return HTMLResponse(text)


_PAGE_LINK = re.compile(r'(?<=href=")/(?:clips|shards|drops|captions|train|map)?(?=[/?"])[^"]*')


def _with_view(link: str, asked: str) -> str:
    if "view=" in link or link.startswith("/clips/export"):
        return link
    return f"{link}{'&amp;' if '?' in link else '?'}{asked}"


def twin(request: Request) -> str:
    """The address of a page's JSON twin."""
    path = "/now" if request.url.path == "/" else request.url.path
    return f"{path}.json" + (f"?{request.url.query}" if request.url.query else "")


_PATH = re.compile(r"(?<![\w./:])(?:[a-z0-9]+:/)?/[^\n\"'`,;]*/")
"""Up to the last slash of what begins with one, blanks and all: rather too much than a folder's name."""


def without_paths(value: Any, name: str = "") -> Any:
    """The same with folders left out of every text; what is made for a page (Markup), and objects, stay."""
    if isinstance(value, dict):
        return {key: without_paths(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item, name) for item in value]
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return value.rsplit("/", 1)[-1] if name in ("uri", "tar", "dataset", "file") else _PATH.sub("", value)


def plain(value: Any) -> Any:
    """Data that JSON can hold: no infinities, no objects."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return plain(vars(value)) if hasattr(value, "__dict__") else str(value)


def local_time(seconds: float | None) -> str:
    """A time for people, of this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def told_bytes(size: float | None) -> str:
    """Bytes for people."""
    size = float(size or 0)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}"
        size /= 1000
    return ""


FILTERS: dict[str, Callable[..., str]] = {
    "local_time": local_time,
    "duration": lambda seconds: told_duration(seconds) if seconds is not None else "",
    "left": told_range,
    "short": lambda value: drawing.short(value) if isinstance(value, (int, float)) else "",
    "shown": drawing.shown,
    "number": lambda value: "" if value is None else f"{value:,}",
    "bytes": told_bytes,
    "path": str,
    "part": lambda name: quote(str(name), safe=""),
}
"""What templates turn values into text by."""
