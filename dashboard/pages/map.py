"""The page Map: how the clips lie by two measures, as a density; a box that is drawn there is a filter."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scope
from dashboard.index.fields import FIELDS, MEASURE
from dashboard.site import Site
from manifests.errors import UsageError

CELLS = 96


def density(site: Site, scope: Scope, filters: Filters, x: str, y: str) -> dict[str, Any]:
    """Counts of clips in a square of cells; the outermost hold what lies beyond them too."""
    first, second = FIELDS[x].sql, FIELDS[y].sql
    where, values = filters.where()
    limits = scope.coded(site.index)[0]["clips"].limits
    if x not in limits or y not in limits:
        return {"x": x, "y": y, "cells": [], "limits": None, "size": CELLS, "count": 0}
    spans = [limits[x], limits[y]]
    place = [
        f"greatest(0, least({CELLS - 1}, floor((({sql})::DOUBLE - {low!r}::DOUBLE) "
        f"* {CELLS / (high - low)!r}::DOUBLE)))"
        for sql, (low, high) in zip((first, second), spans, strict=True)
    ]
    rows = site.index.tuples(
        f"{scope.tables} SELECT {place[0]}::INTEGER AS i, {place[1]}::INTEGER AS j, count(*) AS n FROM clips "
        f"WHERE ({where}) AND ({first}) IS NOT NULL AND ({second}) IS NOT NULL GROUP BY ALL",
        values,
    )
    return {
        "x": x,
        "y": y,
        "cells": [list(row) for row in rows],
        "limits": spans,
        "size": CELLS,
        "count": sum(row[2] for row in rows),
    }


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/map")
    @app.get("/map.json")
    def shown(request: Request, x: str = "motion", y: str = "sharpness") -> Response:
        measures = [known for known in FIELDS.values() if known.kind == MEASURE and known.table == "clips"]
        for name in (x, y):
            if name not in {known.name for known in measures}:
                names = ", ".join(known.name for known in measures)
                raise UsageError(name, "is no measure of clips", f"Measures: {names}.")
        scope = site.scope(request)
        given = [(k, v) for k, v in request.query_params.multi_items() if k not in ("x", "y")]
        filters = Filters.parse(given)
        data = density(site, scope, filters, x, y)
        if not request.url.path.endswith(".json"):
            data |= {"measures": measures, "filters": filters, "query": filters.query(after=None)}
        return site.page(request, "map.html", data, scope)
