"""An index that follows its dataset: a file built by a child, and in memory what came since."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dashboard.index import coding, profiles, tables
from dashboard.index.builder import Builder
from dashboard.index.codings import Codings
from dashboard.index.commits import Commit, Commits
from dashboard.index.left_out import LeftOut
from dashboard.index.patience import AwayError, Patience
from manifests.cli import say
from manifests.layout import Dataset
from manifests.store import storage

FEW_COMMITS, FEW_SHARE = 256, 0.05
"""So many commits, or such a share of what is indexed, are taken into memory; more are built."""
MOST_QUERIES = 4
_ROWS_AT_ONCE = 10_000
_LEAST_MB, _MB_A_MILLION = 50, 15
_LOCAL_EVERY_S, _REMOTE_EVERY_S = 1.0, 20.0


_NUMBERS = itertools.count()


class BusyError(Exception):
    """More is asked at once than is answered."""


class Index:
    """Answers SQL over a dataset's tables.

    Args:
        folder: for its file; `$XDG_CACHE_HOME/rushes/<hash of the address>` where it is not given. Never the
            dataset.
    """

    def __init__(self, dataset: Dataset, folder: Path | None = None) -> None:
        self.dataset, self._commits = dataset, Commits(dataset)
        self.folder = folder or _folder_for(dataset.address)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "index.duckdb"
        self._every_s = _LOCAL_EVERY_S if storage.is_local(dataset.filesystem) else _REMOTE_EVERY_S
        self._slots = threading.Semaphore(MOST_QUERIES)
        self._lock = threading.RLock()
        self._cursors = list[duckdb.DuckDBPyConnection]()
        self._is_closed = False
        self._looked_at_s = -1e9
        self.changes = 0
        """How often something has come or gone."""
        self.opened = 0
        """How often a file was opened: what is known of another is not of this one."""
        self._builder = Builder(dataset.address, self.path)
        self.store = Patience(dataset)
        self._held = list[Path]()
        """Names of our own for the files that were opened: the builder replaces what the other name means."""
        self._open()

    def _open(self) -> None:
        """Begin with what the file holds."""
        while self._cursors:
            self._cursors.pop().close()
        self.opened += 1
        self._root = duckdb.connect(":memory:")
        self._tars: tuple[int, dict[str, dict[int, str]]] = (-1, {})
        self._root.execute("SET threads = 2")
        self._root.execute("SET preserve_insertion_order = false")
        tables.create(self._root)
        self._root.execute("CREATE SCHEMA now")
        self._root.execute("CREATE TABLE gone (version VARCHAR, number INTEGER)")
        self._taken: set[Commit] | None = None
        """All commits, where what the file has and what is in memory is just these."""
        self._base: set[Commit] = set()
        self._delta: set[Commit] = set()
        self._gone: set[Commit] = set()
        self._has_base = self.path.exists()
        if self._has_base:
            try:
                self._held.append(self._link())
                self._root.execute(f"ATTACH '{_quoted(self._held[-1])}' AS base (READ_ONLY)")
                self._base = self._commits_in("base.commits")
                self._root.execute("SELECT version FROM base.profiles LIMIT 0")  # an older one has none
                self._make_views()
            except duckdb.Error:  # damaged, or of another version of DuckDB or of ours: it is disposable
                self._root.close()
                self.path.unlink(missing_ok=True)
                self._open()
                return
        else:
            self._make_views()
        self.left_out = LeftOut(self._root, self._lock, lambda: self.changes)
        self._codings = Codings(self._root, self._has_base, self._masked, self._lock)
        spill = self.folder / f"spill-{os.getpid()}"
        self._root.execute(f"SET temp_directory = '{_quoted(spill)}'")
        self._root.execute(f"SET memory_limit = '{self._memory_mb()}MB'")
        self._root.execute("SET enable_external_access = false")
        self._root.execute("SET lock_configuration = true")

    def _link(self) -> Path:
        """Another name for the file as it is now; those of before the last go."""
        for path in self._held[:-1]:
            if path != self.path:
                path.unlink(missing_ok=True)
        name = self.path.with_name(f"held-{os.getpid()}-{next(_NUMBERS)}.duckdb")
        try:
            name.hardlink_to(self.path)
        except OSError:  # of a file system without such names
            return self.path
        return name

    def _memory_mb(self) -> int:
        """What its queries may take: some for every million clips."""
        if not self._has_base:
            return _LEAST_MB
        asked = (
            "SELECT estimated_size FROM duckdb_tables() WHERE database_name = 'base' AND table_name = 'clips'"
        )
        (found,) = self._root.execute(asked).fetchall()
        return _LEAST_MB + int(found[0] / 1e6 * _MB_A_MILLION)

    def _commits_in(self, name: str) -> set[Commit]:
        return {
            Commit(*row)
            for row in self._root.execute(f"SELECT version, number, stamp FROM {name}").fetchall()
        }

    def _make_views(self) -> None:
        for name in tables.NAMES:
            self._root.execute(f"CREATE OR REPLACE VIEW now.{name} AS {self._view(name, '')}")

    def _view(self, name: str, prefix: str) -> str:
        """A table as it is now: what the file has, without what was taken back, and what is in memory.

        Args:
            prefix: of the tables in memory.
        """
        names = ", ".join(f'"{field}"' for field, _ in tables.fields(name))
        text = f"SELECT {names} FROM memory.main.{prefix}{name}"
        if not self._has_base:
            return text
        base = f"SELECT {names} FROM base.{name}{self._masked(name, 'WHERE', prefix)}"
        return f"{base} UNION ALL {text}" if self._delta else base

    def profiles(self, clips: str, table: str, version: str) -> profiles.Profiles | None:
        """What the file's clips of a version know of a table's version; None: it has to be joined."""
        with self._lock:
            if self._gone:  # a clip may have come anew, and what is said of it not
                return None
            return self._codings.profiles(clips, table, version)

    def coded(self, table: str, version: str) -> tuple[coding.Coding, str, str]:
        """The coding of a column version, and a query for its rows of a table with their codes.

        Made once, and anew where something has come or gone.

        Returns:
            The coding; a query for all rows; one for those that came since the file was built, or nothing.
        """
        with self._lock:
            return self._codings.of(table, version, self.changes, bool(self._delta))

    def _masked(self, name: str, word: str, prefix: str = "") -> str:
        """A predicate that leaves out rows of the file that were taken back, after WHERE or AND."""
        if not self._gone:
            return ""
        keys = "'plan', generation" if name == "segments" else f'version, "{tables.number_of(name)}"'
        return f" {word} ({keys}) NOT IN (SELECT (version, number) FROM memory.main.{prefix}gone)"

    def tar_of(self, version: str, shard: int) -> str:
        """Path in the dataset of a shard's tar; empty where it has none."""
        with self._lock:
            if self._tars[0] != self.changes:
                self._tars = (self.changes, {})
            held = self._tars[1]
        if version not in held:
            asked = "SELECT shard, tar FROM shards WHERE version = ? AND tar IS NOT NULL"
            held[version] = dict(self.tuples(asked, [version]))
        return held[version].get(shard, "")

    def committed_ns(self, version: str, shard: int) -> int:
        """When a shard's column was committed [unix time, ns]."""
        rows = self.tuples("SELECT stamp FROM commits WHERE version = ? AND number = ?", [version, shard])
        return max((int(row[0].split("-")[1]) for row in rows), default=0)

    @property
    def progress(self) -> tuple[int, int] | None:
        """Commits that are in and all, while the file is built, or where it must be and could not."""
        nothing = (0, 1) if self._builder.trouble and not self._has_base else None
        return self._builder.progress or nothing

    @property
    def trouble(self) -> str:
        """What there is to say of a store that does not answer, or of a file that cannot be built."""
        return self.store.trouble() or self._builder.trouble

    @property
    def num_commits(self) -> int:
        """Of all that is shown."""
        return len(self._base) + len(self._delta)

    def names(self) -> tuple[str, ...]:
        """Of its tables."""
        return tables.NAMES

    def handed(self, query: str) -> tuple[Path | None, bytes]:
        """All that another process needs to answer a query: the file, and what is not in it.

        Returns:
            The file, if there is one; a line of JSON and Arrow streams.
        """
        self.refresh()
        with self._lock:
            names = [*tables.NAMES, "gone"]
            views = {name: self._view(name, "delta_") for name in tables.NAMES}
            request = {"query": query, "tables": names, "views": views}
            sink = io.BytesIO()
            sink.write(json.dumps(request).encode() + b"\n")
            for name in names:
                rows = self._root.sql(f"SELECT * FROM memory.main.{name}").to_arrow_table()
                with pa.ipc.new_stream(sink, rows.schema) as stream:
                    stream.write_table(rows)
            return self._held[-1] if self._has_base else None, sink.getvalue()

    def refresh(self) -> None:
        """Take in what has been committed since, or taken back; where that is much, have it built."""
        with self._lock:
            if time.monotonic() - self._looked_at_s < self._every_s:
                return
            if self._builder.has_built():
                self._open()
                self.changes += 1
            self._looked_at_s = time.monotonic()
            try:
                found = self.store.ask(self._commits.look, "commits")
            except OSError as error:  # of a store that does not answer now: what was known is shown
                if not isinstance(error, AwayError):
                    say(f"{self.dataset.uri}: cannot be listed ({error}); trying again")
                return
            if found is self._taken:
                return
            added = found - self._base - self._delta | (found & self._gone)
            gone_delta, gone_base = self._delta - found, self._base - found - self._gone
            changes = len(added) + len(gone_delta) + len(gone_base) + len(self._delta) + len(self._gone)
            is_much = changes > max(FEW_COMMITS, FEW_SHARE * len(self._base))
            if is_much:
                self._builder.start()
                if not self._has_base:
                    return
                added = set()  # the file will have them; until then what was merged is shown as it was
                there = {(commit.version, commit.number) for commit in found}
                gone_base = {one for one in gone_base if (one.version, one.number) not in there}
                gone_delta = {one for one in gone_delta if (one.version, one.number) not in there}
            back = found & self._gone
            if gone_base or back:
                self._gone = (self._gone | gone_base) - back
                self._root.execute("DELETE FROM gone")
                for commit in self._gone:
                    self._root.execute("INSERT INTO gone VALUES (?, ?)", [commit.version, commit.number])
                self._make_views()
            tables.remove(self._root, gone_delta)
            added -= back
            tables.add(self._root, self.dataset, added)
            was_empty, self._delta = not self._delta, (self._delta - gone_delta) | added
            if was_empty != (not self._delta):
                self._make_views()
            self.changes += bool(added or gone_delta or gone_base or back)
            self._taken = found if not is_much else None

    def wait(self, seconds: float) -> bool:
        """Wait for the builder, if one runs; whether the index is whole."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._looked_at_s = -1e9
            self.refresh()
            if not self._builder.is_at_work:
                return True
            time.sleep(0.05)
        return False

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one query, used again by the next.

        Raises:
            BusyError: others are using all there are.
        """
        self.refresh()
        if not self._slots.acquire(timeout=5):
            raise BusyError
        try:
            with self._lock:
                root = self._root
                cursor = self._cursors.pop() if self._cursors else root.cursor()
            cursor.execute("USE memory.now")
            try:
                yield cursor
            finally:
                with self._lock:
                    if root is self._root and not self._is_closed:
                        self._cursors.append(cursor)
                    else:  # of a file that has been swapped
                        cursor.close()
        finally:
            self._slots.release()

    def rows(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query, by name."""
        with self.cursor() as cursor:
            found = cursor.execute(query, values or None)
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def tuples(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.cursor() as cursor:
            return cursor.execute(query, values or None).fetchall()

    def each(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, of which few are held at a time."""
        with self.cursor() as cursor:
            cursor.execute(query)
            while some := cursor.fetchmany(_ROWS_AT_ONCE):
                yield from some

    def value(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The one value of a query; None where it has no rows."""
        found = self.rows(query, values)
        return next(iter(found[0].values())) if found else None

    def close(self) -> None:
        self._builder.close()
        with self._lock:
            self._is_closed = True
            while self._cursors:
                self._cursors.pop().close()
            self._root.close()
            for path in self._held:
                if path != self.path:
                    path.unlink(missing_ok=True)


def _folder_for(uri: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "rushes" / hashlib.sha256(uri.encode()).hexdigest()[:16]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
