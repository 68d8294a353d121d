"""Every commit of a column version: its record, its parts, its tar."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from manifests.checking.files import check_alone, check_members, check_rows
from manifests.checking.found import Checked, Report
from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.store import storage
from manifests.store.shards import Member
from manifests.tables import records
from manifests.tables.parts import named
from manifests.writing.commit import Account


def check_column(dataset: Dataset, column: Column, deep: bool, report: Report) -> Iterator[Checked]:
    """Every commit of a column version: those in small files, and those that were merged."""
    folder = dataset.path("columns", str(column))
    try:
        tars = storage.list_files(dataset.filesystem, folder, ".tar", recursive=False)
    except OSError as error:  # of a key that no store of ours would write
        report.problems.append(f"{folder}: cannot be listed ({error}); remove what does not belong there")
        tars = []
    sizes, depth = {info.path: info.size for info in tars}, "deep" if deep else "cheap"
    times = {dataset.relative(info.path): info.mtime_ns for info in tars}
    seen = set[int]()
    for name in storage.list_folders(dataset.filesystem, dataset.path("tables", "shards", str(column))):
        if name.endswith(".parquet"):
            report.problems.append(f"{dataset.path('tables', 'shards', str(column), name)}: is a folder")
    for shard in dataset.loose_shards(column):
        report.num_shards += 1
        path, found, tar = dataset.record_path(column, shard), list[str](), None
        info = dataset.filesystem.get_file_info(path)
        try:
            if deep:
                found += check_alone(dataset, "shards", path)
            record = records.record_of(dataset, column, shard)
            tar = record["tar"]
            found += check_parts(dataset, record, deep)
            found += check_shard(dataset, record, sizes, deep, report)
        except (OSError, ValueError, TypeError, KeyError, RushesError) as error:  # of a damaged record
            found.append(f"{path}: unreadable commit record ({error})")
        if found:
            dataset.refresh()
            if dataset.covers(column, shard):  # it has been merged meanwhile, and is looked at below
                report.num_shards -= 1
                continue
        seen.add(shard)
        yield Checked(
            str(column),
            shard,
            depth,
            not found,
            found,
            f"{info.size}-{info.mtime_ns}",
            tar,
            times.get(tar or "", 0),
        )
    for merged in dataset.snapshot.version(column).tables.get("shards", ()):
        path = dataset.path(*merged.path.split("/"))
        try:
            with named(path), dataset.filesystem.open_input_file(path) as file:
                for batch in pq.ParquetFile(file).iter_batches(64):
                    for record in batch.to_pylist():
                        if record["shard"] in seen:
                            continue
                        report.num_shards += 1
                        found = list(check_shard(dataset, record, sizes, deep, report))
                        is_sound, tar = not found, record["tar"]
                        told = (merged.stamp, tar, times.get(tar or "", 0))
                        yield Checked(str(column), record["shard"], depth, is_sound, found, *told)
        except (OSError, RushesError) as error:
            report.problems.append(f"{path}: cannot be read ({error})")


def check_parts(dataset: Dataset, record: dict, deep: bool) -> Iterator[str]:
    """The small files that a record names."""
    column = Column(record["column"], record["fingerprint"])
    for part in record["parts"]:
        if not part["sha256"]:
            continue
        path = dataset.committed_part(part["table"], column, record["shard"], part["sha256"])
        if not storage.exists(dataset.filesystem, path):
            yield f"{path}: is missing"
        elif deep and storage.sha256_of(dataset.filesystem, path) != part["sha256"]:
            yield f"{path}: bytes have changed (sha256)"
        else:
            yield from check_rows(dataset, path, part["rows"])


def check_shard(
    dataset: Dataset, record: dict, sizes: dict[str, int], deep: bool, report: Report
) -> Iterator[str]:
    """A commit's account and its tar.

    Args:
        sizes: of the tars that the column has, by their path.
    """
    try:
        Account(record["num_in"], record["num_kept"], record["num_dropped"], record["num_failed"])
    except ValueError as error:
        yield f"{record['column']}@{record['fingerprint']} shard {record['shard']}: {error}"
    if record["tar"] is None:
        return
    path = dataset.path(*record["tar"].split("/"))
    report.num_members += len(record["members"])
    report.num_bytes += record["tar_bytes"]
    if path not in sizes:
        yield f"{path}: is missing"
    elif sizes[path] != record["tar_bytes"]:
        yield f"{path}: has {sizes[path]} bytes, {record['tar_bytes']} were committed"
    elif deep:
        if storage.sha256_of(dataset.filesystem, path) != record["tar_sha256"]:
            yield f"{path}: bytes have changed (sha256)"
        yield from check_members(dataset, path, [Member(**member) for member in record["members"]])
