"""What captions and latents say, as small numbers in the rows of their clips: counting needs no join then.

For each field of those tables a clip has the number of a profile: which codes (`coding.py`) its rows have
there, each as often as it is there. There are few profiles: the words of two captions in 24 bins make some
hundreds. Rows that came after the file was built have none yet; they are joined, as there are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from dashboard.index.coding import code, fields_of, literal

PROFILED = ("captions", "latents")
MOST = 65_535
"""Profiles of a field; a table that has more is joined."""
Codes = tuple[int, ...]


@dataclass(frozen=True)
class Profiles:
    """The profiles of the fields of one version of a table, as one version of clips has them.

    Attributes:
        codes: by field, those of each profile; the first is that of clips without a row.
    """

    codes: dict[str, list[Codes]]


def create(connection: duckdb.DuckDBPyConnection, into: str) -> None:
    """Make the table of profiles, empty."""
    connection.execute(
        f"CREATE TABLE {into}.profiles "
        "(clips VARCHAR, version VARCHAR, name VARCHAR, number USMALLINT, codes UINTEGER[])"
    )


def columns() -> list[str]:
    """Of the profiles' numbers, in the rows of clips."""
    return [code(known) for table in PROFILED for known in fields_of(table)]


def read(connection: duckdb.DuckDBPyConnection, clips: str, table: str, version: str) -> Profiles | None:
    """The profiles of a version of a table in the clips of a version; None where they are not of it."""
    rows = connection.execute(
        "SELECT name, number, codes FROM base.profiles WHERE clips = ? AND version = ? ORDER BY name, number",
        [clips, version],
    ).fetchall()
    found: dict[str, list[Codes]] = {known.name: [()] for known in fields_of(table)}
    for name, _, codes in rows:
        found[name].append(tuple(codes))
    return Profiles(found) if rows else None


def number(connection: duckdb.DuckDBPyConnection, into: str, clips: str, keys: str) -> str:
    """Number the profiles of the newest version of each table.

    Args:
        into: the database with the coded tables.
        clips: a version of clips.
        keys: a query for the `key` of each of its clips.

    Returns:
        Name of a temporary table with the `key` of a clip and its numbers; clips without rows are not in it.
    """
    connection.execute(f"CREATE OR REPLACE TEMP TABLE numbered AS SELECT DISTINCT key FROM ({keys})")
    for table in PROFILED:
        names = [code(known) for known in fields_of(table)]
        version = _newest(connection, into, table)
        lists = ", ".join(f"list_sort(list({name}::UINTEGER)) AS {name}" for name in names)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE listed AS SELECT key, {lists} FROM {into}.{table} "
            f"WHERE version = {literal(version)} GROUP BY key"
        )
        for name in names:
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE of_{name} AS "
                f"SELECT {name} AS codes, row_number() OVER (ORDER BY count(*) DESC, {name}) AS number "
                f"FROM listed GROUP BY 1"
            )
        is_of_them = all(
            connection.execute(f"SELECT count(*) FROM of_{name}").fetchall()[0][0] <= MOST for name in names
        )
        strays = connection.execute("SELECT count(*) FROM listed ANTI JOIN numbered USING (key)").fetchall()
        if strays[0][0] or not is_of_them:  # they would not be counted
            connection.execute("DELETE FROM listed")
            names_of = dict.fromkeys(names, "0")
        else:
            names_of = {name: f"coalesce(of_{name}.number, 0)" for name in names}
            for known in fields_of(table):
                connection.execute(
                    f"INSERT INTO {into}.profiles SELECT ?, ?, ?, number, codes FROM of_{code(known)}",
                    [clips, version, known.name],
                )
        told = ", ".join(f"{value}::USMALLINT AS {name}" for name, value in names_of.items())
        joins = " ".join(f"LEFT JOIN of_{name} ON of_{name}.codes = listed.{name}" for name in names)
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE more AS "
            f"SELECT numbered.*, {told} FROM numbered LEFT JOIN listed USING (key) {joins}"
        )
        connection.execute("DROP TABLE numbered")
        connection.execute("ALTER TABLE more RENAME TO numbered")
        for name in ("listed", *(f"of_{name}" for name in names)):
            connection.execute(f"DROP TABLE {name}")
    return "numbered"


def _newest(connection: duckdb.DuckDBPyConnection, into: str, table: str) -> str:
    """The version of a table that was written last; empty where there is none."""
    rows = connection.execute(
        f"SELECT version FROM commits WHERE version IN (SELECT DISTINCT version FROM {into}.{table}) "
        "ORDER BY split_part(stamp, '-', 2)::BIGINT DESC, version LIMIT 1"
    ).fetchall()
    return rows[0][0] if rows else ""
