"""Compaction: the small files of many commits become few, sorted by shard, and a snapshot names them.

Each merged file holds the rows of one table, of one column version, of `SHARDS_A_FILE` shards in a row, so
its bytes depend on what is committed and not on the order in which it was. Order of the work: merged files,
then the snapshot, which is made only where there is none of its number; then what it replaces is removed.
Whatever dies in between leaves files that nothing names, or small files that no longer count.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests import snapshots
from manifests.fingerprint import file_sha256
from manifests.layout import Column, Dataset
from manifests.schemas import schema
from manifests.snapshots import Merged, Snapshot, Version, ranges
from manifests.store import storage
from manifests.tables.parts import check_bytes, read_parts
from manifests.tables.records import each_record, part_of
from manifests.tables.scans import Tables
from manifests.tables.streams import in_groups, merged_rows, rows_of
from manifests.writing.commit import SupersededError, sweep

SHARDS_A_FILE = 4096
QUIET_S = 600.0
"""So long merged files that no snapshot names are left alone: another may be about to publish them."""
ENOUGH = 256
"""So many commits of one column version in small files are worth merging after a run."""
_ROWS_A_GROUP = {"shards": 8, "clips": 1024}
_OTHER_ROWS = 4096
_TRIES = 5


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: commits that were in small files, small files gone, merged files written."""

    number: int = 0
    num_commits: int = 0
    num_removed: int = 0
    num_written: int = 0
    size_bytes: int = 0


def compact(dataset: Dataset, least: int = 1) -> Compacted:
    """Merge the commits of every column version that has at least `least` in small files.

    Raises:
        SupersededError: another has published a snapshot at the same time; nothing of that is touched.
    """
    tables = Tables(dataset)
    before, columns = tables.snapshot, dict(tables.snapshot.columns)
    num_commits, written = 0, list[Merged]()
    for column in tables.columns():
        loose = tables.loose(column)
        if len(loose) < least:
            continue
        num_commits += len(loose)
        columns[str(column)], files = _with(dataset, column, before.version(column), loose)
        written += files
    if num_commits:
        _publish(dataset, Snapshot(before.number + 1, columns))
    removed = clean(dataset)
    size = sum(one.size_bytes for one in written)
    return Compacted(dataset.snapshot.number, num_commits, removed, len(written), size)


def _with(
    dataset: Dataset, column: Column, version: Version, loose: list[int]
) -> tuple[Version, list[Merged]]:
    """A column version with the commits in small files merged into it, and the files that were written."""
    written = []
    folder = dataset.path("tables", "shards", str(column))
    infos = storage.list_files(dataset.filesystem, folder, ".parquet", recursive=False)
    made = {info.path: info.mtime_ns or 0 for info in infos}
    for first, shards in _by_file(loose).items():
        paths = [dataset.record_path(column, shard) for shard in shards]
        made_ns = max(made.get(path, 0) for path in paths)
        by_table = defaultdict[str, dict[int, tuple[str, str]]](dict)
        by_table["shards"] = {shard: (path, "") for shard, path in zip(shards, paths, strict=True)}
        parts = read_parts(dataset, "shards", paths, ["column", "fingerprint", "shard", "parts"])
        for record in each_record(parts):
            for part in record["parts"]:
                if path := part_of(dataset, record, part["table"]):
                    by_table[part["table"]][record["shard"]] = path, part["sha256"]
        new = dict[str, Iterable[pa.Table]]()
        for name, found in by_table.items():
            before = sound(dataset, _of_file(version, name, first))
            new[name] = merged_rows(dataset, name, _paths(dataset, before), found)
        version, files = _replaced(dataset, column, version, first, new, made_ns)
        written += files
    return replace(version, shards=ranges([*version.numbers(), *loose])), written


def _by_file(shards: Iterable[int]) -> dict[int, list[int]]:
    """Shards by the first shard of the merged file that they belong to."""
    found = defaultdict(list)
    for shard in shards:
        found[shard - shard % SHARDS_A_FILE].append(shard)
    return dict(found)


def _of_file(version: Version, table: str, first: int) -> list[Merged]:
    return [one for one in version.tables.get(table, ()) if one.first - one.first % SHARDS_A_FILE == first]


def _paths(dataset: Dataset, files: Iterable[Merged]) -> list[str]:
    return [dataset.path(*one.path.split("/")) for one in files]


