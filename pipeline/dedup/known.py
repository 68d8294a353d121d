"""What a search for near-duplicates leaves in the dataset, so that the next one looks at new clips alone.

A folder under `keys/` for each search, by the name of the column version that it made: the frames, tables and
names of the clips that were new to it, and all matches and groups known after it. `run.json` is written last
and makes the folder count. All of it can be made again from the hashes: what is damaged or missing costs the
next search time, nothing else. A takedown removes it whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.json_files import read_object
from pipeline.dedup.grouping import Group
from pipeline.dedup.kept import FOLDER, Kept

FORMAT = 1
MAX_SHARE, MAX_CHAIN = 0.25, 32
"""With more clips that are new or gone than this share of the first search's, all are searched again; so with
a longer chain."""


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
