"""SQL that chooses: one expression that gives the same answer each time, and what it speaks of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from manifests.errors import UsageError

_OF_THE_MOMENT = re.compile(r"\b(current_(date|time|timestamp)|localtime(stamp)?)\b", re.IGNORECASE)
_OF_SOME_ROW = {
    "any_value",
    "arbitrary",
    "first",
    "last",
    "row_number",
    "first_value",
    "last_value",
    "nth_value",
}
"""Functions whose answer is of the row that happens to come first, unless it is said which does."""
_LITERALS = re.compile(r"'(?:[^']|'')*'")
_HIDING = {"query", "query_table", "json_execute_serialized_sql"}
"""Functions of DuckDB that run the text they are given."""


def check_settled(query: str, whose: str) -> None:
    """Refuse a query that gives another answer each time: a run on what it chose could not be resumed.

    Raises:
        UsageError: it asks for chance or for the time.
    """
    import duckdb

    with duckdb.connect(":memory:") as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    called, unsettled = _called(_parsed(query))
    found = sorted(called & {name for [name] in rows} - {"error"})
    found += [match.group().lower() for match in _OF_THE_MOMENT.finditer(_LITERALS.sub("", query))]
    found += sorted(unsettled)
    if hidden := sorted(called & _HIDING):
        raise UsageError(
            whose, f"asks in a text ({', '.join(hidden)}), which cannot be checked", "Write it out."
        )
    if found:
        raise UsageError(
            whose,
            f"gives another answer each time ({', '.join(found)})",
            "Choose by what is stored, as with hash(clip_id) % 100 < 10.",
        )


def _called(tree: Any) -> tuple[set[str], set[str]]:
    """Names of the functions in a parsed query, and what in it takes some rows without saying which."""
    names, unsettled = set[str](), set[str]()
    for node in _nodes(tree):
        name = str(node.get("function_name", "")).lower()
        names.add(name)
        if node.get("sample"):
            unsettled.add("SAMPLE")
        unsettled |= {f"{what} without ORDER BY" for what in _some_of_many(name, node)}
    return names, unsettled


def _some_of_many(name: str, node: Mapping[str, Any]) -> Iterator[str]:
    """What a node of a parsed query does that depends on the order in which rows happen to come."""
    changes = {change.get("type"): change for change in node.get("modifiers") or ()}
    if "ORDER_MODIFIER" not in changes:
        if "LIMIT_MODIFIER" in changes:
            yield "LIMIT"
        if changes.get("DISTINCT_MODIFIER", {}).get("distinct_on_targets"):
            yield "DISTINCT ON"
    ordered = node.get("orders") or (node.get("order_bys") or {}).get("orders")
    if name in _OF_SOME_ROW and not ordered:
        yield name


def check_predicate(where: str, whose: str) -> None:
    """Refuse a predicate that is not one expression, such as one whose brackets end what it stands in.

    Raises:
        UsageError: it is none, or several, or cannot be read.
    """
    import duckdb

    check_settled(f"SELECT 1 WHERE ({where}\n)", f"{whose} {where!r}")
    try:
        duckdb.SQLExpression(where)
    except duckdb.Error as error:
        raise UsageError(
            f"{whose} {where!r}",
            f"is not one SQL expression ({' '.join(str(error).split())[:200]})",
            "Write what must hold of a row, such as: width_px > 256 AND camera = 'static'.",
        ) from error


class Named(NamedTuple):
    """What a query speaks of, in small letters.

    Attributes:
        tables: that it reads.
        fields: names of columns, without those of their tables; `*` where it means all of them.
    """

    tables: frozenset[str]
    fields: frozenset[str]


def named(query: str) -> Named:
    """Tables and columns that a query names; nothing where it cannot be read."""
    tables, fields = set[str](), set[str]()
    for node in _nodes(_parsed(query)):
        if node.get("type") == "BASE_TABLE":
            tables.add(str(node.get("table_name", "")).lower())
        elif node.get("class") == "COLUMN_REF":
            fields.add(str((node.get("column_names") or [""])[-1]).lower())
        elif node.get("class") == "STAR":
            fields.add("*")
    return Named(frozenset(tables), frozenset(fields))


def _parsed(query: str) -> Any:
    """A query as DuckDB's parser has it, in JSON."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        [said] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone() or ("{}",)
    return json.loads(said)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in parsed JSON."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            yield node
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
