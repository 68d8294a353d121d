"""The commit protocol: a shard's column is there in full, or not at all, and of two commits one counts.

Order: tar to a temporary name, fsync, its name by its bytes; then each table part, named by its bytes; last
the commit record in `tables/shards`, which names the others and is made only where there is none. So nothing
that is committed is ever replaced, whoever writes at the same time, and readers follow records. Whatever dies
in between leaves files that no record names.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.schemas import to_table, with_parts
from manifests.store import storage
from manifests.store.shards import TarWriter
from manifests.tables.records import record_of

QUIET_S = 60.0
"""Age from which an unfinished file that no process holds is debris of an attempt that died."""


class SupersededError(RushesError):
    """Another writer has committed this first; what it wrote counts, and this is not lost."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "was made by another writer at the same time", "Give the same command again.")

    def __reduce__(self) -> tuple:
        return type(self), (self.subject,)


@dataclass(frozen=True)
class Account:
    """What happened to the items of a stage: `num_in = num_kept + num_dropped + num_failed`, always."""

    num_in: int
    num_kept: int
    num_dropped: int
    num_failed: int

    def __post_init__(self) -> None:
        if self.num_in != self.num_kept + self.num_dropped + self.num_failed:
            raise ValueError(
                f"items unaccounted for: {self.num_in} in, {self.num_kept} kept, {self.num_dropped} "
                f"dropped, {self.num_failed} failed"
            )

    def __add__(self, other: Account) -> Account:
        return Account(
            self.num_in + other.num_in,
            self.num_kept + other.num_kept,
            self.num_dropped + other.num_dropped,
            self.num_failed + other.num_failed,
        )


ROWS_A_GROUP = 1024
"""A reader of one shard reads the row groups in which it lies."""


def parquet_bytes(table: pa.Table) -> bytes:
    """Parquet bytes that depend on the table alone."""
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_A_GROUP,
        compression="zstd",
        version="2.6",
        store_schema=True,
        write_page_checksum=True,
    )
    return sink.getvalue()


def write_part(dataset: Dataset, name: str, column: Column, shard: int, rows: list[dict]) -> dict:
    """Write one Parquet part, whole or not at all; none where there are no rows.

    Returns:
        What the commit record says of it.
    """
    if not rows:
        return {"table": name, "rows": 0, "sha256": ""}
    data = parquet_bytes(to_table(name, rows))
    digest = hashlib.sha256(data).hexdigest()
    storage.write_bytes(dataset.filesystem, dataset.part_path(name, column, shard, digest), data)
    return {"table": name, "rows": len(rows), "sha256": digest}


def commit_generation(
    dataset: Dataset, generation: int, segments: list[dict], tables: dict[str, list[dict]]
) -> None:
    """Append a generation to the plan: its tables, then the segments, which name them and make it exist.

    Raises:
        SupersededError: another writer has made a generation of this number; nothing of that is touched.
    """
    digests = {}
    for name, rows in sorted(tables.items()):
        data = parquet_bytes(to_table(name, rows))
        digests[name] = hashlib.sha256(data).hexdigest()
        path = dataset.plan_part_path(name, generation, digests[name])
        storage.write_bytes(dataset.filesystem, path, data)
    data = parquet_bytes(with_parts(to_table("segments", segments), digests))
    if not storage.create_bytes(dataset.filesystem, dataset.plan_path(generation), data):
        raise SupersededError(f"generation {generation}")


def sweep(folder: Path, quiet_s: float = QUIET_S) -> None:
    """Remove unfinished files of attempts that died; the writers of tars hold a lock on theirs."""
    for debris in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError), open(debris, "rb") as file:  # held, or swept by another
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - debris.stat().st_mtime > quiet_s:
                debris.unlink()


def read_record(dataset: Dataset, path: str) -> dict:
    """The commit record at `path`."""
    rows: list[dict] = pq.read_table(io.BytesIO(storage.read_bytes(dataset.filesystem, path))).to_pylist()
    return rows[0]


