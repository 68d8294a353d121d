"""Reading tables: as Arrow through `pyarrow.dataset`, or with SQL through DuckDB.

A table is the union of the parts whose commit record exists: parts of a shard that died before its commit are
never seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from manifests.errors import IntegrityError, UsageError
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES, check_version, parts_of, schema
from manifests.store.shards import Member

if TYPE_CHECKING:
    import duckdb

_PLAN_TABLES = ("sources", "drops", "failures")


def read_part(dataset: Dataset, path: str) -> pa.Table:
    """One Parquet part, its format version checked.

    Raises:
        IntegrityError: it is damaged, or of another format version.
    """
    with _named(path), dataset.filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file)
        check_version(parquet.schema_arrow, path)
        return parquet.read()


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What is wrong with a Parquet file as an error that names it.

    Damage that Arrow finds is of its own kind, or an OSError without a number; others are the disk's.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) is not None:
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> IntegrityError:
    first = str(error).strip().splitlines()[0]
    is_plan = "/plan/" in path  # which nothing can make anew: ids of clips follow from it
    again = "" if is_plan else ", or delete its commit record (tables/shards) and ingest"
    return IntegrityError(
        path,
        f"is not readable Parquet ({first})",
        f"Restore the file{again}. `rushes verify --deep` lists all damage.",
    )


def read_parts(dataset: Dataset, name: str, paths: list[str]) -> pa.Table:
    """The rows of a table's parts, in the order of the paths.

    Raises:
        IntegrityError: a part is damaged; the error names it.
    """
    if not paths:
        return schema(name).empty_table()
    parts = pads.dataset(paths, filesystem=dataset.filesystem, schema=schema(name), format="parquet")
    try:
        return parts.to_table()
    except (pa.ArrowException, OSError, ValueError):
        for path in paths:  # which one?
            read_part(dataset, path)
        raise


def plan(dataset: Dataset, generation: int | None = None) -> pa.Table:
    """Segment rows of one generation, or of all."""
    numbers = dataset.generations() if generation is None else [generation]
    return read_parts(dataset, "segments", [dataset.plan_path(number) for number in numbers])


def plan_parts(dataset: Dataset, name: str) -> list[str]:
    """Paths of a table's parts that the plan's generations name, oldest first."""
    return [plan_part(dataset, name, number) for number in dataset.generations()]


def plan_part(dataset: Dataset, name: str, generation: int) -> str:
    """Where a generation keeps a table: sources, drops or failures.

    Raises:
        IntegrityError: its segments, which name it, cannot be read.
    """
    return dataset.plan_part_path(name, generation, plan_digests(dataset, generation).get(name, ""))


def plan_digests(dataset: Dataset, generation: int) -> dict[str, str]:
    """SHA-256 of the tables that a generation keeps, by their name; empty where an older version wrote them.

    Raises:
        IntegrityError: its segments, which name them, cannot be read.
    """
    path = dataset.plan_path(generation)
    with _named(path), dataset.filesystem.open_input_file(path) as file:
        return parts_of(pq.ParquetFile(file).schema_arrow)


def table(dataset: Dataset, name: str, column: Column | None = None) -> pa.Table:
    """The rows of a table: of one column version, or of all versions and of the plan.

    Raises:
        UsageError: there is no table of that name.
    """
    if name == "segments":
        return plan(dataset)
    if name not in TABLES:
        raise UsageError(name, "is not a table", f"Tables: {', '.join(TABLES)}.")
    paths = []
    if column is None and name in _PLAN_TABLES:
        paths += plan_parts(dataset, name)
    for version in [column] if column else dataset.columns():
        parts = dataset.parts_in(dataset.path("tables", name, str(version)))
        paths += committed_paths(dataset, name, version, dataset.committed_shards(version), parts)
    return read_parts(dataset, name, paths)


def committed_paths(
    dataset: Dataset, name: str, column: Column, shards: list[int], parts: dict[int, list[str]]
) -> list[str]:
    """Where the parts of committed shards lie, in the order of `parts` (`Dataset.parts_in`)."""
    committed = set(shards)
    return [
        found[0] if len(found) == 1 else _committed_path(dataset, name, column, shard)
        for shard, found in parts.items()
        if shard in committed
    ]


def by_column(dataset: Dataset, name: str) -> dict[str, pa.Table]:
    """Rows of a table by the name of the column version that wrote them; `plan` for those of the plan.

    Versions of one column are not added up.
    """
    found = {str(column): table(dataset, name, column) for column in dataset.columns()}
    if name in _PLAN_TABLES:
        found = {"plan": read_parts(dataset, name, plan_parts(dataset, name))} | found
    return {column: rows for column, rows in found.items() if rows.num_rows}


def connect(dataset: Dataset, columns: dict[str, Column] | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with every table registered and no other file within reach.

    Args:
        columns: restrict tables written by a column (by its name) to that version, so a view sees one version
            only.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    for name in TABLES:
        if name == "events":
            continue
        rows = table(dataset, name)
        if columns and "shard" in rows.schema.names:
            rows = _restrict(dataset, name, columns)
        connection.register(name, rows)
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _restrict(dataset: Dataset, name: str, columns: dict[str, Column]) -> pa.Table:
    if name == "segments":
        return plan(dataset)
    parts = [table(dataset, name, column) for column in columns.values()]
    if name in _PLAN_TABLES:
        parts.append(read_parts(dataset, name, plan_parts(dataset, name)))
    return pa.concat_tables(parts)


def sql(dataset: Dataset, query: str, columns: dict[str, Column] | None = None) -> pa.Table:
    """Run one read-only query over the dataset's tables.

    Raises:
        UsageError: it is none, or several, or changes something; or DuckDB refuses it, in its words.
    """
    import duckdb

    with connect(dataset, columns) as connection:
        try:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise UsageError(f"SQL {query!r}", f"holds {len(statements)} statements", "Give one query.")
            if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise UsageError(f"SQL {query!r}", "is no query", "Tables are read here, and not changed.")
            return connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(f"SQL {query!r}", " ".join(str(error).split())) from error


def members(dataset: Dataset, column: Column) -> dict[int, tuple[str, list[Member]]]:
    """For each committed shard of a column: the tar's path and its members, in tar order."""
    found = {}
    for row in table(dataset, "shards", column).to_pylist():
        if row["tar"]:
            found[row["shard"]] = (
                dataset.path(*row["tar"].split("/")),
                [Member(**member) for member in row["members"]],
            )
    return found


