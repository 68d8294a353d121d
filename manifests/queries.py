"""SQL over a dataset's tables through DuckDB, which reads of them what a query needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES
from manifests.tables.scans import Tables

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
"""What a query may hold in memory; what is more is spilled to a temporary folder."""
Result = TypeVar("Result")
_TRIES = 5


@contextmanager
def connected(
    dataset: Dataset, columns: dict[str, Column] | None = None, without: Collection[str] = ()
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with every table at hand, read lazily, and no other file within reach.

    Args:
        columns: restrict tables written by a column (by its name) to that version, so a view sees one version
            only.
        without: tables that are not at hand.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="rushes-") as spill, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET temp_directory = '{spill}'")
        tables = Tables(dataset)
        versions = None if columns is None else list(columns.values())
        for name in TABLES:
            if name != "events" and name not in without:
                connection.register(name, tables.lazy(name, versions))
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def check_predicate(where: str, whose: str) -> None:
    """Refuse a predicate that is not one expression, such as one whose brackets end what it stands in.

    Raises:
        UsageError: it is none, or several, or cannot be read.
    """
    import duckdb

    try:
        duckdb.SQLExpression(where)
    except duckdb.Error as error:
        raise UsageError(
            f"{whose} {where!r}",
            f"is not one SQL expression ({' '.join(str(error).split())[:200]})",
            "Write what must hold of a row, such as: width_px > 256 AND camera = 'static'.",
        ) from error


def sql(
    dataset: Dataset, query: str, columns: dict[str, Column] | None = None, without: Collection[str] = ()
) -> pa.Table:
    """Run one read-only query over the dataset's tables.

    Raises:
        UsageError: it is none, or several, or changes something; or DuckDB refuses it, in its words.
    """
    import duckdb

    def ask() -> pa.Table:
        with connected(dataset, columns, without) as connection:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise UsageError(f"SQL {query!r}", f"holds {len(statements)} statements", "Give one query.")
            if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise UsageError(f"SQL {query!r}", "is no query", "Tables are read here, and not changed.")
            return connection.sql(query).to_arrow_table()

    try:
        return _again_where_merged(dataset, ask)
    except duckdb.Error as error:
        if not isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException):
            Tables(dataset).check()
        raise UsageError(f"SQL {query!r}", " ".join(str(error).split())) from error


def _again_where_merged(dataset: Dataset, ask: Callable[[], Result]) -> Result:
    """Ask again where files have been merged with others while they were read."""
    for _ in range(_TRIES - 1):
        before = _newest(dataset)
        try:
            return ask()
        except FileNotFoundError:
            continue
        except Exception:
            if _newest(dataset) == before:
                raise
    return ask()


def _newest(dataset: Dataset) -> int:
    dataset.refresh()
    return dataset.snapshot.number
