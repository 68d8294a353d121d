"""What a search for near-duplicates leaves in the dataset, so that the next one looks at new clips alone.

A folder under `keys/` for each search, by the name of the column version that it made: the frames, tables and
names of the clips that were new to it, and all matches and groups known after it. `run.json` is written last
and makes the folder count. All of it can be made again from the hashes: what is damaged or missing costs the
next search time, nothing else. A takedown removes it whole.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.json_files import read_object
from pipeline.dedup.grouping import Group
from pipeline.dedup.keys import Frames
from pipeline.dedup.search import Blocks, Table, alike

FORMAT = 1
FOLDER = "keys"
MAX_SHARE, MAX_CHAIN = 0.25, 32
"""With more clips that are new or gone than this share of the first search's, all are searched again; so with
a longer chain."""
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
        temporary = Path(storage.temporary_name(scratch))
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        try:
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True, **plain) as writer:
                for part in rows:
                    writer.write_table(part, row_group_size=group)
            storage.publish(self.dataset.filesystem, temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

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


@functools.lru_cache(maxsize=MAX_CHAIN)
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


@dataclass
class Known:
    """What earlier searches found that still holds.

    Attributes:
        chain: searches, each of the clips that were new to it.
        shards: of each search its shards that are as they were.
        matches: distance of each pair of clips that match (smaller id first).
        groups: groups of these.
        changed: clips that matched one that is gone.
    """

    chain: list[Kept] = field(default_factory=list)
    shards: list[set[int]] = field(default_factory=list)
    matches: dict[tuple[str, str], float] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)


_MATCHES = pa.schema([("first", pa.string()), ("second", pa.string()), ("distance", pa.float64())])
_SHARDS = pa.schema([("shard", pa.int32()), ("digest", pa.string())])


def keep(
    kept: Kept,
    settings: str,
    known: Known,
    digests: Mapping[int, str],
    clips: pa.Table,
    matches: Mapping[tuple[str, str], float],
    groups: Sequence[Group],
) -> None:
    """Write the rest of a search's folder, and remove folders that it replaces or that are of no use.

    Args:
        digests: of the shards that were new to it.
        clips: `clip_id` and `shard` of the clips that were.
    """
    kept.write("clips.parquet", [clips], clips.schema)
    shards = pa.table({"shard": list(digests), "digest": list(digests.values())}, _SHARDS)
    kept.write("shards.parquet", [shards], _SHARDS)
    pairs = [(one, two, gap) for (one, two), gap in matches.items()]
    kept.write("matches.parquet", [_pairs(pairs)], _MATCHES)
    members = [
        (found.kept, other, gap)
        for found in groups
        for other, gap in zip(found.others, found.distances, strict=True)
    ]
    kept.write("groups.parquet", [_pairs(members)], _MATCHES)
    before = [one.name for one in known.chain]
    note = {"format": FORMAT, "settings": settings, "before": before, "num_clips": clips.num_rows}
    dataset = kept.dataset
    storage.write_bytes(dataset.filesystem, kept.path("run.json"), json.dumps(note).encode())
    for name in storage.list_folders(dataset.filesystem, dataset.path(FOLDER)):
        if name not in (kept.name, *before):  # replaced, of other settings, or of a search that died
            forget(dataset, name)


def _pairs(rows: Sequence[tuple[str, str, float]]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], _MATCHES)


def _notes(dataset: Dataset) -> dict[str, dict]:
    """What the folders that count say of themselves."""
    found = {}
    for name in storage.list_folders(dataset.filesystem, dataset.path(FOLDER)):
        path = dataset.path(FOLDER, name, "run.json")
        if storage.exists(dataset.filesystem, path):
            try:
                note = read_object(
                    dataset.filesystem, path, keys=("format", "settings", "before", "num_clips")
                )
            except RushesError as error:
                say(f"dedup: {error}: what that search left is not used")
                continue
            if note["format"] == FORMAT:
                found[name] = note
    return found


def forget(dataset: Dataset, name: str) -> None:
    """Remove what a search left; `run.json` goes first."""
    infos = storage.list_files(dataset.filesystem, dataset.path(FOLDER, name), "")
    paths = [info.path for info in infos]
    paths.sort(key=lambda path: not path.endswith("run.json"))
    storage.delete_files(dataset.filesystem, paths)
    if storage.is_local(dataset.filesystem):
        shutil.rmtree(dataset.path(FOLDER, name), ignore_errors=True)


def recall(dataset: Dataset, settings: str, digests: Mapping[int, str]) -> Known:
    """What earlier searches with the same settings found of shards that are as they were.

    Args:
        digests: of all shards, as they are now.
    """
    try:
        return _recall(dataset, settings, digests)
    except (OSError, pa.ArrowException, RushesError, LookupError, TypeError, ValueError) as error:
        say(f"dedup: what the last search left cannot be read, so all clips are searched ({error})")
        return Known()


def _is_in(clips: pa.Table, shards: set[int]) -> pa.ChunkedArray:
    return pc.is_in(clips["shard"], pa.array(sorted(shards), pa.int32()))


def _recall(dataset: Dataset, settings: str, digests: Mapping[int, str]) -> Known:
    notes = {name: note for name, note in _notes(dataset).items() if note["settings"] == settings}
    if not notes:
        return Known()
    newest = max(notes, key=lambda name: len(notes[name]["before"]))
    names = [*notes[newest]["before"], newest]
    chain = [Kept(dataset, name, notes[name]["num_clips"]) for name in names]
    shards, gone, num_gone = list[set[int]](), set[str](), 0
    for one in chain:
        rows = one.read("shards.parquet").to_pylist()
        same = {row["shard"] for row in rows if digests.get(row["shard"]) == row["digest"]}
        same -= set().union(*shards)
        shards.append(same)
        if len(same) < len(rows):
            clips = one.clips()
            lost = clips.filter(pc.invert(_is_in(clips, same)))
            gone.update(lost["clip_id"].to_pylist())
            num_gone += lost.num_rows
    for one, same in zip(chain, shards, strict=True) if gone else ():
        clips = one.clips()  # what was searched again since is not gone
        gone.difference_update(clips.filter(_is_in(clips, same))["clip_id"].to_pylist())
    sizes = [one.num_clips for one in chain]
    if len(chain) > MAX_CHAIN or sum(sizes[1:]) + num_gone > MAX_SHARE * sizes[0]:
        return Known()
    rows = chain[-1].read("matches.parquet").to_pydict()
    pairs = zip(rows["first"], rows["second"], rows["distance"], strict=True)
    matches = {(one, two): gap for one, two, gap in pairs}
    out = {pair for pair in matches if gone.intersection(pair)} if gone else set()
    known = Known(chain, shards, {pair: gap for pair, gap in matches.items() if pair not in out})
    known.changed = {clip_id for pair in out for clip_id in pair}
    groups = dict[str, list[tuple[str, float]]]()
    for row in chain[-1].read("groups.parquet").to_pylist():
        groups.setdefault(row["first"], []).append((row["second"], row["distance"]))
    for kept, others in groups.items():
        known.groups.append(Group(kept, [name for name, _ in others], [gap for _, gap in others]))
    return known
