"""The filters of a page: all of them in the URL, names from a list, values bound.

`camera=static,zoom_in` is any of the words; `motion=0.3..` at least so much, `motion=..0.5` less than so
much; `q=` words and "phrases" that a caption has, all of them; `sort=-motion` or `sort=random:7`; `after=`
the key of the last row of the page before.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from dashboard.index.fields import FIELDS, FLAG, MEASURE, WORDS, Field
from manifests.errors import UsageError

OTHERS = ("view", "q", "shard", "source", "sort", "after", "side", "outliers", "lasso")
_PHRASE = re.compile(r'"([^"]*)"|(\S+)')
MOST_CORNERS = 64
_FEW = 200
"""Clips of which a two hundredth is none: the outermost ones are the first and the last."""
_ALONE = 2
"""Clips that share a value which is still outermost: what many share is usual."""
_RANDOM = re.compile(r"^random:(\d{1,9})$")


@dataclass(frozen=True)
class Filters:
    """Which clips are meant, and in which order.

    Attributes:
        words: any of these, by field.
        ranges: at least the first, under the second, by field; infinite where open.
        text: what a caption has to have.
        shard, source: exactly this one.
        lasso: corners of a line around places on the map, `x,y;x,y;x,y`, each from 0 to 1.
        sort: a measure, with a minus for falling; `random:<seed>`; empty: as stored.
        after: key of the row before the first.
    """

    view: str = ""
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    text: str = ""
    shard: int | None = None
    source: str = ""
    outliers: str = ""
    lasso: str = ""
    sort: str = ""
    after: str = ""

    @classmethod
    def parse(cls, given: Iterable[tuple[str, str]]) -> Filters:
        """The filters of a URL.

        Raises:
            UsageError: it has a name that is none, or a value that cannot be.
        """
        words, ranges = dict[str, tuple[str, ...]](), dict[str, tuple[float, float]]()
        rest = dict[str, Any]()
        for name, value in given:
            if name in FIELDS and value == "":
                continue  # of a form
            if name not in FIELDS and name not in OTHERS:
                known = ", ".join([*FIELDS, *OTHERS])
                raise UsageError(
                    f"?{name}=", "is nothing that clips can be filtered by", f"There are: {known}."
                )
            if name in FIELDS and FIELDS[name].kind == MEASURE:
                ranges[name] = _range(name, value)
            elif name in FIELDS:
                words[name] = (*words.get(name, ()), *listed(value))
                if FIELDS[name].kind == FLAG and set(words[name]) - {"true", "false"}:
                    raise UsageError(f"?{name}={value}", "is neither true nor false", "Write one of them.")
            else:
                rest[{"q": "text"}.get(name, name)] = value
        return cls(words=words, ranges=ranges, **_checked(rest))

    def is_empty(self) -> bool:
        return replace(self, view="", sort="", after="") == Filters()

    def is_of_clips(self) -> bool:
        """Whether captions and latents need not be asked."""
        return (
            not self.text
            and not self.lasso
            and all(FIELDS[name].table == "clips" for name in (*self.words, *self.ranges))
        )

    def query(self, **changes: Any) -> str:
        """The same filters as the query of a URL, changed: a field's value, or None to leave it out."""
        found: dict[str, Any] = {
            "view": self.view,
            **{name: joined(values) for name, values in self.words.items()},
            **{name: told(*limits) for name, limits in self.ranges.items()},
            "q": self.text,
            "shard": self.shard,
            "source": self.source,
            "outliers": self.outliers,
            "lasso": self.lasso,
            "sort": self.sort,
            "after": self.after,
            **changes,
        }
        return urlencode({name: value for name, value in found.items() if value not in (None, "")})

    def toggled(self, name: str, word: str) -> str:
        """The query in which one word of a field is taken in, or out again."""
        have = self.words.get(name, ())
        now = tuple(value for value in have if value != word) if word in have else (*have, word)
        return self.query(**{name: joined(now), "after": None})

    def where(self, without: str = "", within: str = "true", clips: str = "clips") -> tuple[str, list[Any]]:
        """A predicate over `clips`, and the values that it binds.

        Args:
            without: a field whose own filter is left out.
            within: a predicate on shards, of clips and of all that is known of them.
            clips: among which the outermost are meant.
        """
        parts, values = [within], list[Any]()
        by_table: dict[str, list[str]] = {"captions": [], "latents": []}
        bound: dict[str, list[Any]] = {"captions": [], "latents": []}
        for name in (*self.words, *self.ranges):
            if name == without:
                continue
            known = FIELDS[name]
            sql, own = self._condition(known)
            if known.table == "clips":
                parts.append(sql)
                values += own
            else:
                by_table[known.table].append(sql)
                bound[known.table] += own
        for phrase in phrases(self.text):
            by_table["captions"].append("contains(low, lower(?))")
            bound["captions"].append(phrase)
        for table, conditions in by_table.items():
            if conditions:
                parts.append(f"key IN (SELECT key FROM {table} WHERE {' AND '.join([within, *conditions])})")
                values += bound[table]
        if self.lasso:
            parts.append(f'key IN (SELECT key FROM "map" WHERE {within} AND {inside(corners(self.lasso))})')
        for name, value in (("shard", self.shard), ("source_id", self.source or None)):
            if value is not None:
                parts.append(f"{name} = ?")
                values.append(value)
        if self.outliers:
            sql = FIELDS[self.outliers].sql
            parts.append(
                f"({sql} < (SELECT quantile_disc({sql}, 0.005) FROM {clips}) "
                f"OR {sql} > (SELECT quantile_disc({sql}, 0.995) FROM {clips}) "
                f"OR ({sql} IN (SELECT unnest([min({sql}), max({sql})]) FROM {clips} "
                f"HAVING count({sql}) < {_FEW} AND min({sql}) < max({sql})) "
                f"AND {sql} IN (SELECT {sql} FROM {clips} GROUP BY {sql} HAVING count(*) <= {_ALONE})))"
            )
        return " AND ".join(parts), values

    def _condition(self, known: Field) -> tuple[str, list[Any]]:
        if known.kind == MEASURE:
            low, high = self.ranges[known.name]
            bounds = [(">=", low)] * math.isfinite(low) + [("<", high)] * math.isfinite(high)
            sql = (
                " AND ".join(f"({known.sql}) {sign} ?" for sign, _ in bounds) or f"({known.sql}) IS NOT NULL"
            )
            return sql, [value for _, value in bounds]
        found = list(self.words[known.name])
        marks = ", ".join("?" for _ in found)
        if known.kind == FLAG:
            return f"{known.sql} IN ({marks})", [word == "true" for word in found]
        if known.kind == WORDS:
            return f"list_has_any({known.sql}, ?::VARCHAR[])", [found]
        return f"{known.sql} IN ({marks})", list(found)

    def _keys(self) -> list[tuple[str, str]]:
        """What a row is ordered by, and by which sign later rows differ; of values that are never null."""
        if match := _RANDOM.match(self.sort):
            return [(f"hash(clip_id, {int(match[1])})", ">"), ("clip_id", ">")]
        if not self.sort:
            return [("shard", ">"), ("clip_id", ">")]
        known, sign = FIELDS[self.sort.lstrip("-")], "<" if self.sort.startswith("-") else ">"
        value = known.sql
        if known.table != "clips":
            best = "max" if sign == "<" else "min"
            value = f"(SELECT {best}({known.sql}) FROM {known.table} x WHERE x.key = clips.key)"
        null = "'-infinity'" if sign == "<" else "'infinity'"
        return [(f"coalesce({value}, {null}::DOUBLE)::DOUBLE", sign), ("clip_id", ">")]

    def order(self) -> tuple[str, str, list[Any]]:
        """Key columns for ORDER BY, the same as a predicate for what comes after `after`, and its values.

        The key is made of values that are never null, so that paging leaves nothing out.
        """
        (first, sign), (tie, _) = self._keys()
        falling, by = sign == "<", first
        known = FIELDS.get(self.sort.lstrip("-"))
        if known and known.table == "clips":  # the same order, of which DuckDB keeps the first rows alone
            by = known.sql
        order = f"{by} {'DESC' if falling else 'ASC'} NULLS LAST, {tie} ASC"
        if not self.after:
            return order, "true", []
        low, last = _key(self.after)
        if isinstance(low, str) or (not self.sort and not (isinstance(low, int) and 0 <= low < 2**31)):
            raise UsageError("?after=", "is no key of a row", "Take the link to the next page.")
        return order, f"({first} {sign} ? OR ({first} = ? AND {tie} > ?))", [low, low, last]

    def key_sql(self) -> str:
        """The first part of the key of a row; the second is its clip_id."""
        return self._keys()[0][0]