def written_by(dataset: Dataset, record: dict) -> set[str]:
    """Where the files lie that a commit record names."""
    column, shard = Column(record["column"], record["fingerprint"]), record["shard"]
    parts = {
        dataset.committed_part(part["table"], column, shard, part["sha256"])
        for part in record["parts"]
        if part["sha256"]
    }
    return parts | ({dataset.path(*record["tar"].split("/"))} if record.get("tar") else set())


def remove(dataset: Dataset, paths: set[str]) -> None:
    """Remove files; those that are gone already stay so."""
    storage.delete_files(dataset.filesystem, sorted(paths))


class ShardCommit:
    """One (shard, column) being written.

    Add tar members in clip order with `add`, then call `commit` once. Nothing is visible before. Leaving the
    context without a commit removes the temporary tar. A column without tar members (captions) gets no tar.
    """

    def __init__(self, dataset: Dataset, column: Column, shard: int, generation: int) -> None:
        self.dataset, self.column, self.shard, self.generation = dataset, column, shard, generation
        self._tar: TarWriter | None = None
        self._scratch: str | None = None

    def _writer(self) -> TarWriter:
        if self._tar is None:
            if storage.is_local(self.dataset.filesystem):
                folder = Path(self.dataset.tar_path(self.column, self.shard, "")).parent
                folder.mkdir(parents=True, exist_ok=True)
                sweep(folder)
                name = storage.temporary_name(str(folder / f"{self.shard:06d}.tar"))
            else:
                self._scratch = tempfile.mkdtemp(prefix="rushes-")
                name = os.path.join(self._scratch, "shard.tar")
            self._tar = TarWriter(Path(name))
        return self._tar

    def add(self, name: str, data: bytes) -> None:
        self._writer().add(name, data)

    def commit(self, tables: dict[str, list[dict]], account: Account, stats: dict | None = None) -> None:
        """Publish the tar, then the parts, then the commit record, unless there is one by now.

        Args:
            tables: rows of each table that this column writes; one without rows is named in the record alone.
            account: what happened to the items that entered.
            stats: JSON-able statistics of the column that merge across shards.

        Raises:
            SupersededError: another writer has committed it; nothing of that is touched.
        """
        dataset, filesystem = self.dataset, self.dataset.filesystem
        dataset.check_there()
        record: dict = {
            "column": self.column.name,
            "fingerprint": self.column.fingerprint,
            "shard": self.shard,
            "generation": self.generation,
            "num_in": account.num_in,
            "num_kept": account.num_kept,
            "num_dropped": account.num_dropped,
            "num_failed": account.num_failed,
            "stats_json": json.dumps(stats, sort_keys=True) if stats is not None else None,
            "members": [],
        }
        if self._tar is not None:
            self._tar.close()
            target = dataset.tar_path(self.column, self.shard, self._tar.sha256)
            storage.publish(filesystem, self._tar.path, target)
            record |= {
                "tar": dataset.relative(target),
                "tar_bytes": self._tar.size_bytes,
                "tar_sha256": self._tar.sha256,
                "members": [member.as_row() for member in self._tar.members],
            }
        record["parts"] = [
            write_part(dataset, name, self.column, self.shard, rows) for name, rows in sorted(tables.items())
        ]
        path = dataset.record_path(self.column, self.shard)
        is_first = storage.create_bytes(filesystem, path, parquet_bytes(to_table("shards", [record])))
        dataset.refresh()
        if is_first and dataset.covers(self.column, self.shard):  # that of another was merged and removed
            dataset.filesystem.delete_file(path)
            is_first = False
        if not is_first:
            first = record_of(dataset, self.column, self.shard)
            if dataset.covers(self.column, self.shard):
                first["parts"] = []  # they were merged and removed
            theirs = written_by(dataset, first)
            remove(dataset, written_by(dataset, record) - theirs)
            raise SupersededError(f"{self.column} shard {self.shard}")

    def __enter__(self) -> ShardCommit:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar.path.unlink(missing_ok=True)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