def sound(dataset: Dataset, files: list[Merged]) -> list[Merged]:
    """The same files, of the bytes that the snapshot names.

    Raises:
        IntegrityError: one is damaged; what would be written from it would hide that.
    """
    for path, one in zip(_paths(dataset, files), files, strict=True):
        check_bytes(path, storage.sha256_of(dataset.filesystem, path), one.sha256)
    return files


def _replaced(
    dataset: Dataset,
    column: Column,
    version: Version,
    first: int,
    new: Mapping[str, Iterable[pa.Table]],
    made_ns: int,
) -> tuple[Version, list[Merged]]:
    """A version with other merged files for the shards from `first` on, of the tables that are new."""
    tables, written = dict(version.tables), []
    for name, rows in sorted(new.items()):
        before = _of_file(version, name, first)
        merged = _write(dataset, name, column, first, rows, max([made_ns, *(one.made_ns for one in before)]))
        others = [one for one in tables.get(name, ()) if one not in before]
        found = sorted([*others, *([merged] if merged else [])], key=lambda one: one.first)
        tables[name] = tuple(found)
        written += [merged] if merged else []
    return replace(version, tables={name: files for name, files in tables.items() if files}), written


def _write(
    dataset: Dataset, name: str, column: Column, first: int, rows: Iterable[pa.Table], made_ns: int
) -> Merged | None:
    """Write rows, in order of their shards, as a merged file; None where there are none.

    They are written as they come: one row group is held.

    Raises:
        IntegrityError: a part that they come from is damaged; the error names it.
    """
    groups = in_groups(rows, schema(name), _ROWS_A_GROUP.get(name, _OTHER_ROWS))
    if (group := next(groups, None)) is None:
        return None
    last = first + SHARDS_A_FILE - 1
    folder = dataset.path("tables", name, str(column))
    is_local = storage.is_local(dataset.filesystem)
    if is_local:
        os.makedirs(folder, exist_ok=True)
    scratch = folder if is_local else tempfile.gettempdir()
    low, num_rows = group["shard"][0].as_py(), 0
    with storage.beside(f"{scratch}/merged-{first:06d}.parquet") as temporary:
        options = {"compression": "zstd", "version": "2.6", "write_page_checksum": True}
        with pq.ParquetWriter(temporary, schema(name), **options) as writer:
            for group in itertools.chain([group], groups):  # noqa: B020 - the first was looked at
                writer.write_table(group, row_group_size=len(group))
                num_rows += len(group)
                high = group["shard"][-1].as_py()
        digest, size = file_sha256(temporary), temporary.stat().st_size
        path = f"{folder}/merged-{first:06d}-{last:06d}-{digest[:8]}.parquet"
        storage.publish(dataset.filesystem, temporary, path)
    return Merged(dataset.relative(path), num_rows, size, digest, low, high, made_ns)


def _publish(dataset: Dataset, snapshot: Snapshot) -> None:
    if not snapshots.publish(dataset.filesystem, dataset.root, snapshot):
        raise SupersededError(f"snapshot {snapshot.number}")
    dataset.refresh()


def commit_version(dataset: Dataset, column: Column, tables: Mapping[str, pa.Table]) -> None:
    """Commit all shards of a column version at once, as merged files.

    Args:
        tables: rows of each table that the column writes, each with its shard; `shards` has the records.

    Raises:
        SupersededError: others publish snapshots all the time.
    """
    version = Version(ranges(tables["shards"]["shard"].to_pylist()))
    for first in _by_file(version.numbers()):
        last = first + SHARDS_A_FILE - 1
        new = {name: [_sorted(rows, first, last)] for name, rows in tables.items()}
        version, _ = _replaced(dataset, column, version, first, new, time.time_ns())
    for _ in range(_TRIES):
        dataset.refresh()
        before = dataset.snapshot
        after = Snapshot(before.number + 1, {**before.columns, str(column): version})
        if snapshots.publish(dataset.filesystem, dataset.root, after):
            snapshots.forget_older(dataset.filesystem, dataset.root, before.number)
            dataset.refresh()
            return
    raise SupersededError(f"snapshot {dataset.snapshot.number}")


def _sorted(rows: pa.Table, first: int, last: int) -> pa.Table:
    """Rows of the shards from one to another, in their order; those of a shard stay in theirs."""
    found = rows.filter(pc.and_(pc.greater_equal(rows["shard"], first), pc.less_equal(rows["shard"], last)))
    return found.take(pc.sort_indices(found["shard"]))


