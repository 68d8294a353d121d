"""What was committed of one shard: its record, the rows of its tables, the members of its tar.

A lookup reads the one small part that it needs, or the few row groups of a merged file.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import IntegrityError
from manifests.layout import Column, Dataset
from manifests.schemas import schema
from manifests.store.shards import AGAIN, Member
from manifests.tables.parts import read_part, rows_in


def record_of(dataset: Dataset, column: Column, shard: int) -> dict:
    """The commit record of a shard's column.

    Raises:
        IntegrityError: it is damaged, or holds other than one row.
        FileNotFoundError: there is none.
    """
    rows = _merged_rows(dataset, "shards", column, shard)
    path = dataset.record_path(column, shard)
    if rows is None:
        try:
            rows = read_part(dataset, path)
        except FileNotFoundError:  # merged since this dataset was opened?
            dataset.refresh()
            if (rows := _merged_rows(dataset, "shards", column, shard)) is None:
                raise
    if rows.num_rows != 1:
        raise IntegrityError(path, f"holds {rows.num_rows} records", AGAIN)
    if lacking := sorted(set(schema("shards").names) - set(rows.schema.names)):
        raise IntegrityError(path, f"lacks {', '.join(lacking)}", AGAIN)
    record: dict = rows.to_pylist()[0]
    check_own(record, column, shard, path)
    return record


def check_own(record: dict, column: Column, shard: int, path: str) -> None:
    """Refuse a record that lies where another one should.

    Raises:
        IntegrityError: it is of another shard or column version.
    """
    named = record["column"], record["fingerprint"], record["shard"]
    if named != (column.name, column.fingerprint, shard):
        told = f"is the record of {named[0]}@{named[1]} shard {named[2]}, not of {column} shard {shard}"
        raise IntegrityError(path, told, AGAIN)


def _merged_rows(dataset: Dataset, name: str, column: Column, shard: int) -> pa.Table | None:
    """The rows of a shard that a snapshot covers; None where it does not."""
    for is_last in (False, True):
        if not dataset.covers(column, shard):
            return None
        files = dataset.snapshot.version(column).files_of(name, shard)
        try:
            rows = rows_in(dataset, files, shard)
        except FileNotFoundError:  # of a snapshot that another has followed
            if is_last:
                raise
            dataset.refresh()
        else:
            return schema(name).empty_table() if rows is None else rows
    raise AssertionError


def part_of(dataset: Dataset, record: dict, name: str) -> str | None:
    """Where the part of a table lies that a record names; None where it has no rows.

    Raises:
        IntegrityError: it names none.
    """
    column, shard = Column(record["column"], record["fingerprint"]), record["shard"]
    part = next((part for part in record["parts"] if part["table"] == name), None)
    if part is None:
        raise IntegrityError(dataset.record_path(column, shard), f"names no part of {name}", AGAIN)
    return dataset.committed_part(name, column, shard, part["sha256"]) if part["sha256"] else None


def rows_of_shard(dataset: Dataset, name: str, column: Column, shard: int) -> list[dict]:
    """Rows of a table that a shard's commit wrote, in stored order."""
    if name == "shards":
        return [record_of(dataset, column, shard)]
    rows = _merged_rows(dataset, name, column, shard)
    if rows is None:
        try:
            rows = _small_rows(dataset, name, column, shard)
        except FileNotFoundError:  # merged between the reading of its record and of its part
            dataset.refresh()
            if (rows := _merged_rows(dataset, name, column, shard)) is None:
                raise
    found: list[dict] = rows.to_pylist()
    return found


def _small_rows(dataset: Dataset, name: str, column: Column, shard: int) -> pa.Table:
    record = record_of(dataset, column, shard)
    if (rows := _merged_rows(dataset, name, column, shard)) is not None:
        return rows
    path = part_of(dataset, record, name)
    rows = read_part(dataset, path) if path else schema(name).empty_table()
    if "shard" in rows.schema.names and pc.any(pc.not_equal(rows["shard"], shard)).as_py():
        raise IntegrityError(path or "", f"has rows of other shards than {shard}", AGAIN)
    return rows


def members_of_shard(dataset: Dataset, column: Column, shard: int) -> tuple[str, list[Member]]:
    """The tar's path of a committed shard and its members, in tar order; no path where it has no tar."""
    return members_of(dataset, record_of(dataset, column, shard))


def members_of(dataset: Dataset, record: dict) -> tuple[str, list[Member]]:
    """The tar's path of a record and its members, in tar order; no path where it has no tar."""
    path = dataset.path(*record["tar"].split("/")) if record["tar"] else ""
    return path, [Member(**member) for member in record["members"]]


def each_record(rows: pa.Table) -> Iterator[dict]:
    """Records one after the other; all at once they may be many gigabytes of Python objects."""
    for batch in rows.to_batches(max_chunksize=64):
        yield from batch.to_pylist()
