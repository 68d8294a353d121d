"""The folder of one search for near-duplicates: frames, sorted tables and names of its new clips.

Parquet without compression or dictionaries, with a checksum a page: read whole, or a row group at a time.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.layout import Dataset
from manifests.store import storage
from pipeline.dedup.keys import Frames
from pipeline.dedup.search import Blocks, Table, alike

FOLDER = "keys"
_AT_HAND = 32
"""Searches whose frames' bits are held in a process."""
_FRAME_ROWS, _TABLE_ROWS = 1 << 14, 1 << 20
_FRAME = pa.schema(
    [
        pa.field("owner", pa.uint32()),
        pa.field("bits", pa.uint64()),
        pa.field("log_aspect", pa.float32()),
        pa.field("small", pa.binary(64)),
    ]
)


@dataclass(frozen=True)
class Kept:
    """The folder of one search. Sent to tasks as it is."""

    dataset: Dataset
    name: str
    num_clips: int = 0

    def path(self, file: str) -> str:
        return self.dataset.path(FOLDER, self.name, file)

    def write(self, file: str, rows: Iterable[pa.Table], schema: pa.Schema, group: int = _TABLE_ROWS) -> None:
        """Write a table, whole or not at all."""
        target = self.path(file)
        is_local = storage.is_local(self.dataset.filesystem)
        if is_local:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        scratch = target if is_local else os.path.join(tempfile.gettempdir(), file)
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with storage.beside(scratch) as temporary:
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True, **plain) as writer:
                for part in rows:
                    writer.write_table(part, row_group_size=group)
            storage.publish(self.dataset.filesystem, temporary, target)

    def read(self, file: str, columns: Sequence[str] | None = None) -> pa.Table:
        return pq.read_table(
            self.path(file),
            columns=columns,
            filesystem=self.dataset.filesystem,
            partitioning=None,
            page_checksum_verification=True,
        )

    def write_frames(self, blocks: Sequence[Frames]) -> None:
        """The frames of all clips, numbered through, and the clips too."""
        every = Blocks(blocks)
        _bits.cache_clear()  # a folder of this name may have been there before

        def parts() -> Iterator[pa.Table]:
            for number, block in enumerate(blocks):
                begin, end = every.first_frame[number], every.first_frame[number + 1]
                small = np.ascontiguousarray(block.small).tobytes()
                columns = [
                    pa.array(every.owner[begin:end]),
                    pa.array(every.bits[begin:end]),
                    pa.array(np.asarray(block.log_aspects)),
                    pa.FixedSizeBinaryArray.from_buffers(
                        pa.binary(64), int(end - begin), [None, pa.py_buffer(small)]
                    ),
                ]
                yield pa.table(columns, _FRAME)

        self.write("frames.parquet", parts(), _FRAME, _FRAME_ROWS)

    def bits(self) -> np.ndarray:
        """[n] uint64 of all frames; kept in this process, as each table needs them."""
        return _bits(self.dataset.address, self.name)

    def write_table(self, number: int, table: Table) -> None:
        rows = pa.table({"frame": table.frames})
        self.write(f"table-{number:02d}.parquet", [rows], rows.schema)
        starts = pa.table({"start": table.starts})
        self.write(f"starts-{number:02d}.parquet", [starts], starts.schema)

    def table(self, number: int) -> Table:
        frames = self.read(f"table-{number:02d}.parquet")["frame"].to_numpy()
        return Table(frames, self.read(f"starts-{number:02d}.parquet")["start"].to_numpy())

    def clips(self) -> pa.Table:
        """Names (`clip_id`) and shards of its clips, in order of their numbers."""
        return self.read("clips.parquet")

    def alike(self, new: Blocks, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Pairs of clips [p, 2] int64, a new one and one of these, of which a pair of frames is alike.

        Args:
            first, second: frames of new clips and of these.
        """
        found = [np.zeros((0, 2), np.int64)]
        order = np.argsort(second, kind="stable")
        first, second = first[order], second[order]
        with self.dataset.filesystem.open_input_file(self.path("frames.parquet")) as file:
            parquet, begin = pq.ParquetFile(file, page_checksum_verification=True), 0
            for group in range(parquet.num_row_groups):
                end = begin + parquet.metadata.row_group(group).num_rows
                mine = slice(*np.searchsorted(second, [begin, end]))
                if mine.start < mine.stop:
                    rows = parquet.read_row_group(group)
                    old = Blocks([_frames(rows)])
                    others = second[mine] - np.uint32(begin)
                    near = alike(new, first[mine], old, others)
                    owners = [new.owner[first[mine][near]], old.blocks[0].owner[others[near]]]
                    found.append(np.unique(np.stack(owners, 1).astype(np.int64), axis=0))
                begin = end
        return np.unique(np.concatenate(found), axis=0)


@functools.lru_cache(maxsize=_AT_HAND)
def _bits(address: str, name: str) -> np.ndarray:
    rows = Kept(Dataset(address), name).read("frames.parquet", ["bits"])
    return np.asarray(rows["bits"].to_numpy())


def _frames(rows: pa.Table) -> Frames:
    """The frames of a row group; their clips are not counted."""
    small = rows["small"].combine_chunks()
    steps = np.frombuffer(small.buffers()[1], np.int8)
    steps = steps[64 * small.offset : 64 * (small.offset + len(small))].reshape(-1, 64)
    owner, bits, aspects = (rows[name].to_numpy() for name in ("owner", "bits", "log_aspect"))
    return Frames(0, 0, owner, bits, steps, aspects)
