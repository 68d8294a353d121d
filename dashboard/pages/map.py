"""The page Map: clips by their embeddings, or by two measures; a line drawn around some is a filter."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scope
from dashboard.index.coding import OTHER, code
from dashboard.index.fields import FIELDS, MEASURE, WORD
from dashboard.site import Site
from manifests.errors import UsageError

CELLS = 96
MOST_POINTS = 2_000_000
"""Of more clips the map is a density."""
CLASSES = 8
POINT = np.dtype([("x", "<u2"), ("y", "<u2"), ("class", "u1")])
EMBEDDED = "embedding"


def density(
    site: Site, scope: Scope, filters: Filters, x: str, y: str, rows_of: str = "clips", cells: int = CELLS
) -> dict[str, Any]:
    """Counts of clips in a square of cells; the outermost hold what lies beyond them too.

    Args:
        rows_of: the tables of the two: `clips`, or with those of the map.
    """
    limits = scope.coded(site.index).codings["clips"].limits
    if x == EMBEDDED:
        first, second, spans = "x", "y", [(0.0, 1.0), (0.0, 1.0)]
    elif x not in limits or y not in limits:
        return {"x": x, "y": y, "cells": [], "limits": None, "size": cells, "count": 0}
    else:
        first, second, spans = FIELDS[x].sql, FIELDS[y].sql, [limits[x], limits[y]]
    where, values = filters.where()
    place = [
        f"greatest(0, least({cells - 1}, floor((({sql})::DOUBLE - {low!r}::DOUBLE) "
        f"* {cells / (high - low)!r}::DOUBLE)))"
        for sql, (low, high) in zip((first, second), spans, strict=True)
    ]

    def counted() -> list[tuple[Any, ...]]:
        return site.index.tuples(
            f"{scope.tables} SELECT n // {cells} AS i, n % {cells} AS j, count(*) FROM "
            f"(SELECT ({place[0]} * {cells} + {place[1]})::USMALLINT AS n FROM {rows_of} "
            f"WHERE ({where}) AND ({first}) IS NOT NULL AND ({second}) IS NOT NULL) GROUP BY n",
            values,
        )

    rows = site.kept.once((scope, "density", x, y), counted) if filters.is_empty() else counted()
    return {
        "x": x,
        "y": y,
        "cells": [list(row) for row in rows],
        "limits": spans,
        "size": cells,
        "count": sum(row[2] for row in rows),
    }


_PLACED = 'clips JOIN (SELECT key, x, y FROM "map") USING (key)'


def points(site: Site, scope: Scope, filters: Filters, colour: str) -> bytes:
    """Each clip of the map as five bytes: x and y as shares of 65,535, little-endian, and its word's place.

    A word without a place of its own has the place after the last.
    """
    known, tables = FIELDS[colour], scope.coded(site.index).tables
    where, values = filters.where()
    with site.index.cursor() as cursor:
        found = cursor.execute(
            f"{tables} SELECT (x * 65535)::USMALLINT AS x, (y * 65535)::USMALLINT AS y, "
            f"least(greatest({code(known)}::INTEGER - {OTHER + 1}, -1), {CLASSES})::TINYINT AS class "
            f"FROM {_PLACED} WHERE {where} LIMIT {MOST_POINTS}",
            values or None,
        ).fetchnumpy()
    made = np.zeros(len(found["x"]), POINT)
    for name in ("x", "y"):
        made[name] = np.ma.filled(found[name], 0)
    classes = np.ma.filled(found["class"], CLASSES).astype(np.int16)
    made["class"] = np.where(classes < 0, CLASSES, classes)
    return made.tobytes()


def embedded(site: Site, scope: Scope, filters: Filters, colour: str, clip_id: str) -> dict[str, Any]:
    """What the page needs of the map besides its points: words by class, and where a clip is."""
    codings = scope.coded(site.index).codings
    data = density(site, scope, filters, EMBEDDED, EMBEDDED, _PLACED)
    data |= {"colour": colour, "words": codings["clips"].words.get(colour, ())[:CLASSES], "mark": None}
    data["has_points"] = data["count"] <= MOST_POINTS
    if clip_id:
        found = site.index.tuples(f'{scope.tables} SELECT x, y FROM "map" WHERE clip_id = ?', [clip_id])
        data["mark"] = list(found[0]) if found else None
    return data


def add(app: FastAPI, site: Site) -> None:
    """The routes."""
    measures = [known for known in FIELDS.values() if known.kind == MEASURE and known.table == "clips"]
    words = [known for known in FIELDS.values() if known.kind == WORD and known.table == "clips"]

    def checked(name: str, known: list[str], what: str) -> None:
        if name not in known:
            raise UsageError(name, f"is no {what} of clips", f"There are: {', '.join(known)}.")

    def meant(request: Request) -> Filters:
        own = ("x", "y", "colour", "clip")
        return Filters.parse([(k, v) for k, v in request.query_params.multi_items() if k not in own])

    @app.get("/map")
    @app.get("/map.json")
    def shown(request: Request, x: str = "", y: str = "", colour: str = "camera", clip: str = "") -> Response:
        scope, filters = site.scope(request), meant(request)
        has_map = "map" in scope.columns
        x = x or (EMBEDDED if has_map else "motion")
        checked(colour, [known.name for known in words], "word")
        if x == EMBEDDED and has_map:
            data = embedded(site, scope, filters, colour, clip)
        else:
            y = y or "sharpness"
            for name in (x, y):
                checked(name, [known.name for known in measures], "measure")
            data = density(site, scope, filters, x, y)
        if not request.url.path.endswith(".json"):
            query = filters.query(after=None)
            data |= {"measures": measures, "facets": words, "has_map": has_map, "query": query}
            data["hidden_filters"] = parse_qsl(query) + ([("clip", clip)] if clip else [])
        return site.page(request, "map.html", data, scope)

    @app.get("/map/points.bin")
    def places(request: Request, colour: str = "camera") -> Response:
        checked(colour, [known.name for known in words], "word")
        made = points(site, site.scope(request), meant(request), colour)
        return Response(made, media_type="application/octet-stream")
