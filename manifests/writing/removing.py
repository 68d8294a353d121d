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
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from manifests import snapshots
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.snapshots import Merged, Snapshot, Version
from manifests.store import storage
from manifests.store.json_files import read_object
from manifests.store.shards import Member, TarWriter, read_member
from manifests.tables.parts import read_part
from manifests.tables.records import each_record
from manifests.writing.commit import sweep
from manifests.writing.compact import clean, compact, write_merged
from manifests.writing.regrouping import regrouped, without_groups
from manifests.writing.scrubbing import scrub_plan, scrub_texts

_NAMES_IT = ("source_id", "clip_id", "segment_id", "item_id")
_MAIN = {"preview": "clips", "embed": "embeddings", "caption": "captions", "text": "text"} | {
    "latent": "latents"
}
"""The table of a column in which each clip that it kept has a row."""


@dataclass
class Removed:
    """What a takedown did."""

    sources: list[str]
    num_clips: int = 0
    num_rows: int = 0
    num_members: int = 0
    tars: dict[str, str] = field(default_factory=dict)
    """By the path of each tar that was written anew: that of the new one; empty where nothing was left."""
    runs: list[str] = field(default_factory=list)
    """Trainings that had read of it."""


def token(source_id: str) -> str:
    """What stands for a source that was removed: nothing leads back from it to the id."""
    return "removed-" + hashlib.sha256(source_id.encode()).hexdigest()[:16]


def _pending(dataset: Dataset) -> str:
    return dataset.path("removed", "pending.json")


def _done(dataset: Dataset) -> str:
    return dataset.path("removed", "done.json")


def pending(dataset: Dataset) -> dict[str, str]:
    """Sources that are to go and their addresses: a takedown that has not ended."""
    if not storage.exists(dataset.filesystem, _pending(dataset)):
        return {}
    found: dict[str, str] = read_object(dataset.filesystem, _pending(dataset), keys=("sources",))["sources"]
    return found


def tokens(dataset: Dataset) -> set[str]:
    """Tokens of all sources that were removed."""
    if not storage.exists(dataset.filesystem, _done(dataset)):
        return set()
    found = read_object(dataset.filesystem, _done(dataset), keys=("removed",))["removed"]
    return {row["token"] for row in found}


def remove(dataset: Dataset, sources: dict[str, str], reason: str = "") -> Removed:
    """Take sources down, and those of a takedown that has not ended.

    Args:
        sources: their ids, and the address of each.
        reason: kept with their tokens.
    """
    sources = pending(dataset) | sources
    done = Removed(sorted(sources))
    if not sources:
        return done
    note = {"sources": sources, "reason": reason}
    storage.write_bytes(dataset.filesystem, _pending(dataset), json.dumps(note).encode())
    compact(dataset)
    _rewrite_tables(dataset, done)
    scrub_plan(dataset, set(sources))
    words = {word: token(key) for key, uri in sources.items() for word in (key, uri) if word}
    done.runs = scrub_texts(dataset, words)
    before = (
        read_object(dataset.filesystem, _done(dataset))["removed"]
        if storage.exists(dataset.filesystem, _done(dataset))
        else []
    )
    own = {"reason": reason, "removed_s": round(time.time(), 3), "read_by": done.runs}
    rows = before + [{"token": token(key), **own} for key in sorted(sources)]
    storage.write_bytes(dataset.filesystem, _done(dataset), json.dumps({"removed": rows}, indent=1).encode())
    storage.delete_files(dataset.filesystem, [_pending(dataset)])
    if storage.is_local(dataset.filesystem):
        for folder in {path.parent for path in Path(dataset.root).rglob(".*.tmp")}:
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


def _rewrite_tables(dataset: Dataset, done: Removed) -> None:
    """Files, tars and snapshots without the sources; then the old ones go."""
    filesystem, root = dataset.filesystem, dataset.root
    ids, newest = set(done.sources), dataset.snapshot
    names = {name: snapshots.named(filesystem, root, name) for name in snapshots.names(filesystem, root)}
    files: dict[str, Merged | None] = {}
    versions = [
        (column, version)
        for snapshot in [newest, *(found for found, _ in names.values())]
        for column, version in snapshot.columns.items()
    ]
    for column, version in versions:
        _rewrite_version(dataset, Column.parse(column), version, ids, files, done)
    if any(new is None or new.path != old for old, new in files.items()):
        after = _with_files(newest, files, newest.number + 1)
        if not snapshots.publish(filesystem, root, after):
            raise RuntimeError(f"snapshot {after.number} was published by another")
        for name, (found, said) in names.items():
            more = {key: said[key] for key in said.keys() - {"number", "columns", "sha256"}}
            data = snapshots.to_bytes(_with_files(found, files, found.number), **more)
            storage.write_bytes(filesystem, snapshots.named_path(root, name), data)
        dataset.refresh()
    clean(dataset, keeps_previous=False)
    _remove_tars(dataset, [dataset.snapshot, *(snapshots.named(filesystem, root, name)[0] for name in names)])


