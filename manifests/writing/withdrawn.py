"""Commits taken back, so that what failed is made again and the rest is copied from them.

`withdraw` moves a commit record out of readers' sight and leaves what it names where it lies. The stage that
makes the column again copies from there (`Withdrawn`) what had not failed, byte for byte. Once a shard is
whole again, `forget` removes what no record names any more. Whatever dies in between, the next run goes on
from what is there.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.store import storage
from manifests.store.shards import Member, read_member
from manifests.tables.records import record_of, rows_of_shard
from manifests.writing.commit import parquet_bytes, read_record, remove, write_part, written_by
from manifests.writing.compact import named_snapshots, take_out, tars_of


def _path(dataset: Dataset, column: Column, shard: int) -> str:
    return dataset.path(
        "runs", "withdrawn", str(column), PurePosixPath(dataset.record_path(column, shard)).name
    )


def withdraw(dataset: Dataset, column: Column, shards: Sequence[int]) -> None:
    """Take commits back.

    Raises:
        FileNotFoundError: there is none of a shard.
    """
    dataset.refresh()
    merged = [shard for shard in shards if dataset.covers(column, shard)]
    for shard in merged:
        _keep(dataset, column, shard)
    if merged:
        # what a compaction that died has left of them would count again
        storage.delete_files(dataset.filesystem, [dataset.record_path(column, shard) for shard in merged])
        take_out(dataset, column, merged)
    for shard in sorted(set(shards) - set(merged)):
        path = dataset.record_path(column, shard)
        data = storage.read_bytes(dataset.filesystem, path)
        storage.write_bytes(dataset.filesystem, _path(dataset, column, shard), data)
        dataset.filesystem.delete_file(path)


def _keep(dataset: Dataset, column: Column, shard: int) -> None:
    """Write what a merged commit held as small files again, with a record of its own."""
    record = record_of(dataset, column, shard)
    record["parts"] = [
        write_part(
            dataset, part["table"], column, shard, rows_of_shard(dataset, part["table"], column, shard)
        )
        for part in record["parts"]
    ]
    data = parquet_bytes(to_table("shards", [record]))
    storage.write_bytes(dataset.filesystem, _path(dataset, column, shard), data)


def unfinished(dataset: Dataset) -> list[tuple[Column, int]]:
    """Commits that were taken back and have not been made again."""
    infos = storage.list_files(dataset.filesystem, dataset.path("runs", "withdrawn"), ".parquet")
    places = [PurePosixPath(info.path) for info in infos]
    found = [(Column.parse(path.parent.name), int(path.stem)) for path in places]
    return [(column, shard) for column, shard in found if not dataset.is_committed(column, shard)]


def forget(dataset: Dataset, columns: Sequence[Column]) -> None:
    """Remove what was taken back of every shard that has all of these columns again."""
    left = defaultdict(list)
    tars = {dataset.path(*tar.split("/")) for tar in tars_of(dataset, named_snapshots(dataset))}
    for column in columns:
        for info in storage.list_files(dataset.filesystem, dataset.path("runs", "withdrawn", str(column))):
            left[int(PurePosixPath(info.path).stem)].append((column, info.path))
    for shard, found in sorted(left.items()):
        if not all(dataset.is_committed(column, shard) for column in columns):
            continue
        for column, path in found:
            with contextlib.suppress(OSError, pa.ArrowException):  # a damaged record names nothing
                now = written_by(dataset, record_of(dataset, column, shard))
                remove(dataset, written_by(dataset, read_record(dataset, path)) - now - tars)
            dataset.filesystem.delete_file(path)


class Withdrawn:
    """What a shard's column held before it was taken back; false where nothing was."""

    def __init__(self, dataset: Dataset, column: Column, shard: int) -> None:
        self.dataset, self.column, self.shard = dataset, column, shard
        path = _path(dataset, column, shard)
        self.record, self._tables = None, dict[str, list[dict]]()
        with contextlib.suppress(OSError, pa.ArrowException):  # damaged: then all is made again
            if storage.exists(dataset.filesystem, path):
                record = read_record(dataset, path)
                self._tables = {part["table"]: self._read(part) for part in record["parts"]}
                self.record = record
        self._members: dict[str, list[Member]] = defaultdict(list)
        for row in self.record["members"] if self.record else ():
            member = Member(**row)
            self._members[member.key].append(member)

    def __bool__(self) -> bool:
        return self.record is not None

    def rows(self, name: str) -> list[dict]:
        """Rows of a table that the column wrote, in stored order; [] where nothing was taken back."""
        return self._tables.get(name, []) if self.record else []

    def _read(self, part: dict) -> list[dict]:
        if not part["sha256"]:
            return []
        path = self.dataset.committed_part(part["table"], self.column, self.shard, part["sha256"])
        data = storage.read_bytes(self.dataset.filesystem, path)
        rows: list[dict] = pq.read_table(io.BytesIO(data)).to_pylist()
        return rows

    def members(self, key: str) -> list[tuple[str, bytes]]:
        """Names and bytes of an item's members, in tar order.

        Raises:
            IntegrityError: a member is not as it was committed.
        """
        if not self.record or not self._members[key]:
            return []
        tar = self.dataset.path(*self.record["tar"].split("/"))
        return [
            (member.name, read_member(self.dataset.filesystem, tar, member)) for member in self._members[key]
        ]
