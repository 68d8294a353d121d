"""Counts of the clips that are meant: by word, and as histograms of the selection over the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb

from dashboard.asking.fields import FACETS, FIELDS, MEASURE, WORDS, Field
from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scope
from dashboard.index.index import Index

BINS = 24
MOST_WORDS = 24
_Words = list[tuple[str, int]]
_HAVE_SOME = {"reasons": "len(reasons) > 0", "audit_flag": "audit_flag <> ''"}
"""Which rows have a word at all, of facets that few rows have."""


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


class Kept:
    """Counts that depend on no filter, kept until something comes or goes."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._kept: dict[Any, Any] = {}
        self._changes = -1

    def once(self, key: Any, work: Callable[[], Any]) -> Any:
        """What a key stands for, made if it is not there."""
        if self._changes != self._index.changes:
            self._kept, self._changes = {}, self._index.changes
        held = self._kept  # what is counted now belongs to what there was when it began
        if key not in held:
            held[key] = work()
        return held[key]

    def number(self, scope: Scope, filters: Filters) -> int:
        """How many clips are meant."""
        where, values = filters.where()

        def counted() -> int:
            query = f"{scope.tables} SELECT count(*) FROM clips WHERE {where}"
            return int(self._index.value(query, values) or 0)

        return int(self.once((scope, "number"), counted)) if filters.is_empty() else counted()

    @contextmanager
    def counting(self, scope: Scope, filters: Filters) -> Iterator[Counting]:
        """Counts of one selection: which clips are meant is found once, and all is counted of them."""
        with self._index.cursor() as cursor:
            where, values = filters.where()
            if not filters.is_empty():
                query = f"{scope.tables} SELECT key FROM clips WHERE {where}"
                cursor.execute(f"CREATE OR REPLACE TEMP TABLE chosen AS {query}", values or None)
            yield Counting(self, cursor, scope, filters)


