"""The plan: segments of all generations, and the tables that came with them."""

from __future__ import annotations

import os
from bisect import bisect_left

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.layout import Dataset
from manifests.schemas import parts_of
from manifests.tables.parts import footer_of, named, read_parts, rows_in_plan

NAMES = ("sources", "drops", "failures")
"""Tables that a generation keeps beside its segments."""


def segments(dataset: Dataset, generation: int | None = None, fields: list[str] | None = None) -> pa.Table:
    """Segment rows of one generation, or of all.

    Args:
        fields: only these.
    """
    numbers = dataset.generations() if generation is None else [generation]
    return read_parts(dataset, "segments", [dataset.plan_path(number) for number in numbers], fields)


def shards(dataset: Dataset) -> dict[int, int]:
    """The shards of the plan in rising order, each with its generation."""
    rows = segments(dataset, fields=["shard", "generation"]).group_by(["shard", "generation"]).aggregate([])
    return dict(sorted(zip(rows["shard"].to_pylist(), rows["generation"].to_pylist(), strict=True)))


def parts(dataset: Dataset, name: str) -> list[str]:
    """Paths of a table's parts that the plan's generations name, oldest first."""
    return [part(dataset, name, number) for number in dataset.generations()]


def part(dataset: Dataset, name: str, generation: int) -> str:
    """Where a generation keeps a table: sources, drops or failures.

    Raises:
        IntegrityError: its segments, which name it, cannot be read.
    """
    return dataset.plan_part_path(name, generation, digests(dataset, generation).get(name, ""))


def digests(dataset: Dataset, generation: int) -> dict[str, str]:
    """SHA-256 of the tables that a generation keeps, by their name; empty where an older version wrote them.

    Raises:
        IntegrityError: its segments, which name them, cannot be read.
    """
    return parts_of(footer_of(dataset, dataset.plan_path(generation)).schema.to_arrow_schema())


def rows_of_shard(dataset: Dataset, shard: int, generation: int) -> tuple[list[dict], dict[str, dict]]:
    """Segments of one shard and, by source id, the source rows they name.

    A source whose file is gone is at the address where a later plan found the same bytes. Both tables lie in
    row groups by shard, so that a few of them are read.
    """
    own = rows_in_plan(dataset, dataset.plan_path(generation), shard)
    sources = _sources(dataset, generation, own)
    found = {row["source_id"]: row for row in sources.to_pylist() if row["status"] == "kept"}
    moved = _moved(dataset, [row for row in found.values() if _is_gone(row["uri"])])
    rows = [{**row, "uri": moved.get(row["source_id"], row["uri"])} for row in own.to_pylist()]
    return rows, {key: {**row, "uri": moved.get(key, row["uri"])} for key, row in found.items()}


def _places(own: pa.Table) -> list[int] | None:
    """Rows of the sources of segments; None where their plan does not say them."""
    if "source_row" not in own.schema.names or own["source_row"].null_count:
        return None
    places: list[int] = own["source_row"].to_pylist()
    return places


def _sources(dataset: Dataset, generation: int, own: pa.Table) -> pa.Table:
    """The rows of the sources of some segments: those at the rows that the segments name, or a search."""
    path, places = part(dataset, "sources", generation), _places(own)
    with named(path), dataset.filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file, metadata=footer_of(dataset, path))
        if places is None:  # of an older version
            rows = parquet.read()
            return rows.filter(pc.is_in(rows["source_id"], own["source_id"].unique()))
        wanted, groups, kept, begin, num_read = sorted(set(places)), list[int](), list[int](), 0, 0
        for number in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(number).num_rows
            own_places = wanted[bisect_left(wanted, begin) : bisect_left(wanted, begin + size)]
            if own_places:
                kept += [num_read + place - begin for place in own_places]
                num_read += size
                groups.append(number)
            begin += size
        if not groups:
            return parquet.schema_arrow.empty_table()
        return parquet.read_row_groups(groups, use_threads=False).take(kept)


def _moved(dataset: Dataset, gone: list[dict]) -> dict[str, str]:
    """Where the bytes of sources lie now whose files are gone, as later plans found them, by source id."""
    if not gone:
        return {}
    ids = pa.array([row["source_id"] for row in gone])
    where = pc.field("source_id").isin(ids) & (pc.field("reason") == "exact_duplicate")
    rows = read_parts(dataset, "drops", parts(dataset, "drops"), ["source_id", "uri"], where)
    return {row["source_id"]: row["uri"] for row in rows.to_pylist() if not _is_gone(row["uri"])}


def _is_gone(uri: str) -> bool:
    """Whether a file of this machine is not there; others are taken to be."""
    return "://" not in uri and not os.path.lexists(uri) and not os.path.lexists(uri.partition("#")[0])
