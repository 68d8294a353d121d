"""The commit protocol: a shard's column is there in full, or not at all.

Order: tar to a temporary name, fsync, rename; then each table part; last the `shards` part, which is the
commit record. Whatever dies in between leaves debris that the next run overwrites with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.store import storage
from manifests.store.shards import TarWriter


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


def parquet_bytes(table: pa.Table) -> bytes:
    """Parquet bytes that depend on the table alone."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", version="2.6", store_schema=True)
    return sink.getvalue()


def write_part(dataset: Dataset, path: str, table: pa.Table) -> str:
    """Write one Parquet part, whole or not at all. Returns the sha256 of its bytes."""
    data = parquet_bytes(table)
    storage.write_bytes(dataset.filesystem, path, data)
    return hashlib.sha256(data).hexdigest()


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
            target = self.dataset.tar_path(self.column, self.shard)
            if storage.is_local(self.dataset.filesystem):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                for debris in Path(target).parent.glob(
                    f".{Path(target).name}.*.tmp"
                ):  # of an attempt that died
                    debris.unlink(missing_ok=True)
                name = storage.temporary_name(target)
            else:
                self._scratch = tempfile.mkdtemp(prefix="rushes-")
                name = os.path.join(self._scratch, "shard.tar")
            self._tar = TarWriter(Path(name))
        return self._tar

    def add(self, name: str, data: bytes) -> None:
        self._writer().add(name, data)

    def commit(self, tables: dict[str, list[dict]], account: Account, stats: dict | None = None) -> None:
        """Publish the tar, then the parts, then the commit record.

        Args:
            tables: rows of each table that this column writes. Empty tables are written too: an absent part
                means "not done".
            account: what happened to the items that entered.
            stats: JSON-able statistics of the column that merge across shards.
        """
        dataset, filesystem = self.dataset, self.dataset.filesystem
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
            target = dataset.tar_path(self.column, self.shard)
            storage.publish(filesystem, self._tar.path, target)
            record |= {
                "tar": dataset.relative(target),
                "tar_bytes": self._tar.size_bytes,
                "tar_sha256": self._tar.sha256,
                "members": [member.as_row() for member in self._tar.members],
            }
        parts = []
        for name, rows in sorted(tables.items()):
            digest = write_part(
                dataset, dataset.part_path(name, self.column, self.shard), to_table(name, rows)
            )
            parts.append({"table": name, "rows": len(rows), "sha256": digest})
        record["parts"] = parts
        write_part(
            dataset, dataset.part_path("shards", self.column, self.shard), to_table("shards", [record])
        )

    def __enter__(self) -> ShardCommit:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar.path.unlink(missing_ok=True)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
