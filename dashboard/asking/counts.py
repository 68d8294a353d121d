"""Counts of the clips that are meant: by word, and as histograms of the selection over the whole."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb

from dashboard.asking.filters import Filters
from dashboard.asking.scope import Coded, Scope
from dashboard.index.coding import BINS, CODED, NOTHING, code
from dashboard.index.fields import FACETS, FIELDS, FLAG, MEASURE, MEASURES, WORDS, Field
from dashboard.index.index import Index

MOST_WORDS = 24
BUDGET_S = 0.12
"""For a first count; what takes longer is told as so many at least."""
_SHARDS_AT_FIRST = 500
_Words = list[tuple[str, int]]
_Counts = dict[str, Counter[int]]
"""Of each field, how often each code was found."""


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
        self.index = index
        self._kept: dict[Any, Any] = {}
        self._changes = -1

    def once(self, key: Any, work: Callable[[], Any]) -> Any:
        """What a key stands for, made if it is not there."""
        if self._changes != self.index.changes:
            self._kept, self._changes = {}, self.index.changes
        held = self._kept  # what is counted now belongs to what there was when it began
        if key not in held:
            held[key] = work()
        return held[key]

    def number(self, scope: Scope, filters: Filters) -> int:
        """How many clips are meant."""
        where, values = filters.where()

        def counted() -> int:
            query = f"{scope.tables} SELECT count(*) FROM clips WHERE {where}"
            return int(self.index.value(query, values) or 0)

        return int(self.once((scope, "number"), counted)) if filters.is_empty() else counted()

    def at_least(self, scope: Scope, filters: Filters, budget_s: float = BUDGET_S) -> tuple[int, bool]:
        """How many clips are meant, of as many shards as can be counted in so long; whether it is all."""
        begin_s, first, wide, found = time.monotonic(), 0, _SHARDS_AT_FIRST, 0
        end = (self.index.value("SELECT max(shard) FROM shards") or 0) + 1
        while first < end:
            within = f"shard >= {first} AND shard < {first + wide}"
            where, values = filters.where(within=within)
            found += self.index.value(f"{scope.tables} SELECT count(*) FROM clips WHERE {where}", values) or 0
            first += wide
            took_s = time.monotonic() - begin_s
            if took_s > budget_s:
                break
            wide = max(1, int(0.9 * (budget_s - took_s) * first / took_s))  # what the rest of the time allows
        return found, first >= end

    @contextmanager
    def counting(self, scope: Scope, filters: Filters) -> Iterator[Counting]:
        """Counts of one selection: which clips are meant is found once, and all is counted of them."""
        while True:
            opened = self.index.opened
            with self.index.cursor() as cursor:
                coded = scope.coded(self.index)
                if self.index.opened != opened:  # the file was swapped: rows and codes may be of two
                    continue
                if not filters.is_empty() and not filters.is_of_clips():
                    where, values = filters.where()
                    query = f"{scope.tables} SELECT key FROM clips WHERE {where}"
                    cursor.execute(f"CREATE OR REPLACE TEMP TABLE chosen AS {query}", values or None)
                try:
                    yield Counting(self, cursor, coded, filters)
                finally:
                    cursor.execute("DROP TABLE IF EXISTS temp.chosen")
                return


class Counting:
    """Counts of one selection, by facet and by bin."""

    def __init__(self, kept: Kept, cursor: duckdb.DuckDBPyConnection, coded: Coded, filters: Filters) -> None:
        self._kept, self._cursor, self._coded, self._filters = kept, cursor, coded, filters
        self._codings, self._tables = self._coded.codings, self._coded.tables

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._cursor.execute(f"{self._tables} {query}", values or None).fetchall()

    def _meant(self, without: str = "") -> tuple[str, list[Any]]:
        """A predicate over clips: those that are meant.

        Args:
            without: a field whose own filter is left out.
        """
        filters = self._filters
        if without in (*filters.words, *filters.ranges):
            where, values = filters.where(without)
        elif filters.is_empty():
            where, values = "true", []
        else:
            where, values = filters.where() if filters.is_of_clips() else (_CHOSEN, [])
        return where, values

    def counted(self, measures: Sequence[str]) -> tuple[int, dict[str, _Words], list[Histogram]]:
        """How many clips are meant; each word of each facet with its clips, most frequent first; histograms.

        A word of captions has captions. The filter on a facet itself does not narrow its own counts, so that
        another word can be chosen.
        """
        whole = self._kept.once(("whole", self._tables), partial(self._all, FACETS + MEASURES, _everything))
        chosen = whole
        if not self._filters.is_empty():
            shown = [FIELDS[name] for name in measures]
            facets = [known for known in FACETS if known.name not in self._filters.words]
            chosen = {}
            for name in self._filters.words:
                chosen |= self._all([FIELDS[name]], partial(self._meant, without=name))
            chosen |= self._all([*facets, *shown], self._meant)
        words = {
            known.name: _most(self._words(known, chosen.get(known.name, {})), self._filters, known.name)
            for known in FACETS
        }
        for name, chosen_words in self._filters.words.items():
            coded = self._codings[FIELDS[name].table].words.get(name, ())
            for word in set(chosen_words) - set(coded) if FIELDS[name].kind != FLAG else ():
                words[name] = [(have, n) for have, n in words[name] if have != word]
                words[name].append((word, self._of_word(FIELDS[name], word)))
        drawn = [self._histogram(FIELDS[name], whole, chosen) for name in measures if whole.get(name)]
        return sum(chosen[_ALL].values()), words, drawn

    def _of_word(self, known: Field, word: str) -> int:
        """Rows with a word that has no code of its own."""
        where, values = self._meant(known.name)
        has = f"list_contains({known.sql}, ?)" if known.kind == WORDS else f"{known.sql} = ?"
        rows_of = f"{known.table} JOIN (SELECT key FROM clips WHERE {where}) USING (key) WHERE {has}"
        if known.table == "clips":
            rows_of = f"clips WHERE {where} AND {has}"
        return int(self._rows(f"SELECT count(*) FROM {rows_of}", [*values, word])[0][0])

    def _words(self, known: Field, counts: dict[int, int]) -> _Words:
        """The words that codes stand for."""
        words = self._codings[known.table].words.get(known.name, ())
        words = ("false", "true") if known.kind == FLAG else words
        return [(words[number], count) for number, count in counts.items()]

    def _histogram(self, known: Field, whole: _Counts, chosen: _Counts) -> Histogram:
        low, high = self._codings[known.table].limits[known.name]
        edges = [low + (high - low) * bin_ / BINS for bin_ in range(BINS + 1)]
        of_whole, of_chosen = (
            [found.get(known.name, Counter())[place] for place in range(BINS)] for found in (whole, chosen)
        )
        own = self._filters.ranges.get(known.name, (-math.inf, math.inf))
        return Histogram(known, edges, of_whole, of_chosen, own)

    def _all(self, fields: Sequence[Field], meant: Callable[[], tuple[str, list[Any]]]) -> _Counts:
        """Counts by the code of each field, in one pass over each table."""
        counts: _Counts = {known.name: Counter() for known in fields}
        for table in CODED:
            own = [known for known in fields if known.table == table]
            if table == "clips":
                own += [known for known in fields if known.name in self._coded.profiles]
            elif not self._coded.joined[table]:
                continue
            if own:
                for name, found in self._pass(table, own, *meant()).items():
                    counts.setdefault(name, Counter()).update(found)
        return counts

    def _size(self, table: str, known: Field) -> int:
        """How many codes a field has in a table."""
        own = known.table == table
        return self._codings[table].size(known) if own else len(self._coded.profiles[known.name])

    def _told(self, table: str, known: Field, number: int) -> list[int]:
        """Which bins or words a code of a table tells of, each as often as it does."""
        coding = self._codings[known.table]
        if known.table == table:
            return coding.told(known, number)
        return [bin_ for own in self._coded.profiles[known.name][number] for bin_ in coding.told(known, own)]

    def _pass(self, table: str, fields: Sequence[Field], where: str, values: list[Any]) -> _Counts:
        """Fields are counted together as one number, so many that it stays small: each is a set of groups."""
        sets = _together([(known, self._size(table, known)) for known in fields])
        if table == "clips":
            rows_of = f"clips WHERE {where}"
        else:  # joined, so that the smaller of the two is looked up
            told = " OR ".join(_is_told(known) for known in fields) if table == "latents" else "true"
            rows_of = f"{self._coded.joined[table]} JOIN (SELECT key FROM clips WHERE {where}) USING (key)"
            rows_of += f" WHERE {told}"
        names = [f"s{at}" for at in range(len(sets))]
        numbers = ", ".join(f"{_number(own)} AS {name}" for own, name in zip(sets, names, strict=True))
        rows = self._rows(
            f"SELECT grouping_id({', '.join(names)}), {', '.join(names)}, count(*) "
            f"FROM (SELECT {numbers} FROM {rows_of}) "
            f"GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in names)})",
            values,
        )
        codes: dict[str, Counter[int]] = {known.name: Counter() for known in fields}
        place = {(1 << len(sets)) - 1 - (1 << (len(sets) - 1 - at)): at for at in range(len(sets))}
        for row in rows:
            at = place[row[0]]
            number, count = row[1 + at], row[-1]
            for known, size in sets[at]:
                number, own = divmod(number, size)
                codes[known.name][own] += count
        found: _Counts = {known.name: Counter() for known in fields}
        for known in fields:
            for number, count in codes[known.name].items():
                for place_of in self._told(table, known, number):
                    found[known.name][place_of] += count
        if table == "clips":  # each of them is in every set
            found[_ALL] = Counter({0: sum(row[-1] for row in rows if row[0] == rows[0][0])})
        return found


_ALL = ""
"""Stands for no field: all clips that are meant."""
_CHOSEN = "key IN (SELECT key FROM temp.chosen)"
_MOST_GROUPS = 8192


def _together(fields: Sequence[tuple[Field, int]]) -> list[list[tuple[Field, int]]]:
    """Fields in sets, so that each set has few groups; those of many codes stay alone."""
    found: list[list[tuple[Field, int]]] = []
    groups = _MOST_GROUPS + 1
    for known, size in sorted(fields, key=lambda item: item[1]):
        if groups * size > _MOST_GROUPS:
            found.append([])
            groups = 1
        found[-1].append((known, size))
        groups *= size
    return found


def _number(fields: Sequence[tuple[Field, int]]) -> str:
    """The codes of a set as one number, of which the first field is the last digit."""
    text = code(fields[-1][0])
    for known, size in fields[-2::-1]:
        text = f"({text})::USMALLINT * {size}::USMALLINT + {code(known)}"
    return text


def _is_told(known: Field) -> str:
    nothing = {MEASURE: BINS, FLAG: 2}.get(known.kind, NOTHING)
    return f"{code(known)} <> {nothing}"


def _everything() -> tuple[str, list[Any]]:
    """All clips of the scope."""
    return "true", []


def _most(rows: list[tuple[str, int]], filters: Filters, name: str) -> list[tuple[str, int]]:
    rows = sorted(((word, count) for word, count in rows if word), key=lambda row: (-row[1], row[0]))
    lost = [(word, 0) for word in filters.words.get(name, ()) if word not in dict(rows)]
    beyond = [row for row in rows[MOST_WORDS:] if row[0] in filters.words.get(name, ())]
    return rows[:MOST_WORDS] + beyond + lost


SHOWN_MEASURES = [known.name for known in FIELDS.values() if known.kind == MEASURE][:6] + ["words", "psnr"]
"""Histograms that are made unasked."""
