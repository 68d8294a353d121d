"""Takedown: a source goes, with its clips, captions, latents and every row that names it.

First a note of what is to go (`removed/pending.json`): from then on views leave it out. Then the tables are
compacted, every merged file and every tar that has something of it is written anew without it, and one new
snapshot names the new files; only then are the old ones removed. What died midway is gone on with by the next
`rushes remove` or `rushes compact`. In the end the dataset keeps a hash of the source's id, so that it is not
taken in again, and nothing else of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from manifests import snapshots
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.snapshots import Merged, Snapshot, Version
from manifests.store import storage
from manifests.store.json_files import read_object
from manifests.store.shards import Member, TarWriter, read_member
from manifests.tables import scans
from manifests.tables.parts import read_parts
from manifests.writing.commit import SupersededError, sweep
from manifests.writing.compact import clean, compact, named_snapshots, tars_of, write_merged
from manifests.writing.regrouping import regrouped, without_groups
from manifests.writing.scrubbing import replaced, scrub_plan, scrub_texts, trainings_with
from manifests.writing.withdrawn import unfinished

_NAMES_IT = ("source_id", "clip_id", "segment_id", "item_id")
_MAIN = {"preview": "clips", "embed": "embeddings", "text": "text", "latent": "latents"}
_MAIN |= {"score": "scores", "verdict": "verdicts", "map": "map"}
"""The table of a column in which each clip that it kept has a row; captions are judged, see `_kept`."""


@dataclass
class Removed:
    """What a takedown did."""

    sources: list[str]
    num_clips: int = 0
    num_rows: int = 0
    num_members: int = 0
    tars: set[str] = field(default_factory=set)
    """Paths of the tars that were written anew."""
    runs: list[str] = field(default_factory=list)
    """Trainings that had read of them."""


def token(source_id: str) -> str:
    """What stands for a source that was removed: nothing leads back from it to the id."""
    return "removed-" + hashlib.sha256(source_id.encode()).hexdigest()[:16]


def _pending(dataset: Dataset) -> str:
    return dataset.path("removed", "pending.json")


def _done(dataset: Dataset) -> str:
    return dataset.path("removed", "done.json")


def _note_of(dataset: Dataset, path: str, key: str) -> dict[str, Any]:
    """A note, with an empty `key` where there is none."""
    there = storage.exists(dataset.filesystem, path)
    return read_object(dataset.filesystem, path, keys=(key,)) if there else {key: {}}


def pending(dataset: Dataset) -> dict[str, list[str]]:
    """Sources that are to go and their addresses: a takedown that has not ended."""
    return dict(_note_of(dataset, _pending(dataset), "sources")["sources"])


def tokens(dataset: Dataset) -> set[str]:
    """Tokens of all sources that were removed."""
    return {row["token"] for row in _note_of(dataset, _done(dataset), "removed")["removed"]}


def remove(
    dataset: Dataset, sources: Mapping[str, str], reason: str = "", read_by: Sequence[str] = ()
) -> Removed:
    """Take sources down, and those of a takedown that has not ended.

    Args:
        sources: their ids, and an address of each; all that the plan knows are looked up.
        reason: kept with their tokens.
        read_by: trainings elsewhere that had read of them, kept too.

    Raises:
        SupersededError: another has published a snapshot at the same time.
        UsageError: a retry has taken commits back and not made them again.
    """
    if unfinished(dataset):
        raise UsageError(
            dataset.uri,
            "has a `rushes retry` that did not end: what it took back would be lost",
            "Run `rushes retry` or `rushes ingest` with the same settings to its end, then this again.",
        )
    before = _note_of(dataset, _pending(dataset), "sources")
    ids = sorted({*sources, *before["sources"]})
    done = Removed(ids)
    if not ids:
        return done
    where = pc.field("source_id").isin(pa.array(ids))
    known = scans.table(dataset, "sources", None, ["source_id", "uri"], where).to_pylist()
    named = {key: set(before["sources"].get(key, ())) | {sources.get(key, "")} - {""} for key in ids}
    for row in known:
        named[row["source_id"]].add(row["uri"])
    words = {word: token(key) for key, uris in named.items() for word in (key, *uris)}
    done.runs = sorted({*read_by, *before.get("read_by", ()), *trainings_with(dataset, words)})
    note = {
        "sources": {key: sorted(uris) for key, uris in named.items()},
        "reason": reason or before.get("reason", ""),
        "read_by": done.runs,
    }
    storage.write_bytes(dataset.filesystem, _pending(dataset), json.dumps(note).encode())
    compact(dataset)
    storage.delete_files(dataset.filesystem, [info.path for info in _left_by_searches(dataset)])
    if storage.is_local(dataset.filesystem):
        shutil.rmtree(dataset.path("keys"), ignore_errors=True)
    _rewrite_tables(dataset, done, words)
    scrub_plan(dataset, set(ids))
    scrub_texts(dataset, words, set(done.runs))
    rows = list(_note_of(dataset, _done(dataset), "removed")["removed"])
    own = {"reason": note["reason"], "removed_s": round(time.time(), 3), "read_by": done.runs}
    rows += [{"token": token(key), **own} for key in ids]
    storage.write_bytes(dataset.filesystem, _done(dataset), json.dumps({"removed": rows}, indent=1).encode())
    storage.delete_files(dataset.filesystem, [_pending(dataset)])
    if storage.is_local(dataset.filesystem):
        for name in ("columns", "tables", "snapshots", "plan", "views", "removed"):  # no run's, no lease's
            for folder in {path.parent for path in Path(dataset.path(name)).rglob(".*.tmp")}:
                sweep(folder, quiet_s=-1.0)
    return done


def _is_of(rows: pa.Table, ids: Collection[str]) -> pa.ChunkedArray:
    """Whether each row names one of the sources."""
    wanted = pa.array(sorted(ids), pa.string())
    found = pa.chunked_array([pa.array([False] * rows.num_rows)])
    for name in _NAMES_IT:
        if name in rows.schema.names:
            own = pc.replace_substring_regex(rows[name], "[-/ ].*", "")
            found = pc.or_(found, pc.fill_null(pc.is_in(own, wanted), False))
    return found


def _rewrite_tables(dataset: Dataset, done: Removed, words: Mapping[str, str]) -> None:
    """Files, tars and snapshots without the sources; then the old ones go."""
    filesystem, root = dataset.filesystem, dataset.root
    ids, newest = set(done.sources), dataset.snapshot
    names = {name: snapshots.named(filesystem, root, name) for name in snapshots.names(filesystem, root)}
    files: dict[str, Merged | None] = {}
    for snapshot in [newest, *(found for found, _ in names.values())]:
        for column, version in snapshot.columns.items():
            _rewrite_version(dataset, Column.parse(column), version, ids, files, done)
    if any(new is None or new.path != old for old, new in files.items()):
        after = _with_files(newest, files, newest.number + 1)
        if not snapshots.publish(filesystem, root, after):
            raise SupersededError(f"snapshot {after.number}")
        dataset.refresh()
    for name, (found, said) in names.items():
        more = {key: said[key] for key in said.keys() - {"number", "columns", "sha256"}}
        more["views"] = json.loads(replaced(json.dumps(more.get("views", {})), words))
        data = snapshots.to_bytes(_with_files(found, files, found.number), **more)
        storage.write_bytes(filesystem, snapshots.named_path(root, name), data)
    clean(dataset, keeps_previous=False)
    _remove_small(dataset)
    named = tars_of(dataset, [dataset.snapshot, *named_snapshots(dataset)])
    tars = storage.list_files(filesystem, dataset.path("columns"), ".tar")
    # the old ones, and those of attempts that died
    storage.delete_files(filesystem, [info.path for info in tars if dataset.relative(info.path) not in named])


def _left_by_searches(dataset: Dataset) -> list[fs.FileInfo]:
    """From these the next search for near-duplicates would go on; without them it looks at all clips."""
    return storage.list_files(dataset.filesystem, dataset.path("keys"), "")


def _remove_small(dataset: Dataset) -> None:
    """Remove parts of attempts that died and of commits taken back: all that counts was merged."""
    gone = []
    for table in storage.list_folders(dataset.filesystem, dataset.path("tables")):
        for name in storage.list_folders(dataset.filesystem, dataset.path("tables", table)):
            if "@" not in name:
                continue
            infos = storage.list_files(dataset.filesystem, dataset.path("tables", table, name), ".parquet")
            gone += [info.path for info in infos if not info.base_name.startswith("merged-")]
    storage.delete_files(dataset.filesystem, gone)


def _with_files(snapshot: Snapshot, files: dict[str, Merged | None], number: int) -> Snapshot:
    columns = {}
    for column, version in snapshot.columns.items():
        tables = {
            name: tuple(new for one in found if (new := files[one.path]) is not None)
            for name, found in version.tables.items()
        }
        columns[column] = replace(version, tables={name: found for name, found in tables.items() if found})
    return Snapshot(number, columns)


@dataclass
class _Change:
    """What the tables of a column version hold of each shard once the sources are gone.

    Attributes:
        shards: of which something has changed.
        rows: by table, rows of each shard.
        kept: clips of each shard that the column keeps.
        lost: clips of each shard that went.
    """

    shards: set[int] = field(default_factory=set)
    rows: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    kept: Counter[int] = field(default_factory=Counter)
    lost: Counter[int] = field(default_factory=Counter)


def _rewrite_version(
    dataset: Dataset,
    column: Column,
    version: Version,
    ids: set[str],
    files: dict[str, Merged | None],
    done: Removed,
) -> None:
    """Write the merged files of a column version anew that have something of the sources."""
    change, regroups = _Change(), None
    if column.name == "dedup":
        groups = version.tables.get("duplicates", ())
        found = read_parts(dataset, "duplicates", [dataset.path(*one.path.split("/")) for one in groups])
        regroups = regrouped(found.to_pylist(), ids)
        change.lost = _clips_of(dataset, ids)
        change.shards.update(change.lost)
    for name, merged in sorted(version.tables.items()):
        for one in merged if name != "shards" else ():
            rows = read_parts(dataset, name, [dataset.path(*one.path.split("/"))])
            is_gone = _is_of(rows, ids)
            gone, kept = rows.filter(is_gone), rows.filter(pc.invert(is_gone))
            change.shards.update(gone["shard"].to_pylist())
            if regroups and name in ("duplicates", "drops"):
                now = without_groups(name, kept, regroups)
                change.shards.update(kept["shard"].to_pylist() if not now.equals(kept) else ())
                kept = now
            change.rows[name].update(kept["shard"].to_pylist())
            change.kept.update(_kept(column, name, kept))
            if one.path in files:
                continue
            done.num_rows += gone.num_rows
            done.num_clips += gone.num_rows if name == "clips" else 0
            is_same = gone.num_rows == 0 and kept.equals(rows)
            files[one.path] = one if is_same else write_merged(dataset, name, column, one, kept)
    for one in version.tables.get("shards", ()):
        if one.path not in files:
            files[one.path] = _rewrite_records(dataset, column, one, ids, change, done)


def _clips_of(dataset: Dataset, ids: set[str]) -> Counter[int]:
    """Clips of the sources by shard, of the preview column that has most of them."""
    found = [Counter[int]()]
    for column in dataset.columns():
        if column.name == "preview":
            rows = scans.table(dataset, "clips", column, ["shard", "source_id"])
            found.append(Counter(rows.filter(_is_of(rows, ids))["shard"].to_pylist()))
    return max(found, key=lambda counts: sum(counts.values()))


def _kept(column: Column, name: str, rows: pa.Table) -> Counter[int]:
    """Clips of each shard that a column keeps, from the rows of one of its tables."""
    if name == "captions":  # a clip is kept that has a caption to draw
        is_drawn = pc.and_(pc.equal(rows["status"], "accepted"), pc.not_equal(rows["kind"], "window"))
        rows = rows.filter(is_drawn)
    elif name != _MAIN.get(column.name):
        return Counter()
    pairs = rows.select(["shard", "clip_id"]).group_by(["shard", "clip_id"]).aggregate([])
    return Counter(pairs["shard"].to_pylist())


def _rewrite_records(
    dataset: Dataset, column: Column, merged: Merged, ids: set[str], change: _Change, done: Removed
) -> Merged | None:
    """A merged file of records with new tars, members and accounts."""
    rows = read_parts(dataset, "shards", [dataset.path(*merged.path.split("/"))])
    found, is_same = list[pa.Table](), True
    for batch in rows.to_batches(max_chunksize=64):
        records = batch.to_pylist()
        for record in records:
            members = [Member(**member) for member in record["members"]]
            if any(_source_of(member.key) in ids for member in members):
                is_same = False
                record.update(_rewrite_tar(dataset, column, record, members, ids, done))
            if record["shard"] in change.shards:
                is_same = False
                record.update(_account(column, record, change))
                for part in record["parts"]:
                    part["rows"] = change.rows[part["table"]][record["shard"]]
        found.append(to_table("shards", records))
    return merged if is_same else write_merged(dataset, "shards", column, merged, pa.concat_tables(found))


def _account(column: Column, record: dict, change: _Change) -> dict[str, int]:
    """What became of the items that are left of a shard."""
    shard = record["shard"]
    dropped, failed = change.rows["drops"][shard], change.rows["failures"][shard]
    if column.name == "dedup":
        kept = max(0, record["num_in"] - change.lost[shard] - dropped)
    else:
        kept = change.kept[shard]
    return {
        "num_in": kept + dropped + failed,
        "num_kept": kept,
        "num_dropped": dropped,
        "num_failed": failed,
    }


def _source_of(clip_id: str) -> str:
    return clip_id.partition("-")[0]


def _rewrite_tar(
    dataset: Dataset, column: Column, record: dict, members: Iterable[Member], ids: set[str], done: Removed
) -> dict:
    """A tar without the members of the sources, and what the record says of it."""
    old, shard = record["tar"], record["shard"]
    source = dataset.path(*old.split("/"))
    is_local = storage.is_local(dataset.filesystem)
    with tempfile.TemporaryDirectory(prefix="rushes-") as scratch:
        beside = storage.temporary_name(source) if is_local else os.path.join(scratch, "shard.tar")
        with TarWriter(Path(beside)) as tar:
            for member in members:
                if _source_of(member.key) in ids:
                    done.num_members += 1
                else:
                    tar.add(member.name, read_member(dataset.filesystem, source, member))
        target = dataset.tar_path(column, shard, tar.sha256)
        storage.publish(dataset.filesystem, Path(beside), target)
    done.tars.add(old)
    return {
        "tar": dataset.relative(target),
        "tar_bytes": tar.size_bytes,
        "tar_sha256": tar.sha256,
        "members": [asdict(member) for member in tar.members],
    }