def key_of(first: Any, clip_id: str) -> str:
    """The key of a row, for `after`."""
    value = str(first) if isinstance(first, float) and not math.isfinite(first) else first
    return json.dumps([value, clip_id], separators=(",", ":"))


def _key(after: str) -> tuple[Any, str]:
    try:
        first, last = json.loads(after)
        last.encode()
        if isinstance(first, bool) or not (first in ("inf", "-inf") or abs(first) < 2**64):
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError("?after=", "is no key of a row", "Take the link to the next page.") from error
    return float(first) if first in ("inf", "-inf") else first, last


def _range(name: str, value: str) -> tuple[float, float]:
    low, dots, high = value.partition("..")
    try:
        found = (float(low) if low else -math.inf), (float(high) if high else math.inf)
        if not dots or any(math.isnan(limit) for limit in found) or "inf" in value.lower():
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"?{name}={value}", "is no range", f"Write it as {name}=0.3..0.5, or 0.3.. ."
        ) from error
    return found


def _checked(rest: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in rest.items() if value != "" and name != "side"}
    if "shard" in rest:
        if not re.fullmatch(r"\d{1,9}", rest["shard"]):
            raise UsageError(f"?shard={rest['shard']}", "is no number", "Give a shard's number.")
        rest["shard"] = int(rest["shard"])
    sort, outliers = rest.get("sort", ""), rest.get("outliers", "")
    if rest.get("lasso"):
        corners(rest["lasso"])
    measures = [known.name for known in FIELDS.values() if known.kind == MEASURE]
    if sort and not _RANDOM.match(sort) and sort.lstrip("-") not in measures:
        raise UsageError(f"?sort={sort}", "is no measure", f"Measures: {', '.join(measures)}; random:1.")
    of_clips = [name for name in measures if FIELDS[name].table == "clips"]
    if outliers and outliers not in of_clips:
        raise UsageError(
            f"?outliers={outliers}", "is no measure of clips", f"Measures: {', '.join(of_clips)}."
        )
    return rest


