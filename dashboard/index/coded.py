"""The coded tables of an index file: rows with their codes, clips with what other tables say of them."""

from __future__ import annotations

from typing import Any

import duckdb

from dashboard.index import coding, profiles
from dashboard.index.coding import code, fields_of, literal


def code_all(connection: duckdb.DuckDBPyConnection, source: str, into: str) -> None:
    """Copy the coded tables from one database into another, with their codes and what those mean.

    Args:
        source: has the tables.
        into: has `commits`.
    """
    connection.execute(
        f"CREATE TABLE {into}.codings "
        "(version VARCHAR, name VARCHAR, low DOUBLE, high DOUBLE, words VARCHAR[])"
    )
    profiles.create(connection, into)
    for table in (*profiles.PROFILED, "clips"):
        own = [f"{coding.empty(known)} AS {code(known)}" for known in fields_of(table)]
        own += [f"0::USMALLINT AS {name}" for name in profiles.columns()] * (table == "clips")
        told = ", ".join(own)
        connection.execute(f"CREATE TABLE {into}.{table} AS SELECT *, {told} FROM {source}.{table} LIMIT 0")
        for (version,) in _ask(connection, f"SELECT DISTINCT version FROM {source}.{table} ORDER BY 1"):
            _code(connection, source, into, table, version)


def _code(connection: duckdb.DuckDBPyConnection, source: str, into: str, table: str, version: str) -> None:
    """Copy the rows of one version."""

    def ask(query: str) -> list[tuple[Any, ...]]:
        return _ask(connection, query)

    rows = f"FROM {source}.{table} WHERE version = {literal(version)}"
    known = coding.Coding(coding.limits_in(ask, table, rows)).with_words(coding.words_in(ask, table, rows))
    codes = coding.selected(known, table)
    if table == "clips":
        numbered = profiles.number(connection, into, version, f"SELECT key {rows}")
        names = ", ".join(f"n.{name}" for name in profiles.columns())
        rows = f"FROM {source}.{table} c JOIN {numbered} n USING (key) WHERE version = {literal(version)}"
        connection.execute(f"INSERT INTO {into}.{table} SELECT c.*, {codes}, {names} {rows}")
        connection.execute(f"DROP TABLE {numbered}")
    else:
        connection.execute(f"INSERT INTO {into}.{table} SELECT *, {codes} {rows}")
    for name in known.limits.keys() | known.words.keys():
        low, high = known.limits.get(name, (None, None))
        told = [version, name, low, high, list(known.words.get(name, ()))]
        connection.execute(f"INSERT INTO {into}.codings VALUES (?, ?, ?, ?, ?)", told)


def _ask(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()
