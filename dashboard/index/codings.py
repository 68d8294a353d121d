"""The codes of an index's rows, with those of what came since its file was built; made once a change."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import duckdb

from dashboard.index import coding, profiles, tables

_KEPT = 4
"""Tables of codes of one column version: who counts by an older one goes on with it."""


class Codings:
    """Of one opened file and the rows in memory beside it.

    Args:
        root: the connection.
        has_base: whether there is a file.
        masked: a predicate that leaves out rows of a table of the file that were taken back.
        lock: of the index.
    """

    def __init__(
        self,
        root: duckdb.DuckDBPyConnection,
        has_base: bool,
        masked: Callable[[str, str], str],
        lock: threading.RLock,
    ) -> None:
        self._root, self._has_base, self._masked, self._lock = root, has_base, masked, lock
        self._held: dict[tuple[str, str], tuple[int, coding.Coding, str, str]] = {}
        self._profiles: dict[tuple[str, str, str], profiles.Profiles | None] = {}
        self._tables: dict[tuple[str, str], list[str]] = {}

    def profiles(self, clips: str, table: str, version: str) -> profiles.Profiles | None:
        """What the file's clips of a version know of a table's version; None where they know nothing."""
        with self._lock:
            held = self._profiles
            if self._has_base and (clips, table, version) not in held:
                with self._root.cursor() as cursor:
                    held[clips, table, version] = profiles.read(cursor, clips, table, version)
            return held.get((clips, table, version))

    def of(self, table: str, version: str, changes: int, has_delta: bool) -> tuple[coding.Coding, str, str]:
        """See `Index.coded`.

        Args:
            changes: how often something has come or gone.
            has_delta: whether there are rows in memory.
        """
        with self._lock:
            held = self._held.get((table, version))
            if held is None or held[0] != changes:
                with self._root.cursor() as cursor:
                    found = self._make(cursor, table, version, changes, has_delta)
                held = self._held[table, version] = (changes, *found)
            return held[1:]

    def _make(
        self, cursor: duckdb.DuckDBPyConnection, table: str, version: str, changes: int, has_delta: bool
    ) -> tuple[coding.Coding, str, str]:
        def ask(query: str) -> list[tuple[Any, ...]]:
            return cursor.execute(query).fetchall()

        names = ", ".join(f'"{field}"' for field, _ in tables.fields(table))
        rows = f"FROM memory.main.{table} WHERE version = {coding.literal(version)}"
        known = coding.Coding()
        if self._has_base:
            of_version = f"WHERE version = {coding.literal(version)}"
            known = coding.read(ask(f"SELECT name, low, high, words FROM base.codings {of_version}"))
        known = coding.Coding(coding.limits_in(ask, table, rows) | known.limits, known.words)
        known = known.with_words(coding.words_in(ask, table, rows))
        name = f"coded_{hashlib.sha256(f'{table} {version}'.encode()).hexdigest()[:12]}"
        fresh = f"memory.main.{name}_{changes}"  # of its own: who counts by an older one goes on with it
        ask(f"CREATE OR REPLACE TABLE {fresh} AS SELECT {names}, {coding.selected(known, table)} {rows}")
        made = self._tables.setdefault((table, version), [])
        made.append(fresh)
        while len(made) > _KEPT:
            ask(f"DROP TABLE {made.pop(0)}")
        names += "".join(f", {coding.code(one)}" for one in coding.fields_of(table))
        more = profiles.columns() if table == "clips" else []
        text = since = f"SELECT {names}{''.join(f', 0::USMALLINT AS {name}' for name in more)} FROM {fresh}"
        if self._has_base:
            names += "".join(f", {name}" for name in more)
            base = f"SELECT {names} FROM base.{table} {of_version}{self._masked(table, 'AND')}"
            text = f"{base} UNION ALL {since}" if has_delta else base
        return known, text, since if has_delta or not self._has_base else ""