def members_of_shard(dataset: Dataset, column: Column, shard: int) -> tuple[str, list[Member]]:
    """The tar's path of a committed shard and its members, in tar order; no path where it has no tar."""
    row = record_of(dataset, column, shard)
    path = dataset.path(*row["tar"].split("/")) if row["tar"] else ""
    return path, [Member(**member) for member in row["members"]]


def record_of(dataset: Dataset, column: Column, shard: int) -> dict:
    """The commit record of a shard's column.

    Raises:
        IntegrityError: it is damaged, or holds other than one row.
    """
    path = dataset.record_path(column, shard)
    rows: list[dict] = read_part(dataset, path).to_pylist()
    if len(rows) != 1:
        raise IntegrityError(path, f"holds {len(rows)} records", "Delete it and ingest again.")
    if lacking := sorted(set(schema("shards").names) - set(rows[0])):
        raise IntegrityError(path, f"lacks {', '.join(lacking)}", "Delete it and ingest again.")
    return rows[0]


def _committed_path(dataset: Dataset, name: str, column: Column, shard: int) -> str:
    """Where the part lies that a shard's record names; there may be others, of attempts that lost."""
    parts = record_of(dataset, column, shard)["parts"]
    digest = next((part["sha256"] for part in parts if part["table"] == name), None)
    if digest is None:
        raise IntegrityError(
            dataset.record_path(column, shard), f"names no part of {name}", "Delete it and ingest again."
        )
    return dataset.committed_part(name, column, shard, digest)


def rows_of_shard(dataset: Dataset, name: str, column: Column, shard: int) -> list[dict]:
    """Rows of one committed part, in stored order."""
    if name == "shards":
        return [record_of(dataset, column, shard)]
    return read_part(dataset, _committed_path(dataset, name, column, shard)).to_pylist()


def plan_rows(dataset: Dataset, shard: int, generation: int) -> tuple[list[dict], dict[str, dict]]:
    """Segments of one shard and, by source id, the source rows they name.

    A source whose file is gone is at the address where a later plan found the same bytes.
    """
    segments = plan(dataset, generation)
    segments = segments.filter(pc.equal(segments["shard"], shard))
    sources = read_part(dataset, plan_part(dataset, "sources", generation))
    sources = sources.filter(
        pc.and_(
            pc.is_in(sources["source_id"], segments["source_id"].unique()),
            pc.equal(sources["status"], "kept"),
        )
    )
    found = {row["source_id"]: row for row in sources.to_pylist()}
    moved = _moved(dataset, [row for row in found.values() if _is_gone(row["uri"])])
    rows = [{**row, "uri": moved.get(row["source_id"], row["uri"])} for row in segments.to_pylist()]
    return rows, {key: {**row, "uri": moved.get(key, row["uri"])} for key, row in found.items()}


def _moved(dataset: Dataset, sources: list[dict]) -> dict[str, str]:
    """Where the bytes of sources lie now whose files are gone, as later plans found them, by source id."""
    ids = {row["source_id"] for row in sources}
    if not ids:
        return {}
    return {
        row["source_id"]: row["uri"]
        for row in table(dataset, "sources").to_pylist()
        if row["source_id"] in ids and row["reason"] == "exact_duplicate" and not _is_gone(row["uri"])
    }


def _is_gone(uri: str) -> bool:
    """Whether a file of this machine is not there; others are taken to be."""
    return "://" not in uri and not os.path.lexists(uri) and not os.path.lexists(uri.partition("#")[0])