def corners(lasso: str) -> list[tuple[float, float]]:
    """The corners of a line around places.

    Raises:
        UsageError: it is none.
    """
    try:
        found = [
            (round(float(x), 6), round(float(y), 6))
            for x, y in (corner.split(",") for corner in lasso.split(";"))
        ]
        if not 3 <= len(found) <= MOST_CORNERS or not all(-1 <= v <= 2 for corner in found for v in corner):
            raise ValueError
    except ValueError as error:
        step = f"Write 3 to {MOST_CORNERS} corners as x,y;x,y;x,y, each from 0 to 1."
        raise UsageError(f"?lasso={lasso}", "is no line around places", step) from error
    return found


def inside(line: list[tuple[float, float]]) -> str:
    """A predicate over places: those that a line goes around an odd number of times."""
    crossed = [
        f"(({y0!r} > y) <> ({y1!r} > y) AND x < {(x1 - x0) / (y1 - y0)!r} * (y - {y0!r}) + {x0!r})::TINYINT"
        for (x0, y0), (x1, y1) in zip(line, [*line[1:], line[0]], strict=True)
        if y0 != y1
    ]
    (left, low), (right, high) = (
        tuple(fold(values) for values in zip(*line, strict=True)) for fold in (min, max)
    )
    box = f"x BETWEEN {left!r} AND {right!r} AND y BETWEEN {low!r} AND {high!r}"
    return f"{box} AND ({' + '.join(crossed) or '0'}) % 2 = 1"


def joined(words: Iterable[str]) -> str:
    """Words as one value of a URL, with commas between; one that has commas itself has them spelt."""
    return ",".join(word.replace("%", "%25").replace(",", "%2C") for word in words)


def listed(value: str) -> list[str]:
    """The words of such a value."""
    return [word.replace("%2C", ",").replace("%25", "%") for word in value.split(",")]


def phrases(text: str) -> list[str]:
    """Words, and phrases in quotes, that a search asks for."""
    # one quote alone says nothing
    found = [quoted or word.strip('"') for quoted, word in _PHRASE.findall(text)]
    return [words for words in found if words.strip()]


def told(low: float, high: float) -> str:
    """A range as it is written in a URL."""
    return "..".join(repr(limit).removesuffix(".0") if math.isfinite(limit) else "" for limit in (low, high))
