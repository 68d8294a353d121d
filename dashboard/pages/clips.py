"""The page Clips: posters and captions of the clips that are meant, facets and histograms beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard import drawing
from dashboard.asking import counts
from dashboard.asking.filters import Filters, key_of, told
from dashboard.asking.scope import Scope
from dashboard.index.fields import FIELDS, MEASURES
from dashboard.site import Site

PAGE = 60
_SHARDS_AT_FIRST = 32
_FEW = 50_000
"""Up to so many clips facets are on the page itself; of more they come after the rows."""
COLUMNS = (
    "clip_id, shard, source_id, uri, start_s, end_s, kind, width_px, height_px, num_frames, fps, seconds, "
    "camera, motion, sharpness, luma_mean, palette, alt"
)


def some_clips(
    site: Site, scope: Scope, filters: Filters, most: int = PAGE
) -> tuple[list[dict[str, Any]], str]:
    """A page of clips with a caption each, and the key of the next page; empty where there is none."""
    keys = _keys(site, scope, filters, most + 1)
    more, keys = (keys[most - 1] if len(keys) > most else None), keys[:most]
    ids, shards = [row[0] for row in keys], sorted({row[1] for row in keys})
    rows = site.index.rows(
        f"{scope.tables} SELECT {COLUMNS} FROM clips WHERE {among(shards)} "
        "AND list_contains(?::VARCHAR[], clip_id)",
        [ids],
    )
    known = {row["clip_id"]: row for row in rows}
    texts = captions_of(site, scope, ids, shards)
    found = [
        {**known[name], "caption": texts.get(name, known[name]["alt"] or "")} for name in ids if name in known
    ]
    return found, key_of(more[2], more[0]) if more else ""


def _keys(site: Site, scope: Scope, filters: Filters, most: int) -> list[tuple[str, int, Any]]:
    """Id, shard and sort key of clips in their order.

    In the order in which they are stored only as many shards are looked at as it takes.
    """
    order, after, last = filters.order()
    begin = last[0] if last else 0
    wide = 0 if filters.sort else _SHARDS_AT_FIRST
    num_shards = (site.index.value("SELECT max(shard) FROM shards") or 0) + 1
    found: list[tuple[str, int, Any]] = []
    while True:
        end = begin + wide if wide else num_shards
        within = f"shard >= {int(begin)} AND shard < {int(end)}" if wide else "true"
        where, values = filters.where(within=within)
        found += site.index.tuples(
            f"{scope.tables} SELECT clip_id, shard, {filters.key_sql()} FROM clips "
            f"WHERE {where} AND {after} ORDER BY {order} LIMIT {most - len(found)}",
            [*values, *last],
        )
        if len(found) >= most or end >= num_shards:
            return found
        begin, wide = end, wide * 8


def among(shards: list[int]) -> str:
    """A predicate on shards by which most of a table need not be read."""
    return f"shard IN ({', '.join(str(int(shard)) for shard in shards)})" if shards else "false"


def captions_of(site: Site, scope: Scope, clip_ids: list[str], shards: list[int]) -> dict[str, str]:
    """A caption for each clip of these shards: a dense one where there is one, accepted before others."""
    rows = site.index.tuples(
        f"{scope.tables} SELECT clip_id, arg_min(text, CASE kind WHEN 'dense' THEN 0 WHEN 'short' THEN 1 "
        "WHEN 'structured' THEN 2 ELSE 3 END + CASE status WHEN 'accepted' THEN 0 ELSE 10 END) FROM captions "
        f"WHERE {among(shards)} AND list_contains(?::VARCHAR[], clip_id) GROUP BY 1",
        [clip_ids],
    )
    return dict(rows)


def side(site: Site, scope: Scope, filters: Filters, is_drawn: bool = True) -> dict[str, Any]:
    """Facets and histograms, with pictures of them."""
    names = list(dict.fromkeys([*counts.SHOWN_MEASURES, *filters.ranges]))
    with site.kept.counting(scope, filters) as counting:
        number, words_of, made = counting.counted(names)
    return {
        "count": number,
        "facets": [
            {
                "name": name,
                "title": FIELDS[name].title,
                "words": [
                    {
                        "word": word,
                        "count": count,
                        "is_chosen": word in filters.words.get(name, ()),
                        "query": filters.toggled(name, word),
                    }
                    for word, count in words
                ],
            }
            for name, words in words_of.items()
            if words
        ],
        "histograms": [
            {
                "name": histogram.field.name,
                "title": histogram.field.title,
                "edges": histogram.edges,
                "whole": histogram.whole,
                "chosen": histogram.chosen,
                "range": told(*histogram.limits) if histogram.field.name in filters.ranges else "",
                "clear": filters.query(**{histogram.field.name: None, "after": None}),
                **({"svg": drawing.histogram(histogram, _link(filters, name))} if is_drawn else {}),
            }
            for histogram in made
            for name in (histogram.field.name,)
        ],
    }


def _link(filters: Filters, name: str) -> Callable[[float, float], str]:
    """The address that filters by a range of a measure."""
    return lambda low, high: f"/clips?{filters.query(**{name: told(low, high), 'after': None})}"


def chips(filters: Filters) -> list[dict[str, str]]:
    """Each filter with the query that is without it."""
    found = [
        {
            "text": f"{FIELDS[name].title}: {', '.join(words)}",
            "query": filters.query(**{name: None, "after": None}),
        }
        for name, words in filters.words.items()
    ]
    found += [
        {
            "text": f"{FIELDS[name].title} {told(*limits)}",
            "query": filters.query(**{name: None, "after": None}),
        }
        for name, limits in filters.ranges.items()
    ]
    for name, value in (("q", filters.text), ("shard", filters.shard), ("source", filters.source)):
        if value not in ("", None):
            found.append({"text": f"{name}: {value}", "query": filters.query(**{name: None, "after": None})})
    if filters.lasso:
        found.append({"text": "a part of the map", "query": filters.query(lasso=None, after=None)})
    if filters.outliers:
        found.append(
            {"text": f"outliers of {filters.outliers}", "query": filters.query(outliers=None, after=None)}
        )
    return found


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    def meant(request: Request) -> tuple[Scope, Filters]:
        return site.scope(request), Filters.parse(request.query_params.multi_items())

    @app.get("/clips")
    @app.get("/clips.json")
    def clips(request: Request) -> Response:
        scope, filters = meant(request)
        rows, after = some_clips(site, scope, filters)
        whole = site.kept.number(scope, Filters())
        is_side = whole <= _FEW or "side" in request.query_params
        data: dict[str, Any] = {
            "clips": rows,
            "next": filters.query(after=after) if after else "",
            "count": site.kept.number(scope, filters) if whole <= _FEW else None,
            "whole": whole,
        }
        if not request.url.path.endswith(".json"):
            data |= {
                "filters": filters,
                "query": filters.query(after=None),
                "chips": chips(filters),
                "measures": MEASURES,
                "told": {known.name: _limits_of(filters, known.name) for known in MEASURES},
                "side": side(site, scope, filters) if is_side else None,
                "predicate": both(scope.where, saved_as(filters, scope.where)),
            }
        return site.page(request, "clips.html", data, scope)

    @app.get("/clips/side")
    @app.get("/clips/side.json")
    def beside(request: Request) -> Response:
        scope, filters = meant(request)
        is_twin = request.url.path.endswith(".json")
        return site.part(request, "clips_side.html", side(site, scope, filters, not is_twin))

    @app.get("/clips/count.json")
    def count(request: Request) -> Response:
        scope, filters = meant(request)
        number, is_all = site.kept.at_least(scope, filters)
        return site.part(request, "", {"count": number, "is_all": is_all})


def _limits_of(filters: Filters, name: str) -> str:
    return told(*filters.ranges[name]) if name in filters.ranges else ""


def both(*predicates: str) -> str:
    """Predicates that all have to hold: that of the view that is shown, and the filters'."""
    meant = [f"({predicate})" for predicate in predicates if predicate not in ("", "true")]
    return " AND ".join(meant) or "true"


_MEANT = "\0clips"
"""Stands for the clips that a view keeps, until all else is written out."""


def saved_as(filters: Filters, of_view: str = "true") -> str:
    """The filters as a predicate over the dataset's own tables, values written out: for SQL and a view.

    Args:
        of_view: the predicate of the clips among which outliers are meant.
    """
    where, values = filters.where(clips=_MEANT)
    where = where.removeprefix("true AND ").replace(
        "key IN (SELECT key FROM", "clip_id IN (SELECT clip_id FROM"
    )
    where = where.replace('"seconds"', "(end_s - start_s)").replace("contains(low,", "contains(lower(text),")
    parts = where.split("?")  # the index alone has seconds, keys and texts in lower case
    said = parts[0] + "".join(_literal(value) + part for value, part in zip(values, parts[1:], strict=True))
    meant = "clips" if of_view in ("", "true") else f"(SELECT * FROM clips WHERE {of_view}\n)"
    return said.replace(_MEANT, meant)


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, (int, float)) else "'" + str(value).replace("'", "''") + "'"
