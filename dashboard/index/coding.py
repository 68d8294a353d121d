"""Fields as small numbers: what makes counting a million clips by every field a matter of milliseconds.

The index keeps a byte for each field that can be counted by: the place of its word among the words of the
field, or the bin of its measure (`c_camera`, `c_motion`); of a list of words a bit for each. What a number
means is the coding of a column version. What is not in the index's file yet is coded as it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dashboard.index.fields import FIELDS, FLAG, MEASURE, WORDS, Field

BINS = 24
MOST_WORDS, MOST_BITS = 64, 32
"""Of a field, and of a field of lists; of more the most frequent."""
NOTHING, OTHER = 0, 1
"""Codes of a field of words where none is told, and of words without a code; those that have one follow."""
CODED = ("clips", "captions", "latents")
Limits = tuple[float, float]


@dataclass(frozen=True)
class Coding:
    """What the codes of one column version mean.

    Attributes:
        limits: where the bins of each measure begin and end; of a measure that nothing has, none.
        words: of each field of words, by their codes.
    """

    limits: dict[str, Limits] = field(default_factory=dict)
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def sql(self, known: Field) -> str:
        """The code of a field, from its own value."""
        if known.kind == MEASURE:
            return _bin(known.sql, self.limits.get(known.name))
        if known.kind == FLAG:
            return f"coalesce(({known.sql})::UTINYINT, 2)::UTINYINT"
        words = self.words.get(known.name, ())
        if known.kind == WORDS:
            bits = [
                f"list_contains({known.sql}, {literal(word)})::BIGINT * {1 << at}"
                for at, word in enumerate(words)
            ]
            return f"coalesce({' + '.join(bits) or '0'}, 0)::UINTEGER"
        cases = "".join(
            f" WHEN {literal(word)} THEN {number}" for number, word in enumerate(words, OTHER + 1)
        )
        return f"(CASE coalesce({known.sql}, '') WHEN '' THEN {NOTHING}{cases} ELSE {OTHER} END)::UTINYINT"

    def size(self, known: Field) -> int:
        """How many codes a field has, that of nothing included."""
        if known.kind == FLAG:
            return 3
        if known.kind == WORDS:
            return 1 << MOST_BITS
        return BINS + 1 if known.kind == MEASURE else OTHER + 1 + len(self.words.get(known.name, ()))

    def told(self, known: Field, number: int) -> list[int]:
        """Which bins or words a code tells of, by their places."""
        if known.kind == WORDS:
            return [bit for bit in range(number.bit_length()) if number >> bit & 1]
        if known.kind == FLAG:
            return [number] * (number < 2)
        return [number] * (number < BINS) if known.kind == MEASURE else [number - 2] * (number > OTHER)

    def with_words(self, new: dict[str, list[str]]) -> Coding:
        """The same, with words that it does not know yet after those that it does."""
        words = dict(self.words)
        for name, found in new.items():
            most = MOST_BITS if FIELDS[name].kind == WORDS else MOST_WORDS
            have = words.get(name, ())
            words[name] = (*have, *[word for word in found if word not in have])[:most]
        return Coding(self.limits, words)


def fields_of(table: str) -> list[Field]:
    """Of a table, all that clips can be counted by."""
    return [known for known in FIELDS.values() if known.table == table]


def code(known: Field) -> str:
    """The name of a field's code."""
    return f"c_{known.name}"


def selected(coding: Coding, table: str) -> str:
    """Every code of a table, as what a SELECT lists."""
    return ", ".join(f"{coding.sql(known)} AS {code(known)}" for known in fields_of(table))


def literal(value: str) -> str:
    """Text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def _bin(value: str, limits: Limits | None) -> str:
    if limits is None:
        return f"{BINS}::UTINYINT"
    low, high = limits
    scaled = f"((({value})::DOUBLE - {low!r}::DOUBLE) * {BINS / (high - low)!r}::DOUBLE)"
    place = f"(CASE WHEN ({value}) IS NOT NULL THEN greatest(0, least({BINS - 1}, floor({scaled}))) END)"
    return f"coalesce({place}, {BINS})::UTINYINT"


Ask = Callable[[str], list[tuple[Any, ...]]]


def words_in(ask: Ask, table: str, rows: str) -> dict[str, list[str]]:
    """The words of each field of a table, the most frequent first.

    Args:
        ask: answers a query.
        rows: the rows that are meant, as a FROM clause with its predicate.
    """
    found = {}
    for known in fields_of(table):
        if known.kind in (MEASURE, FLAG):
            continue
        word = f"unnest({known.sql})" if known.kind == WORDS else known.sql
        most = MOST_BITS if known.kind == WORDS else MOST_WORDS
        asked = f"SELECT word FROM (SELECT {word} AS word {rows}) WHERE word <> '' GROUP BY 1"
        found[known.name] = [row[0] for row in ask(f"{asked} ORDER BY count(*) DESC, word LIMIT {most}")]
    return found


_LEAST_SPAN = 1e-9
"""Of a measure, in parts of its size: what is nearer is one value, up to the last bits of an estimate."""


def limits_in(ask: Ask, table: str, rows: str) -> dict[str, Limits]:
    """Where the bins of each measure begin and end: 0.5 and 99.5 % of the rows, approximately."""
    fields = [known for known in fields_of(table) if known.kind == MEASURE]
    asked = ", ".join(
        f"approx_quantile(({known.sql})::DOUBLE, [0.005, 0.995]), min({known.sql}), max({known.sql})"
        for known in fields
    )
    (row,) = ask(f"SELECT {asked} {rows}")
    found = {}
    for at, known in enumerate(fields):
        spread, least, most = row[3 * at : 3 * at + 3]
        if not spread or least is None:
            continue
        low, high = float(spread[0]), float(spread[1])
        if high <= low:
            low, high = float(least), float(most)
        if not math.isfinite(high - low):
            continue
        is_wide = high - low > _LEAST_SPAN * max(1.0, abs(low), abs(high))
        found[known.name] = (low, high if is_wide else low + max(1.0, abs(low)))
    return found


def empty(known: Field) -> str:
    """A code of the type that the field's codes have."""
    return "0::UINTEGER" if known.kind == WORDS else "0::UTINYINT"


def read(rows: Sequence[tuple[Any, ...]]) -> Coding:
    """A coding from its rows: name, low, high, words."""
    limits = {name: (low, high) for name, low, high, _ in rows if low is not None}
    return Coding(limits, {name: tuple(words) for name, low, _, words in rows if low is None})
