"""SQL over a dataset's tables through DuckDB, which reads of them what a query needs."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES
from manifests.tables.scans import Tables, look_again, now

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
"""What a query may hold in memory; what is more is spilled to a temporary folder."""
MOST_BYTES = 2 << 30
"""Of the rows of an answer."""
_ROWS = 1 << 16
_LISTEN_EVERY_S = 0.2  # to signals
Result = TypeVar("Result")
_TRIES = 5
OF_SOURCES = ("licence", "origin")
"""What a clip has of its source: columns of `clips` too, wherever they are asked for."""


@contextmanager
def connected(
    dataset: Dataset,
    columns: dict[str, Column] | None = None,
    without: Collection[str] = (),
    *,
    has_licences: bool = False,
    instead: Mapping[str, pa.Table] | None = None,
    only: Collection[str] | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with every table at hand, read lazily, and no other file within reach.

    Args:
        columns: restrict tables written by a column (by its name) to that version, so a view sees one version
            only.
        without: tables that are not at hand.
        has_licences: clips have `OF_SOURCES`, at the cost of a join.
        instead: rows that stand for those of a table.
        only: tables that are at hand; None for all. A store is asked where each of them lies.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="rushes-") as spill, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET temp_directory = '{spill}'")
        tables = now(dataset)
        versions = None if columns is None else list(columns.values())
        for name in TABLES:
            if name != "events" and name not in without and (only is None or name in only):
                connection.register(name, (instead or {}).get(name, tables.lazy(name, versions)))
        if has_licences and "clips" not in without:
            if only is None or "clips" in only:
                connection.unregister("clips")
            connection.register("_clips", tables.lazy("clips", versions))
            connection.execute(f"CREATE VIEW clips AS {with_licences('SELECT * FROM _clips', 'sources')}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def with_licences(clips: str, sources: str) -> str:
    """A query for clips with `OF_SOURCES`: what is said of their source, else of a copy of the same bytes.

    Args:
        clips: a query for clips. sources: the table of sources.
    """
    own = "any_value({0}) FILTER (WHERE status = 'kept')"
    fields = ", ".join(f"coalesce({own.format(name)}, any_value({name})) AS {name}" for name in OF_SOURCES)
    are_same = "status = 'kept' OR reason = 'exact_duplicate'"
    of_each = f"SELECT source_id, {fields} FROM {sources} WHERE {are_same} GROUP BY source_id"
    return f"SELECT * FROM ({clips}) LEFT JOIN ({of_each}) USING (source_id)"


def speaks_of_licences(text: str) -> bool:
    """Whether a query may ask for `OF_SOURCES`."""
    return re.search(rf"\b({'|'.join(OF_SOURCES)})\b", text, re.IGNORECASE) is not None


_CATALOGUE = re.compile(r"information_schema|duckdb_|pg_", re.IGNORECASE)
"""What speaks of all tables there are."""


def tables_asked(query: str) -> set[str]:
    """Names of the tables that a query reads, in small letters; none where it cannot be read."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        try:
            return {name.lower() for name in connection.get_table_names(query)}
        except (duckdb.Error, TypeError):  # the second of what is no text
            return set()  # what is wrong with it is said when it is run


def sql(
    dataset: Dataset,
    query: str,
    columns: dict[str, Column] | None = None,
    without: Collection[str] = (),
    *,
    whose: str = "",
    instead: Mapping[str, pa.Table] | None = None,
) -> pa.Table:
    """Run one read-only query over the dataset's tables.

    Args:
        columns, without, instead: as for `connected`.
        whose: what an error names, where the user has not written the whole query.

    Raises:
        UsageError: it is none, or several, or changes something; or DuckDB refuses it, in its words.
    """
    import duckdb

    query.encode()  # what is no text is refused here, not in DuckDB
    has_licences, only = False, None if _CATALOGUE.search(query) else tables_asked(query) or None

    def ask() -> pa.Table:
        with connected(
            dataset, columns, without, has_licences=has_licences, instead=instead, only=only
        ) as connection:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise UsageError(f"SQL {query!r}", f"holds {len(statements)} statements", "Give one query.")
            if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise UsageError(f"SQL {query!r}", "is no query", "Tables are read here, and not changed.")
            return _stoppable(connection, lambda: _held(connection.sql(query).to_arrow_reader(_ROWS), query))

    try:
        try:
            return _again_where_merged(dataset, ask)
        except (duckdb.BinderException, duckdb.CatalogException):
            if only is None and not speaks_of_licences(query):
                raise
            has_licences, only = speaks_of_licences(query), None  # or it asks in a way that was not seen
            return _again_where_merged(dataset, ask)
    except duckdb.Error as error:
        if not isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException):
            Tables(dataset).check()
        said = " ".join(str(error).partition("\n\nLINE ")[0].split())
        is_of_names = isinstance(error, duckdb.BinderException | duckdb.CatalogException)
        step = _NAMES_STEP if is_of_names else "docs/dataset.md has queries that work."
        raise UsageError(whose or f"SQL {query!r}", said, step) from error


_NAMES_STEP = "`rushes ls DATASET TABLE` shows a table's columns, docs/tables.md says what they hold."


def _stoppable(connection: duckdb.DuckDBPyConnection, work: Callable[[], Result]) -> Result:
    """What `work` gives; a signal ends it, which DuckDB and Arrow would not hear of in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(work)
        try:
            while not wait([found], timeout=_LISTEN_EVERY_S).done:
                pass
        except BaseException:
            found.cancel()
            while not wait([found], timeout=_LISTEN_EVERY_S).done:  # what has not begun hears of it later
                connection.interrupt()
            raise
        return found.result()


def _held(batches: pa.RecordBatchReader, query: str) -> pa.Table:
    """The rows of an answer.

    Raises:
        UsageError: they are more than memory should hold.
    """
    held, num_bytes = list[pa.RecordBatch](), 0
    for batch in batches:
        num_bytes += batch.nbytes
        if num_bytes > MOST_BYTES:
            raise UsageError(
                f"SQL {query!r}",
                f"gives more than {MOST_BYTES >> 30} GiB of rows",
                "Give it a LIMIT or count; `rushes export --to lance` writes whole tables.",
            )
        held.append(batch)
    return pa.Table.from_batches(held, batches.schema)


def _again_where_merged(dataset: Dataset, ask: Callable[[], Result]) -> Result:
    """Ask again where files have been merged with others while they were read."""
    for _ in range(_TRIES - 1):
        before = _newest(dataset)
        try:
            return ask()
        except FileNotFoundError:
            look_again(dataset)
        except Exception:
            if _newest(dataset) == before:
                raise
            look_again(dataset)
    return ask()


def _newest(dataset: Dataset) -> int:
    dataset.refresh()
    return dataset.snapshot.number
