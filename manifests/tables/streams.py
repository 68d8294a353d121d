"""Rows of a table as they are read, a little at a time: what a merged file is made of."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from manifests.layout import Dataset
from manifests.tables.parts import dataset_of, naming, read_committed

_ROWS_AT_ONCE, _PARTS_AT_ONCE = 4096, 64


def rows_of(
    dataset: Dataset, name: str, paths: list[str], where: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """The rows of a table's parts, in the order of the paths.

    Args:
        where: only rows for which it is true.

    Raises:
        IntegrityError: a part is damaged; the error names it.
    """
    with naming(dataset, paths):
        batches = dataset_of(dataset, name, paths).to_batches(
            filter=where, batch_size=_ROWS_AT_ONCE, batch_readahead=1, fragment_readahead=1
        )
        for batch in batches:
            if batch.num_rows:
                yield pa.Table.from_batches([batch])


def merged_rows(
    dataset: Dataset, name: str, merged: list[str], parts: Mapping[int, tuple[str, str]]
) -> Iterator[pa.Table]:
    """The rows of merged files and of the parts of single shards, all in order of their shards.

    Args:
        merged: paths of files in order of their shards; their rows of a shard come before a part's.
        parts: paths and SHA-256 by shard, as of `read_committed`.

    Raises:
        IntegrityError: a file is damaged; the error names it.
    """
    waiting = sorted(parts)
    for rows in rows_of(dataset, name, merged):
        while waiting and waiting[0] < rows["shard"][-1].as_py():
            shards = rows["shard"].to_numpy()
            place = int(shards.searchsorted(waiting[0], side="right"))
            after = int(shards[place])
            yield rows[:place]
            rows = rows[place:]  # noqa: PLW2901 - what is left of them
            count = bisect.bisect_left(waiting, after)
            yield from _read(dataset, name, [parts[shard] for shard in waiting[:count]])
            waiting = waiting[count:]
        yield rows
    yield from _read(dataset, name, [parts[shard] for shard in waiting])


def _read(dataset: Dataset, name: str, parts: Sequence[tuple[str, str]]) -> Iterator[pa.Table]:
    for begin in range(0, len(parts), _PARTS_AT_ONCE):
        some = parts[begin : begin + _PARTS_AT_ONCE]
        yield pa.concat_tables([read_committed(dataset, name, *part) for part in some])


def whole_shards(rows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Rows in order of their shards in tables none of which ends within a shard."""
    waiting: pa.Table | None = None
    for table in rows:
        found = table if waiting is None else pa.concat_tables([waiting, table])
        shards = found["shard"].to_numpy()
        place = int(shards.searchsorted(shards[-1]))
        if place:
            yield found[:place]
        waiting = found[place:]
    if waiting is not None:
        yield waiting


def in_groups(rows: Iterable[pa.Table], wanted: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Rows in tables of `size` each, the last of what is left, with the columns of a schema.

    A group's memory does not depend on how the rows came.
    """
    waiting, num_waiting = list[pa.Table](), 0
    for table in rows:
        waiting.append(table.cast(wanted).replace_schema_metadata(wanted.metadata))
        num_waiting += len(table)
        if num_waiting >= size:
            found = pa.concat_tables(waiting)
            for place in range(0, num_waiting - num_waiting % size, size):
                yield _one_piece(found[place : place + size])
            num_waiting %= size
            waiting = [found[len(found) - num_waiting :]]
    if num_waiting:
        yield _one_piece(pa.concat_tables(waiting))


def _one_piece(rows: pa.Table) -> pa.Table:
    return pa.table([column.combine_chunks() for column in rows.columns], schema=rows.schema)
