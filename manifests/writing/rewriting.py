"""Merged files and tars of a column version without some sources, read and written a little at a time."""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.snapshots import Merged, Snapshot, Version
from manifests.store import storage
from manifests.store.shards import Member, TarWriter, read_member
from manifests.tables import scans
from manifests.tables.ids import source_of
from manifests.tables.streams import rows_of, whole_shards
from manifests.writing.compact import sound, write_merged
from manifests.writing.regrouping import Regroups, regrouped, without_groups

_RECORDS_AT_ONCE = 8
_GROUPED = ("duplicates", "drops")
_BY_LOSS = ("dedup", "score")
"""Columns whose tables do not name each clip that they keep: of those that came in the rest is kept."""
_NAMES_IT = ("source_id", "clip_id", "segment_id", "item_id")
_MAIN = {"preview": "clips", "embed": "embeddings", "text": "text", "latent": "latents"}
_MAIN |= {"verdict": "verdicts", "map": "map"}
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


def _names_one(names: pa.ChunkedArray, ids: Collection[str]) -> pa.ChunkedArray:
    """Whether each id of a clip, a segment or an item, or name of a member, is one of the sources'."""
    own = pc.replace_substring_regex(names, "[-./ ].*", "")
    return pc.fill_null(pc.is_in(own, pa.array(sorted(ids), pa.string())), False)


def _is_of(rows: pa.Table, ids: Collection[str]) -> pa.ChunkedArray:
    """Whether each row names one of the sources."""
    found = pa.chunked_array([pa.array([False] * rows.num_rows)])
    for name in _NAMES_IT:
        if name in rows.schema.names:
            found = pc.or_(found, _names_one(rows[name], ids))
    return found


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


def rewrite_version(
    dataset: Dataset,
    snapshot: Snapshot,
    column: Column,
    ids: set[str],
    files: dict[str, Merged | None],
    done: Removed,
) -> None:
    """Write the merged files of a column version of a snapshot anew that have something of the sources.

    Args:
        files: what became of those that were looked at, by their path; grows.

    Raises:
        IntegrityError: a file is damaged.
    """
    change, regroups, version = _Change(), Regroups(), snapshot.version(column)
    sound(dataset, [one for found in version.tables.values() for one in found if one.path not in files])
    if column.name in _BY_LOSS:
        change.lost = _clips_of(dataset, snapshot, ids)
        change.shards.update(change.lost)
    if column.name == "dedup":
        regroups = _regroups(dataset, version, ids)
    for name, merged in sorted(version.tables.items()):
        for one in merged if name != "shards" else ():
            num_gone, is_same = 0, True
            for rows, gone, kept in _left(dataset, name, one, ids, regroups):
                num_gone += gone.num_rows
                is_same = is_same and not gone.num_rows and (name not in _GROUPED or kept.equals(rows))
                change.shards.update(gone["shard"].to_pylist())
                if regroups and name in _GROUPED:
                    change.shards.update(_changed(rows, kept))
                change.rows[name].update(kept["shard"].to_pylist())
                change.kept.update(_kept(column, name, kept))
            if one.path in files:
                continue
            done.num_rows += num_gone
            done.num_clips += num_gone if name == "clips" else 0
            now = (kept for _, _, kept in _left(dataset, name, one, ids, regroups))
            files[one.path] = one if is_same else write_merged(dataset, name, column, one, now)
    for one in version.tables.get("shards", ()):
        if one.path not in files:
            files[one.path] = _rewrite_records(dataset, column, one, ids, change, done)


def _regroups(dataset: Dataset, version: Version, ids: set[str]) -> Regroups:
    """What changes in the groups of near-duplicates that have a clip of the sources."""
    paths = [dataset.path(*one.path.split("/")) for one in version.tables.get("duplicates", ())]
    groups = set[str]()
    for rows in rows_of(dataset, "duplicates", paths):
        groups.update(rows.filter(_is_of(rows, ids))["group_id"].to_pylist())
    if not groups:
        return {}
    where = pc.field("group_id").isin(pa.array(sorted(groups)))
    found = [row for rows in rows_of(dataset, "duplicates", paths, where) for row in rows.to_pylist()]
    return regrouped(found, ids, _seconds_of(dataset, [row["clip_id"] for row in found]))


