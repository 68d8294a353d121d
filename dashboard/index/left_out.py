"""Which clips a view leaves out, as tables of keys in memory: made once, and anew where something changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import duckdb
import pyarrow as pa

_MOST_PREDICATE_S = 20.0
_MOST = 40
"""Tables that are held: more than anybody has views under their eyes."""


class LeftOut:
    """Tables of the keys of clips that are left out.

    Args:
        root: the connection that holds them.
        lock: held while one is made.
        changes: how often what the index shows has changed.
    """

    def __init__(
        self, root: duckdb.DuckDBPyConnection, lock: threading.RLock, changes: Callable[[], int]
    ) -> None:
        self._root, self._lock, self._changes = root, lock, changes
        self._made: dict[str, int] = {}
        self._beside: dict[str, str] = {}
        """The table of clips that are kept, by that of those that are not."""

    def by(self, clips: str, where: str) -> str:
        """Name of a table with the `key` of each clip that a predicate leaves out; empty where it is none.

        Args:
            clips: a query that gives the clips and begins with the tables that the predicate may speak of.
            where: the predicate.

        Raises:
            duckdb.Error: the predicate cannot be used.
        """
        if where == "true":
            return ""
        return self._keys_of(f"{clips} WHERE NOT coalesce(({where}\n), false)")

    def all_but(self, clips: str, whose: str, kept: Callable[[], pa.Table]) -> str:
        """The same of all clips of a query but those that are kept.

        Args:
            whose: what names them: with another, others may be.
            kept: gives a table with their `clip_id`, which may take a while.
        """
        name = _short(f"{clips} {whose}")
        asked = f"SELECT key FROM ({clips}) ANTI JOIN memory.main.kept_{name} USING (clip_id)"
        known = self._changes()
        if self._made.get(_out(asked)) != known:
            rows = kept()
            with self._lock, self._root.cursor() as cursor:
                cursor.register("given", rows)
                cursor.execute(
                    f"CREATE OR REPLACE TABLE memory.main.kept_{name} AS SELECT clip_id FROM given"
                )
                self._made.pop(_out(asked), None)
                self._beside[_out(asked)] = f"kept_{name}"
        found = self._keys_of(asked)
        if self._changes() != known:  # meanwhile: the next one asks again
            self._made.pop(_out(asked), None)
        return found

    def _keys_of(self, asked: str) -> str:
        """Name of a table with what a query gives."""
        name = _out(asked)
        with self._lock:
            if self._made.get(name) != self._changes():
                with self._root.cursor() as cursor:
                    if len(cursor.extract_statements(asked)) != 1:
                        raise duckdb.ParserException("it is more than one predicate")
                    cursor.execute("USE memory.now")
                    limit = threading.Timer(_MOST_PREDICATE_S, cursor.interrupt)
                    limit.start()
                    try:
                        cursor.execute(f"CREATE OR REPLACE TABLE memory.main.{name} AS {asked}")
                    finally:
                        limit.cancel()
                self._made[name] = self._changes()
                self._forget()
        return f"memory.main.{name}"

    def _forget(self) -> None:
        """Drop the tables that were made longest ago: of views as they were before they were changed."""
        while len(self._made) > _MOST:
            name = next(iter(self._made))
            del self._made[name]
            for table in (name, self._beside.pop(name, "")):
                if table:
                    self._root.execute(f"DROP TABLE IF EXISTS memory.main.{table}")


def _out(asked: str) -> str:
    return f"out_{_short(asked)}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