def _remove_tars(dataset: Dataset, kept: list[Snapshot]) -> None:
    """Remove tars that no record names: the old ones, and those of attempts that died."""
    named = set[str]()
    for snapshot in kept:
        for version in snapshot.columns.values():
            for one in version.tables.get("shards", ()):
                rows = read_part(dataset, dataset.path(*one.path.split("/")), ["tar"])
                named.update(rows["tar"].drop_null().to_pylist())
    tars = storage.list_files(dataset.filesystem, dataset.path("columns"), ".tar")
    gone = [info.path for info in tars if dataset.relative(info.path) not in named]
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


def _rewrite_version(
    dataset: Dataset,
    column: Column,
    version: Version,
    ids: set[str],
    files: dict[str, Merged | None],
    done: Removed,
) -> None:
    """Write the merged files of a column version anew that have something of the sources."""
    lost: dict[str, Counter[int]] = defaultdict(Counter)
    regroups = None
    if column.name == "dedup":
        groups = version.tables.get("duplicates", ())
        found = [read_part(dataset, dataset.path(*one.path.split("/"))) for one in groups]
        regroups = regrouped(pa.concat_tables(found).to_pylist() if found else [], ids)
    for name, merged in sorted(version.tables.items(), key=lambda item: item[0] == "shards"):
        for one in merged:
            if name == "shards":
                if one.path not in files:
                    files[one.path] = _rewrite_records(dataset, column, one, ids, lost, done)
                continue
            rows = read_part(dataset, dataset.path(*one.path.split("/")))
            is_gone = _is_of(rows, ids)
            gone = rows.filter(is_gone)
            _count(column, name, gone, lost)
            kept = rows.filter(pc.invert(is_gone))
            if regroups is not None and name in ("duplicates", "drops"):
                before = kept.num_rows
                kept = without_groups(name, kept, regroups)
                lost["regrouped"].update(kept["shard"].to_pylist() if kept.num_rows != before else [])
            if one.path in files:
                continue
            done.num_rows += gone.num_rows
            done.num_clips += gone.num_rows if name == "clips" else 0
            is_same = gone.num_rows == 0 and kept.equals(rows)
            files[one.path] = one if is_same else write_merged(dataset, name, column, one, kept)


def _count(column: Column, name: str, gone: pa.Table, lost: dict[str, Counter[int]]) -> None:
    """Items of each shard that go, by what had become of them."""
    if not gone.num_rows:
        return
    if name == _MAIN.get(column.name):
        pairs = set(zip(gone["shard"].to_pylist(), gone["clip_id"].to_pylist(), strict=True))
        lost["kept"].update(shard for shard, _ in pairs)
    elif name in ("drops", "failures"):
        lost["dropped" if name == "drops" else "failed"].update(gone["shard"].to_pylist())
    lost[name].update(gone["shard"].to_pylist())


def _rewrite_records(
    dataset: Dataset,
    column: Column,
    merged: Merged,
    ids: set[str],
    lost: dict[str, Counter[int]],
    done: Removed,
) -> Merged | None:
    """A merged file of records with new tars, members and accounts."""
    rows = read_part(dataset, dataset.path(*merged.path.split("/")))
    records, is_same = list[dict](), True
    for record in each_record(rows):
        shard = record["shard"]
        members = [Member(**member) for member in record["members"]]
        has_some = any(_source_of(member.key) in ids for member in members)
        if has_some:
            record.update(_rewrite_tar(dataset, column, record, members, ids, done))
        if has_some or any(counts[shard] for counts in lost.values()):
            is_same = False
            if record["num_in"]:
                kept = max(0, record["num_kept"] - lost["kept"][shard])
                if column.name == "caption":  # clips that a rejection dropped have rows of captions too
                    kept = max(0, record["num_kept"] - lost["kept"][shard] + lost["dropped"][shard])
                dropped = max(0, record["num_dropped"] - lost["dropped"][shard])
                failed = max(0, record["num_failed"] - lost["failed"][shard])
                record.update(num_kept=kept, num_dropped=dropped, num_failed=failed)
                record["num_in"] = kept + dropped + failed
            for part in record["parts"]:
                part["rows"] = max(0, part["rows"] - lost[part["table"]][shard])
        records.append(record)
    return merged if is_same else write_merged(dataset, "shards", column, merged, to_table("shards", records))


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
    done.tars[old] = dataset.relative(target)
    return {
        "tar": dataset.relative(target),
        "tar_bytes": tar.size_bytes,
        "tar_sha256": tar.sha256,
        "members": [asdict(member) for member in tar.members],
    }