def _seconds_of(dataset: Dataset, clips: Sequence[str]) -> dict[str, float]:
    where = pc.field("clip_id").isin(pa.array(clips, pa.string()))
    rows = scans.table(dataset, "clips", None, ["clip_id", "start_s", "end_s"], where).to_pylist()
    return {row["clip_id"]: row["end_s"] - row["start_s"] for row in rows}


def _left(
    dataset: Dataset, name: str, merged: Merged, ids: set[str], regroups: Regroups
) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
    """The rows of a merged file, some shards' at a time; those of the sources; what is left without them."""
    for rows in whole_shards(rows_of(dataset, name, [dataset.path(*merged.path.split("/"))])):
        is_gone = _is_of(rows, ids)
        kept = rows.filter(pc.invert(is_gone))
        yield rows, rows.filter(is_gone), without_groups(name, kept, regroups) if name in _GROUPED else kept


def _changed(rows: pa.Table, kept: pa.Table) -> set[int]:
    """Shards of which the groups are others now."""
    if kept.equals(rows):
        return set()
    shards = set(rows["shard"].to_pylist())

    def of(table: pa.Table, shard: int) -> pa.Table:
        return table.filter(pc.equal(table["shard"], shard))

    return {shard for shard in shards if not of(rows, shard).equals(of(kept, shard))}


def _clips_of(dataset: Dataset, snapshot: Snapshot, ids: set[str]) -> Counter[int]:
    """Clips of the sources by shard, of a snapshot's preview column that has most of them."""
    found = [Counter[int]()]
    for name, version in snapshot.columns.items():
        if Column.parse(name).name == "preview":
            paths = [dataset.path(*one.path.split("/")) for one in version.tables.get("clips", ())]
            counts = Counter[int]()
            for rows in rows_of(dataset, "clips", paths):
                counts.update(rows.filter(_is_of(rows, ids))["shard"].to_pylist())
            found.append(counts)
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
    paths = [dataset.path(*merged.path.split("/"))]
    shards = pa.array(sorted(change.shards), pa.int64())

    def is_changed(rows: pa.Table) -> bool:
        members = pc.struct_field(pc.list_flatten(rows["members"]), "name")
        in_account = pc.is_in(rows["shard"].cast(pa.int64()), shards)
        return bool(pc.any(in_account).as_py() or pc.any(_names_one(members, ids)).as_py())

    def now() -> Iterator[pa.Table]:
        for rows in rows_of(dataset, "shards", paths):
            for begin in range(0, len(rows), _RECORDS_AT_ONCE):
                some = rows[begin : begin + _RECORDS_AT_ONCE]
                yield _new_records(dataset, column, some, ids, change, done) if is_changed(some) else some

    if not any(is_changed(rows) for rows in rows_of(dataset, "shards", paths)):
        return merged
    return write_merged(dataset, "shards", column, merged, now())


def _new_records(
    dataset: Dataset, column: Column, rows: pa.Table, ids: set[str], change: _Change, done: Removed
) -> pa.Table:
    """Records with new tars, members and accounts."""
    records = rows.to_pylist()
    for record in records:
        members = [Member(**member) for member in record["members"]]
        if any(source_of(member.key) in ids for member in members):
            record.update(_rewrite_tar(dataset, column, record, members, ids, done))
        if record["shard"] in change.shards:
            record.update(_account(column, record, change))
            for part in record["parts"]:
                part["rows"] = change.rows[part["table"]][record["shard"]]
    return to_table("shards", records)


def _account(column: Column, record: dict, change: _Change) -> dict[str, int]:
    """What became of the items that are left of a shard."""
    shard = record["shard"]
    dropped, failed = change.rows["drops"][shard], change.rows["failures"][shard]
    if column.name in _BY_LOSS:
        kept = max(0, record["num_in"] - change.lost[shard] - dropped - failed)
    else:
        kept = change.kept[shard]
    return {
        "num_in": kept + dropped + failed,
        "num_kept": kept,
        "num_dropped": dropped,
        "num_failed": failed,
    }


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
                if source_of(member.key) in ids:
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
