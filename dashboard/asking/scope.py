"""The scope of a question: a view, or the newest version of each column. Versions are never added up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa

from dashboard.index.coding import CODED, Coding, literal
from dashboard.index.index import Index
from dashboard.index.profiles import PROFILED, Codes
from dashboard.index.tables import LEFT_OUT
from manifests.errors import RushesError, UsageError
from manifests.layout import Column
from manifests.schemas import TABLES
from manifests.sql.predicates import check_predicate, named
from manifests.sql.queries import OF_SOURCES, speaks_of_licences, with_licences
from manifests.store import storage
from manifests.views import View
from manifests.writing.removing import pending

NEWEST = "newest"
_MADE_BY = {"duplicates": "dedup", "captions": "caption", "latents": "latent", "scores": "score"}
_MADE_BY |= {"verdicts": "verdict", "map": "map", "clips": "preview"}
"""The column that writes each table; clips come last, as the predicate of a view may speak of the others."""
_KEPT_S, _KEPT_REMOTE_S = 2.0, 20.0


@dataclass(frozen=True)
class Coded:
    """The rows of a scope as codes.

    Attributes:
        codings: by table.
        profiles: by field, those which clips have a number of.
        joined: of each table that is not clips, the rows that clips have no number of: a table or a query in
            brackets; empty: they have one of each.
        tables: `WITH` and the tables of the scope, with the codes of their rows.
    """

    codings: dict[str, Coding]
    profiles: dict[str, list[Codes]]
    joined: dict[str, str]
    tables: str


@dataclass(frozen=True)
class Scope:
    """Versions by the name of their column, and which clips of them are left out.

    Attributes:
        name: of the view, or `newest`.
        out: table with the keys of the clips that the view's predicate leaves out; empty: all are meant.
        problem: why a view cannot be used; then nothing is in it.
        where: the view's predicate.
    """

    name: str
    columns: dict[str, str] = field(default_factory=dict)
    out: str = ""
    problem: str = ""
    where: str = ""

    def __hash__(self) -> int:
        return hash((self.name, self.out, self.problem, *self.columns.values()))

    @property
    def tables(self) -> str:
        """`WITH` and the tables of this scope; what follows is a query over them."""
        return self._with({table: self._of(table) for table in _MADE_BY})

    @property
    def clips(self) -> str:
        """A query for the clips of its version, whatever its predicate says."""
        return self._of("clips")

    def coded(self, index: Index) -> Coded:
        """What is counted by."""
        found = {table: index.coded(table, self._version(table)) for table in CODED}
        known = {
            table: index.profiles(self._version("clips"), table, self._version(table)) for table in PROFILED
        }
        rows = {table: found[table][1] if table in found else self._of(table) for table in _MADE_BY}
        since = {table: f"({found[table][2]})" if found[table][2] else "" for table in PROFILED}
        joined = {table: since[table] if known[table] else table for table in PROFILED}
        return Coded(
            {table: coding for table, (coding, _, _) in found.items()},
            {name: codes for own in known.values() if own for name, codes in own.codes.items()},
            joined,
            self._with(rows),
        )

    def _with(self, rows: dict[str, str]) -> str:
        found = [f"{table} AS ({text})" for table, text in rows.items() if table != "clips"]
        left_out = f" ANTI JOIN {self.out} USING (key)" if self.out else ""
        none = " WHERE false" if self.problem else ""
        found.append(f"clips AS (SELECT * FROM ({rows['clips']}){left_out}{none})")
        of = ", ".join(f"'{version}'" for version in ("plan", *self.columns.values()))
        for table in ("drops", "failures", "members", "shards"):
            found.append(f"{table} AS (SELECT * FROM memory.now.{table} WHERE version IN ({of}))")
        return f"WITH {', '.join(found)} "

    def _version(self, table: str) -> str:
        return self.columns.get(_MADE_BY[table], "")

    def _of(self, table: str) -> str:
        return f"SELECT * FROM memory.now.{table} WHERE version = '{self._version(table)}'"

    def leaving_out(self, index: Index, where: str) -> Scope:
        """The same without the clips that a predicate does not keep.

        Raises:
            duckdb.Error: the predicate cannot be used.
        """
        others = ", ".join(f"{table} AS ({self._of(table)})" for table in _MADE_BY if table != "clips")
        clips = self._of("clips")
        if speaks_of_licences(where):
            clips = with_licences(clips, "memory.now.sources")
        query = f"WITH {others}, clips AS ({clips}) SELECT key FROM clips"
        return replace(self, out=index.left_out.by(query, where))


class Scopes:
    """The views of a dataset, looked up anew every few seconds."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._kept_s = _KEPT_S if storage.is_local(index.dataset.filesystem) else _KEPT_REMOTE_S
        self._names: list[str] = []
        self._found: dict[str, Scope] = {}
        self._views: dict[str, tuple[View, list[str]]] = {}
        self._looked_at_s, self._changes = -1e9, -1

    def names(self) -> list[str]:
        """Of all views, `default` first, and `newest`."""
        self._look()
        return self._names

    def named(self, name: str) -> Scope:
        """The scope of a name; the default view where none is given and there is one.

        Raises:
            UsageError: there is no such view.
        """
        self._look()
        self._index.refresh()
        name = name or self._names[0]
        if name not in self._names:
            raise UsageError(f"view={name}", "is not a view here", f"Views: {', '.join(self._names)}.")
        if self._changes != self._index.changes:
            self._changes, self._found = self._index.changes, {}
        held = self._found  # another thread may begin anew
        if name not in held:
            found = self._newest() if name == NEWEST else self._of_view(name)
            if name == NEWEST or found.columns:  # one that cannot be read is looked at again
                held[name] = found
            return found
        return held[name]

    def _look(self) -> None:
        if time.monotonic() - self._looked_at_s < self._kept_s:
            return
        self._looked_at_s = time.monotonic()
        try:
            found = self._index.store.ask(lambda: View.names(self._index.dataset), "views")
            names = sorted(found, key=lambda name: (name != "default", name))
        except OSError:  # of a store that does not answer now: what was known is shown
            self._names = self._names or [NEWEST]
            return
        self._names, self._found = [*names, NEWEST], {}

    def _of_view(self, name: str) -> Scope:
        try:
            view, gone = self._known(name)
        except (RushesError, OSError) as error:
            return Scope(name, problem=str(error))
        versions = {key: str(column) for key, column in view.columns.items()}
        try:
            check_predicate(view.where, "the predicate")
            scope = Scope(name, versions, where=view.where)
            if _is_of_index(view.where):
                return scope.leaving_out(self._index, _with_takedowns(view.where, gone))
            index, whose = self._index, f"{view.digest} {gone}"

            def kept() -> pa.Table:
                return index.store.ask(lambda: view.clips(index.dataset, ["clip_id"]), f"clips of {whose}")

            return replace(scope, out=index.left_out.all_but(scope.clips, whose, kept))
        except UsageError as error:
            return Scope(name, versions, problem=f"its predicate cannot be used: {error.cause}")
        except (RushesError, OSError) as error:
            return Scope(name, versions, problem=f"its clips cannot be read: {error}")
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            return Scope(name, versions, problem=f"its predicate cannot be used: {first}")

    def _known(self, name: str) -> tuple[View, list[str]]:
        """A view as it is, or as it was known while the store is away."""
        try:
            self._views[name] = self._index.store.ask(lambda: self._loaded(name), f"view {name}")
        except FileNotFoundError:
            raise
        except OSError:
            if name not in self._views:
                raise
        return self._views[name]

    def _loaded(self, name: str) -> tuple[View, list[str]]:
        """A view, and the sources of a takedown that goes on."""
        return View.load(self._index.dataset, name), sorted(pending(self._index.dataset))

    def _newest(self) -> Scope:
        rows = self._index.rows(
            "SELECT version, max(split_part(stamp, '-', 2)::BIGINT) AS made FROM commits "
            "WHERE version <> 'plan' GROUP BY 1 ORDER BY made"
        )
        return Scope(NEWEST, {Column.parse(row["version"]).name: row["version"] for row in rows})


def _is_of_index(where: str) -> bool:
    """Whether a predicate means the same over the index as over the dataset's own tables.

    The index has columns of its own and lacks some, and other tables of it are of all versions.
    """
    said = named(f"SELECT 1 FROM clips WHERE ({where}\n)")
    if "clips" not in said.tables or not said.tables <= _MADE_BY.keys():  # or it is not known what it names
        return False
    lacking = {field for table in said.tables for field in LEFT_OUT.get(table, ())}
    stored = {field for table in said.tables for field, _, _ in TABLES[table]} | set(OF_SOURCES)
    return said.fields <= stored - lacking


def _with_takedowns(where: str, gone: list[str]) -> str:
    """The predicate of a view, without sources that are taken down."""
    names = ", ".join(map(literal, gone))
    return f"({where}\n) AND source_id NOT IN ({names})" if names else where
