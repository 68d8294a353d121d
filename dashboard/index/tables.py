"""The tables of an index, and how commits get into them and out again.

Each row says the column `version` that wrote it and the `shard` of its commit, so that versions are never
added up and a commit that is taken back can be deleted.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from dashboard.index.commits import PLAN, Commit
from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES
from manifests.tables import parts, planned
from manifests.tables.records import each_record, part_of

BATCH_COMMITS = 500
LEFT_OUT: dict[str, set[str]] = {
    "sources": {"timed_captions_json", "metadata_json"},
    "clips": {"timed_captions_json"},
    "latents": {"slab_offset", "slab_crc32"},
    "shards": {"members", "parts"},
}
_OF_COLUMNS = ("clips", "captions", "latents", "duplicates", "scores", "verdicts", "map", "drops", "failures")
_OF_PLAN = ("sources", "drops", "failures")
_FIELDS = {
    "place": [("clip_id", pa.string()), ("shard", pa.int32()), ("version", pa.string())],
    "segments": [
        ("shard", pa.int32()),
        ("generation", pa.int32()),
        ("num", pa.int64()),
        ("seconds", pa.float64()),
    ],
    "members": [
        ("clip_id", pa.string()),
        ("version", pa.string()),
        ("field", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("crc32", pa.int64()),
    ],
    "commits": [("version", pa.string()), ("number", pa.int32()), ("stamp", pa.string())],
    "unreadable": [("version", pa.string()), ("shard", pa.int32()), ("problem", pa.string())],
}
NAMES = (*dict.fromkeys((*_OF_COLUMNS, *_OF_PLAN, "shards")), *_FIELDS)
KEYED = ("clips", "captions", "latents", "duplicates", "map")
"""Tables with a `key`: 64 bits of a hash of the clip's id, by which they are joined three times as fast."""
_SQL_TYPES = {
    "uint64": "UBIGINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
}


def fields(name: str) -> list[tuple[str, pa.DataType]]:
    """Names and types of a table's fields."""
    if name in _FIELDS:
        return _FIELDS[name]
    known = [(field, kind) for field, kind, _ in TABLES[name] if field not in LEFT_OUT.get(name, ())]
    own = {"clips": [("seconds", pa.float64())], "captions": [("low", pa.string())]}.get(name, [])
    own = [*own, *([("key", pa.uint64())] if name in KEYED else [])]
    return [*known, *own, ("version", pa.string()), *([("commit", pa.int32())] if name != "clips" else [])]


def number_of(name: str) -> str:
    """The field that, with `version`, says which commit a row is of."""
    return next(key for key in ("number", "commit", "shard") if key in dict(fields(name)))


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return _SQL_TYPES[str(kind)]


def create(connection: duckdb.DuckDBPyConnection, names: Sequence[str] = NAMES, kind: str = "TABLE") -> None:
    """Make empty tables."""
    for name in names:
        columns = ", ".join(f'"{field}" {_sql_type(kind)}' for field, kind in fields(name))
        connection.execute(f"CREATE {kind} IF NOT EXISTS {name} ({columns})")


def add(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    commits: Iterable[Commit],
    on_batch: Callable[[int], None] = lambda number: None,
) -> None:
    """Copy the rows of commits into the tables, a batch at a time, so that memory is bounded."""
    by_version = defaultdict(list)
    for commit in sorted(commits):
        by_version[commit.version].append(commit)
    num_done = 0
    for version, found in by_version.items():
        for begin in range(0, len(found), BATCH_COMMITS):
            batch = found[begin : begin + BATCH_COMMITS]
            if version == PLAN:
                for commit in batch:
                    _guarded(connection, [commit], functools.partial(_add_plan, connection, dataset))
            else:
                _guarded(connection, batch, functools.partial(_add_shards, connection, dataset))
            num_done += len(batch)
            on_batch(num_done)


def remove(connection: duckdb.DuckDBPyConnection, commits: Iterable[Commit]) -> None:
    """Delete the rows of commits that a dataset has no more."""
    for commit in commits:
        of = [commit.version, commit.number]
        for name in NAMES:
            if name == "segments":
                if commit.is_plan:
                    connection.execute("DELETE FROM segments WHERE generation = ?", of[1:])
                continue
            connection.execute(f'DELETE FROM {name} WHERE version = ? AND "{number_of(name)}" = ?', of)