class Counting:
    """Counts of one selection, by facet and by bin."""

    def __init__(self, kept: Kept, cursor: duckdb.DuckDBPyConnection, scope: Scope, filters: Filters) -> None:
        self._kept, self._cursor, self._scope, self._filters = kept, cursor, scope, filters

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._cursor.execute(f"{self._scope.tables} {query}", values or None).fetchall()

    def _meant(self, table: str, without: str = "") -> tuple[str, list[Any]]:
        """A predicate over a table: its rows of the clips that are meant.

        Args:
            without: a field whose own filter is left out.
        """
        filters = self._filters
        if without in (*filters.words, *filters.ranges):
            where, values = filters.where(without)
            return (
                (where, values)
                if table == "clips"
                else (f"key IN (SELECT key FROM clips WHERE {where})", values)
            )
        if filters.is_empty():
            return ("true", []) if table == "clips" else ("key IN (SELECT key FROM clips)", [])
        return filters.where() if table == "clips" and filters.is_of_clips() else (_CHOSEN, [])

    def number(self) -> int:
        """How many clips are meant."""
        if self._filters.is_empty():
            counted = partial(self._rows, "SELECT count(*) FROM clips")
            return int(self._kept.once((self._scope, "all"), counted)[0][0])
        return int(self._cursor.execute("SELECT count(*) FROM temp.chosen").fetchall()[0][0])

    def facets(self) -> dict[str, _Words]:
        """Each word of each facet with its clips (of captions: captions), most frequent first.

        The filter on a facet itself does not narrow its own counts, so that another word can be chosen.
        """
        if self._filters.is_empty():
            found: dict[str, _Words] = self._kept.once((self._scope, "facets"), self._facets)
            return found
        return self._facets()

    def _facets(self) -> dict[str, _Words]:
        found: dict[str, _Words] = {}
        for table in ("clips", "captions"):
            shared = [
                known
                for known in FACETS
                if known.table == table and known.kind != WORDS and known.name not in self._filters.words
            ]
            found |= self._together(table, shared)
        for known in FACETS:
            if known.name not in found:
                found[known.name] = self._alone(known)
        return {known.name: _most(found[known.name], self._filters, known.name) for known in FACETS}

    def _together(self, table: str, shared: list[Field]) -> dict[str, _Words]:
        """Facets of one word each, in one pass."""
        if not shared:
            return {}
        sets = ", ".join(f"({known.sql})" for known in shared)
        names = ", ".join(known.sql for known in shared)
        where, values = self._meant(table)
        rows = self._rows(
            f"SELECT grouping_id({names}), {names}, count(*) FROM {table} WHERE {where} "
            f"GROUP BY GROUPING SETS ({sets})",
            values,
        )
        found: dict[str, _Words] = {known.name: [] for known in shared}
        of = _of_group(len(shared))
        for row in rows:
            at = of[row[0]]
            found[shared[at].name].append((_word(row[1 + at]), row[-1]))
        return found

    def _alone(self, known: Field) -> _Words:
        where, values = self._meant(known.table, known.name)
        word = f"unnest({known.sql})" if known.kind == WORDS else known.sql
        some = _HAVE_SOME.get(known.name, "true")
        rows = self._rows(
            f"SELECT word, count(*) FROM (SELECT {word} AS word FROM {known.table} "
            f"WHERE {some} AND {where}) GROUP BY 1",
            values,
        )
        return [(_word(word), count) for word, count in rows]

    def histograms(self, names: list[str]) -> list[Histogram]:
        """Of these measures, in one pass over each table."""
        found: dict[str, Histogram] = {}
        for table in ("clips", "captions", "latents"):
            fields = tuple(FIELDS[name] for name in names if FIELDS[name].table == table)
            of_all = partial(self._limits, table, fields)
            limits = self._kept.once((self._scope, "limits", fields), of_all)
            shown = tuple(known for known, ends in zip(fields, limits, strict=True) if ends)
            if not shown:
                continue
            ends = tuple(item for item in limits if item)
            uncounted = partial(self._bins, shown, ends, _everything(table))
            whole = self._kept.once((self._scope, "whole", shown), uncounted)
            chosen = whole
            if not self._filters.is_empty():
                chosen = self._bins(shown, ends, self._meant(table))
            for at, (known, (low, high)) in enumerate(zip(shown, ends, strict=True)):
                edges = [low + (high - low) * bin_ / BINS for bin_ in range(BINS + 1)]
                own = self._filters.ranges.get(known.name, (-math.inf, math.inf))
                found[known.name] = Histogram(known, edges, whole[at], chosen[at], own)
        return [found[name] for name in names if name in found]

    def _limits(self, table: str, fields: Sequence[Field]) -> list[tuple[float, float] | None]:
        """Where the bins of each measure begin and end: 0.5 and 99.5 % of the scope, approximately."""
        if not fields:
            return []
        asked = ", ".join(
            f"approx_quantile(({known.sql})::DOUBLE, [0.005, 0.995]), min({known.sql}), max({known.sql})"
            for known in fields
        )
        (row,) = self._rows(f"SELECT {asked} FROM {table}")
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

    def _bins(
        self,
        fields: Sequence[Field],
        limits: Sequence[tuple[float, float]],
        meant: tuple[str, list[Any]],
    ) -> list[list[int]]:
        """The counts in the bins of each measure."""
        where, values = meant
        names, bins = [f"b{at}" for at in range(len(fields))], []
        for at, (known, (low, high)) in enumerate(zip(fields, limits, strict=True)):
            scaled = f"(({known.sql})::DOUBLE - {low!r}::DOUBLE) * {BINS / (high - low)!r}::DOUBLE"
            place = f"greatest(0, least({BINS - 1}, floor({scaled})))::TINYINT"
            bins.append(f"CASE WHEN ({known.sql}) IS NOT NULL THEN {place} END AS b{at}")
        if len(fields) == 1:
            where = f"({fields[0].sql}) IS NOT NULL AND {where}"  # few latents are audited
        rows = self._rows(
            f"SELECT grouping_id({', '.join(names)}), {', '.join(names)}, count(*) "
            f"FROM (SELECT {', '.join(bins)} FROM {fields[0].table} WHERE {where}) "
            f"GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in names)})",
            values,
        )
        found = [[0] * BINS for _ in fields]
        of = _of_group(len(fields))
        for row in rows:
            at = of[row[0]]
            if row[1 + at] is not None:
                found[at][row[1 + at]] = row[-1]
        return found


_CHOSEN = "key IN (SELECT key FROM temp.chosen)"


def _everything(table: str) -> tuple[str, list[Any]]:
    """All rows of a table that are of clips of the scope."""
    return ("true" if table == "clips" else "key IN (SELECT key FROM clips)"), []


def _of_group(count: int) -> dict[int, int]:
    """Which of so many grouping sets a `grouping_id` tells of."""
    return {(1 << count) - 1 - (1 << (count - 1 - at)): at for at in range(count)}


def _word(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _most(rows: list[tuple[str, int]], filters: Filters, name: str) -> list[tuple[str, int]]:
    rows = sorted(((word, count) for word, count in rows if word), key=lambda row: (-row[1], row[0]))
    lost = [(word, 0) for word in filters.words.get(name, ()) if word not in dict(rows)]
    return rows[:MOST_WORDS] + lost


SHOWN_MEASURES = [known.name for known in FIELDS.values() if known.kind == MEASURE][:6] + ["words", "psnr"]
"""Histograms that are made unasked."""