def record(
    column: Column,
    shard: int,
    generation: int,
    counts: tuple[int, int, int, int],
    rows: Mapping[str, int],
    stats_json: str | None = None,
) -> dict:
    """The commit record of a shard that is committed with all others (`commit_version`) and has no tar.

    Args:
        counts: items that entered, were kept, were dropped, failed.
        rows: by table, how many the shard has.
    """
    num_in, num_kept, num_dropped, num_failed = counts
    return {
        "column": column.name,
        "fingerprint": column.fingerprint,
        "shard": shard,
        "generation": generation,
        "num_in": num_in,
        "num_kept": num_kept,
        "num_dropped": num_dropped,
        "num_failed": num_failed,
        "stats_json": stats_json,
        "members": [],
        "parts": [{"table": name, "rows": count, "sha256": ""} for name, count in sorted(rows.items())],
    }


def tars_of(dataset: Dataset, found: Iterable[Snapshot]) -> set[str]:
    """Paths inside the dataset of the tars that snapshots' records name."""
    tars, seen = set[str](), set[str]()
    for snapshot in found:
        for version in snapshot.columns.values():
            for one in version.tables.get("shards", ()):
                if one.path not in seen:
                    seen.add(one.path)
                    rows = read_parts(dataset, "shards", [dataset.path(*one.path.split("/"))], ["tar"])
                    tars.update(rows["tar"].drop_null().to_pylist())
    return tars


def named_snapshots(dataset: Dataset) -> list[Snapshot]:
    filesystem, root = dataset.filesystem, dataset.root
    return [snapshots.named(filesystem, root, name)[0] for name in snapshots.names(filesystem, root)]


def take_out(dataset: Dataset, column: Column, shards: list[int]) -> None:
    """Make merged files without some shards, and a snapshot that no longer covers them.

    Raises:
        SupersededError: another has published a snapshot at the same time.
    """
    before = dataset.snapshot
    version = before.version(column)
    for first, out in _by_file(shards).items():
        new = dict[str, Iterable[pa.Table]]()
        for name in version.tables:
            if paths := _paths(dataset, _of_file(version, name, first)):
                new[name] = rows_of(dataset, name, paths, ~pc.field("shard").isin(out))
        version, _ = _replaced(dataset, column, version, first, new, 0)
    version = replace(version, shards=ranges(set(version.numbers()) - set(shards)))
    columns = {**before.columns, str(column): version}
    if not version.shards:
        del columns[str(column)]
    _publish(dataset, Snapshot(before.number + 1, columns))


def write_merged(
    dataset: Dataset, name: str, column: Column, before: Merged, rows: Iterable[pa.Table]
) -> Merged | None:
    """A merged file with other rows in the place of another; None where there are none. See `_write`."""
    first = before.first - before.first % SHARDS_A_FILE
    return _write(dataset, name, column, first, rows, time.time_ns())


def clean(dataset: Dataset, keeps_previous: bool = True) -> int:
    """Remove small files of shards that the snapshot covers, and merged files that no snapshot names.

    Args:
        keeps_previous: keep the snapshot before the newest and its files, for those who read it now.

    Returns:
        How many files it removed.
    """
    dataset.refresh()
    snapshot, filesystem = dataset.snapshot, dataset.filesystem
    if not snapshot.number:
        return 0
    first = snapshot.number - int(keeps_previous)
    snapshots.forget_older(filesystem, dataset.root, first)
    kept = snapshots.kept(filesystem, dataset.root, first)
    names = {one.path for found in kept for one in found.files()}
    gone = []
    for table in storage.list_folders(filesystem, dataset.path("tables")):
        for name in storage.list_folders(filesystem, dataset.path("tables", table)):
            version = snapshot.version(name)
            for info in storage.list_files(filesystem, dataset.path("tables", table, name), ".parquet"):
                if info.base_name.startswith("merged-"):
                    age_s = time.time() - (info.mtime_ns or 0) / 1e9
                    is_left = dataset.relative(info.path) in names or (keeps_previous and age_s < QUIET_S)
                    is_gone = not is_left
                else:
                    is_gone = info.base_name[:6].isdigit() and version.covers(
                        int(info.base_name.partition("-")[0].partition(".")[0])
                    )
                if is_gone:
                    gone.append(info.path)
            if storage.is_local(filesystem):
                sweep(Path(dataset.path("tables", table, name)))
    if storage.is_local(filesystem):
        sweep(Path(dataset.path("snapshots")))
    storage.delete_files(filesystem, gone)
    return len(gone)