def _guarded(
    connection: duckdb.DuckDBPyConnection, batch: list[Commit], work: Callable[[list[Commit]], None]
) -> None:
    """Take commits in, all of them or none; where one cannot be read, one by one, and note which."""
    connection.execute("BEGIN")
    try:
        work(batch)
        _note(connection, batch)
    except (RushesError, OSError, pa.ArrowException, KeyError, ValueError, duckdb.Error) as error:
        connection.execute("ROLLBACK")
        if len(batch) > 1:
            for commit in batch:
                _guarded(connection, [commit], work)
            return
        row = {"version": batch[0].version, "shard": batch[0].number, "problem": str(error)}
        connection.execute("BEGIN")
        _insert(connection, "unreadable", pa.Table.from_pylist([row], pa.schema(_FIELDS["unreadable"])))
        _note(connection, batch)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _note(connection: duckdb.DuckDBPyConnection, batch: list[Commit]) -> None:
    """These commits are in."""
    rows = [{"version": one.version, "number": one.number, "stamp": one.stamp} for one in batch]
    _insert(connection, "commits", pa.Table.from_pylist(rows, pa.schema(_FIELDS["commits"])))


def _add_shards(connection: duckdb.DuckDBPyConnection, dataset: Dataset, batch: list[Commit]) -> None:
    column, numbers = Column.parse(batch[0].version), [commit.number for commit in batch]
    covered = [number for number in numbers if dataset.covers(column, number)]
    is_merged = set(covered)
    paths = [dataset.record_path(column, number) for number in numbers if number not in is_merged]
    merged = dataset.snapshot.version(column).tables if covered else {}

    def rows_of(name: str, small: list[str]) -> pa.Table:
        first, last = min(covered, default=0), max(covered, default=-1)
        files = [one for one in merged.get(name, ()) if one.first <= last and one.last >= first]
        where = (pc.field("shard") >= first) & (pc.field("shard") <= last)  # row groups outside are not read
        if len(covered) < last - first + 1:
            where &= pc.field("shard").isin(covered)
        large = [dataset.path(*one.path.split("/")) for one in files]
        found = [parts.read_parts(dataset, name, large, where=where)] if large else []
        return pa.concat_tables([*found, parts.read_parts(dataset, name, small)])

    records = rows_of("shards", paths)
    small = defaultdict[str, list[str]](list)
    for record in each_record(records.select(["column", "fingerprint", "shard", "parts"])):
        for part in record["parts"]:
            if record["shard"] not in is_merged and (path := part_of(dataset, record, part["table"])):
                small[part["table"]].append(path)
    found = {name: rows_of(name, small[name]) for name in _OF_COLUMNS if merged.get(name) or small[name]}
    for name, rows in found.items():
        if rows.num_rows:
            _insert(connection, name, _stamped(name, rows, str(column), rows["shard"]))
    _insert(connection, "shards", _stamped("shards", records, str(column), records["shard"]))
    if "clips" in found:
        place = (
            found["clips"]
            .select(["clip_id", "shard"])
            .append_column("version", _same(str(column), found["clips"]))
        )
        _insert(connection, "place", place.sort_by("clip_id"))
    connection.register("incoming", records.select(["shard", "members"]))
    connection.execute(
        "INSERT INTO members SELECT split_part(m.name, '.', 1), ?, substr(m.name, strpos(m.name, '.') + 1), "
        'shard, m."offset", m.size_bytes, m.crc32 FROM (SELECT shard, unnest(members) AS m FROM incoming)',
        [str(column)],
    )
    connection.unregister("incoming")


def _add_plan(connection: duckdb.DuckDBPyConnection, dataset: Dataset, batch: list[Commit]) -> None:
    generation = batch[0].number
    segments = planned.segments(dataset, generation)
    found = {name: parts.read_part(dataset, planned.part(dataset, name, generation)) for name in _OF_PLAN}
    for name, rows in found.items():
        if rows.num_rows:
            _insert(connection, name, _stamped(name, rows, PLAN, _same(generation, rows)))
    connection.register("incoming", segments)
    connection.execute(
        "INSERT INTO segments SELECT shard, generation, count(*), sum(coalesce(end_s - start_s, 0)) "
        "FROM incoming GROUP BY shard, generation"
    )
    connection.unregister("incoming")


def _same(value: object, rows: pa.Table) -> pa.Array:
    kind = pa.string() if isinstance(value, str) else pa.int32()
    return pa.array([value], kind).take(pa.array([0] * rows.num_rows, pa.int32()))


def _stamped(name: str, rows: pa.Table, version: str, commit: pa.Array | pa.ChunkedArray) -> pa.Table:
    rows = rows.append_column("version", _same(version, rows)).append_column("commit", commit)
    if name == "clips":
        rows = rows.append_column("seconds", pc.subtract(rows["end_s"], rows["start_s"]))
    have = set(rows.schema.names)
    return rows.select([field for field, _ in fields(name) if field in have])


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("incoming", rows)
    more = ", md5_number_lower(clip_id) AS key" if name in KEYED else ""
    more += ", lower(text) AS low" if name == "captions" else ""
    connection.execute(f"INSERT INTO {name} BY NAME SELECT *{more} FROM incoming")
    connection.unregister("incoming")
