"""Counts of the clips that are meant: by word, and as histograms of the selection over the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashboard.asking.fields import FACETS, FIELDS, MEASURE, WORDS, Field
from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scope
from dashboard.index.index import Index

BINS = 24
MOST_WORDS = 24
_Words = list[tuple[str, int]]


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal width; the outermost hold what lies beyond them too.

    Attributes:
        edges: one more than bins.
        whole, chosen: of all rows of the scope, and of those that are meant.
        limits: the filter on this measure; infinite where there is none.
    """

    field: Field
    edges: list[float]
    whole: list[int]
    chosen: list[int]
    limits: tuple[float, float]


def number(index: Index, scope: Scope, filters: Filters) -> int:
    """How many clips are meant."""
    where, values = filters.where()
    return int(index.value(f"{scope.tables} SELECT count(*) FROM clips WHERE {where}", values) or 0)


def facets(index: Index, scope: Scope, filters: Filters) -> dict[str, _Words]:
    """Each word of each facet with its clips (of `captions`: captions), most frequent first.

    The filter on a facet itself does not narrow its own counts, so that another word can be chosen.
    """
    plain = [known for known in FACETS if known.table == "clips" and known.kind != WORDS]
    shared = [known for known in plain if known.name not in filters.words]
    found: dict[str, _Words] = {}
    if shared:
        sets = ", ".join(f"({known.sql})" for known in shared)
        names = ", ".join(f"{known.sql}::VARCHAR" for known in shared)
        where, values = filters.where()
        rows = index.tuples(
            f"{scope.tables} SELECT grouping_id({', '.join(known.sql for known in shared)}), {names}, "
            f"count(*) FROM clips WHERE {where} GROUP BY GROUPING SETS ({sets})",
            values,
        )
        of = {(1 << len(shared)) - 1 - (1 << (len(shared) - 1 - at)): at for at in range(len(shared))}
        for row in rows:
            at = of[row[0]]
            found.setdefault(shared[at].name, []).append((row[1 + at] or "", row[-1]))
    for known in FACETS:
        if known not in shared:
            found[known.name] = _words_of(index, scope, filters, known)
    return {known.name: _most(found.get(known.name, []), filters, known.name) for known in FACETS}


def _words_of(index: Index, scope: Scope, filters: Filters, known: Field) -> _Words:
    where, values = filters.where(known.name)
    if known.table != "clips":
        where = "true" if where == "true" else f"clip_id IN (SELECT clip_id FROM clips WHERE {where})"
    word = f"unnest({known.sql})" if known.kind == WORDS else f"({known.sql})::VARCHAR"
    query = f"SELECT {word} AS word FROM {known.table} WHERE {where}"
    rows = index.tuples(f"{scope.tables} SELECT word, count(*) FROM ({query}) GROUP BY 1", values)
    return [(word or "", count) for word, count in rows]


def _most(rows: _Words, filters: Filters, name: str) -> _Words:
    rows = sorted(((word, count) for word, count in rows if word), key=lambda row: (-row[1], row[0]))
    lost = [(word, 0) for word in filters.words.get(name, ()) if word not in dict(rows)]
    return rows[:MOST_WORDS] + lost


def histograms(index: Index, scope: Scope, filters: Filters, names: list[str]) -> list[Histogram]:
    """Of these measures, in one pass over each table."""
    found: dict[str, Histogram] = {}
    for table in ("clips", "captions", "latents"):
        fields = [FIELDS[name] for name in names if FIELDS[name].table == table]
        for known, limits in zip(fields, _limits(index, scope, table, fields), strict=True):
            if limits is not None:
                edges = [limits[0] + (limits[1] - limits[0]) * at / BINS for at in range(BINS + 1)]
                own = filters.ranges.get(known.name, (-math.inf, math.inf))
                found[known.name] = Histogram(known, edges, [0] * BINS, [0] * BINS, own)
        _count(index, scope, filters, table, [found[known.name] for known in fields if known.name in found])
    return [found[name] for name in names if name in found]


def _limits(index: Index, scope: Scope, table: str, fields: list[Field]) -> list[tuple[float, float] | None]:
    """Where the bins of each measure begin and end: 0.5 and 99.5 % of the scope, approximately."""
    if not fields:
        return []
    asked = ", ".join(
        f"approx_quantile(({known.sql})::DOUBLE, [0.005, 0.995]), min({known.sql}), max({known.sql})"
        for known in fields
    )
    (row,) = index.tuples(f"{scope.tables} SELECT {asked} FROM {table}")
    limits: list[tuple[float, float] | None] = []
    for at in range(len(fields)):
        spread, least, most = row[3 * at : 3 * at + 3]
        if not spread or least is None:
            limits.append(None)
            continue
        low, high = float(spread[0]), float(spread[1])
        if high <= low:
            low, high = float(least), float(most)
        limits.append((low, high if high > low else low + 1.0))
    return limits


def _count(index: Index, scope: Scope, filters: Filters, table: str, wanted: list[Histogram]) -> None:
    if not wanted:
        return
    where, values = filters.where()
    if table != "clips":
        where = "true" if where == "true" else f"clip_id IN (SELECT clip_id FROM clips WHERE {where})"
    bins = []
    for at, histogram in enumerate(wanted):
        low, high = histogram.edges[0], histogram.edges[-1]
        scaled = f"(({histogram.field.sql})::DOUBLE - {low!r}::DOUBLE) * {BINS / (high - low)!r}::DOUBLE"
        place = f"greatest(0, least({BINS - 1}, floor({scaled})))::TINYINT"
        bins.append(f"CASE WHEN ({histogram.field.sql}) IS NOT NULL THEN {place} END AS b{at}")
    names = [f"b{at}" for at in range(len(wanted))]
    rows = index.tuples(
        f"{scope.tables} SELECT grouping_id({', '.join(names)}), {', '.join(names)}, count(*), "
        f"count(*) FILTER (chosen) FROM (SELECT {', '.join(bins)}, ({where}) AS chosen FROM {table}) "
        f"GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in names)})",
        values,
    )
    of = {(1 << len(names)) - 1 - (1 << (len(names) - 1 - at)): at for at in range(len(names))}
    for row in rows:
        at = of[row[0]]
        place = row[1 + at]
        if place is not None:
            wanted[at].whole[place] += row[-2]
            wanted[at].chosen[place] += row[-1]


SHOWN_MEASURES = [known.name for known in FIELDS.values() if known.kind == MEASURE][:6] + ["words", "psnr"]
"""Histograms that are made unasked."""
