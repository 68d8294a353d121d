"""The `dedup` column: which clips of the whole dataset are near-duplicates of which.

Unlike the other stages this one looks at all shards at once, so it runs after them: candidates by banded
search and distances as Ray tasks, groups on the driver, then one commit of all shards. Nothing is deleted:
groups are rows, the view's predicate leaves out what is not kept, and another predicate brings it back. The
column's name holds a digest of the clips it compared, so new footage makes a new version beside the old one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from manifests.cli import say
from manifests.errors import IntegrityError, RushesError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.tables import scans
from manifests.tables.ids import source_of
from manifests.writing.compact import commit_version, record
from media.measure.videohash import SAME
from pipeline.config import DedupConfig, fingerprinted
from pipeline.dedup import near_duplicates
from pipeline.dedup.embeddings import Vectors
from pipeline.dedup.grouping import Group, Quality, Report
from pipeline.dedup.kept import Kept
from pipeline.dedup.known import Known, forget, recall
from pipeline.dedup.known import keep as write_rest
from pipeline.dedup.near_duplicates import Matches, Spread, find_groups

CODE_VERSION = 2
_FIELDS = [
    *("clip_id", "shard", "source_id", "uri", "start_s", "end_s"),
    "num_frames",
]
NOT_DUPLICATE = "clip_id NOT IN (SELECT clip_id FROM duplicates WHERE NOT is_kept)"


def on_ray(function: Callable[..., Any], jobs: Sequence[tuple], returns: int = 1) -> list[Any]:
    """Each job a task; what has several values stays in Ray's object store, which spills it to disks."""
    task = ray.remote(num_cpus=1, max_retries=3, num_returns=returns)(function)
    found = [task.remote(*job) for job in jobs]
    return found if returns > 1 else ray.get(found)


class Stored:
    """The hashes of a preview column, read by ranges of shards where they are needed."""

    def __init__(self, dataset: Dataset, column: Column, shards: Sequence[int] | None = None) -> None:
        """Args: shards: whose clips are searched for; None takes all."""
        self.dataset, self.column = dataset, column
        where = None if shards is None else pc.field("shard").isin(pa.array(shards, pa.int32()))
        rows = _in_order(scans.table(dataset, "hashes", column, ["shard", "clip_id"], where))
        self.ids, self.shards = rows["clip_id"].to_pylist(), rows["shard"].to_numpy()

    def blocks(self) -> list[tuple]:
        """Whole shards, of about as many clips as a task takes."""
        found, begin = list[tuple](), 0
        while begin < len(self.ids):
            last = self.shards[min(begin + near_duplicates.CLIPS_A_TASK, len(self.ids)) - 1]
            end = int(np.searchsorted(self.shards, last, side="right"))
            where = np.unique(self.shards[begin:end]).tolist()
            found.append((self.dataset.address, str(self.column), where, end - begin))
            begin = end
        return found

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        address, column, shards, count = block
        where = pc.field("shard").isin(pa.array(shards, pa.int32()))
        fields = ["shard", "clip_id", "video_hash"]
        rows = scans.table(Dataset(address), "hashes", Column.parse(column), fields, where)
        found: list[bytes] = _in_order(rows)["video_hash"].to_pylist()
        if len(found) != count:
            raise IntegrityError(
                f"{address} {column}",
                f"has {len(found)} hashes in shards {shards[0]} to {shards[-1]}, it had {count}",
                "Give the command again; nobody may change the dataset meanwhile.",
            )
        return found

    def some(self, clips: Mapping[str, int]) -> dict[str, bytes]:
        if not clips:
            return {}
        shards = pa.array(sorted(set(clips.values())), pa.int32())
        where = pc.field("shard").isin(shards) & pc.field("clip_id").isin(pa.array(list(clips)))
        rows = scans.table(self.dataset, "hashes", self.column, ["clip_id", "video_hash"], where)
        return {row["clip_id"]: row["video_hash"] for row in rows.to_pylist()}


def _in_order(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("shard", "ascending"), ("clip_id", "ascending")])


def groups_of(
    dataset: Dataset,
    preview: Column,
    vectors: Vectors | None,
    config: DedupConfig,
    spread: Spread,
    known: Known | None = None,
    keep: Kept | None = None,
    shards: Sequence[int] | None = None,
) -> tuple[list[Group], Matches, Report, Stored]:
    """Near-duplicate groups of a preview column's clips, by their video hashes and embeddings (or none).

    Args:
        known, keep: see `find_groups`.
        shards: whose clips are new; None takes all.
    """
    hashes = Stored(dataset, preview, shards)

    def may_match(one: Sequence[str], two: Sequence[str]) -> np.ndarray:
        if config.within_source:
            return np.ones(len(one), bool)
        pairs = zip(one, two, strict=True)
        return np.array([source_of(first) != source_of(second) for first, second in pairs], bool)

    def quality(ids: Sequence[str]) -> dict[str, Quality]:
        where = pc.field("clip_id").isin(pa.array(ids, pa.string()))
        fields = ["clip_id", "width_px", "height_px", "start_s", "end_s", "sharpness"]
        return {
            row["clip_id"]: Quality(
                row["width_px"] * row["height_px"], row["end_s"] - row["start_s"], row["sharpness"] or 0.0
            )
            for row in scans.table(dataset, "clips", preview, fields, where).to_pylist()
        }

    found = find_groups(hashes, quality, vectors, config.min_cosine, may_match, spread, known, keep)
    return *found, hashes


def _records(dataset: Dataset, column: Column) -> list[dict]:
    rows = scans.table(dataset, "shards", column, ["shard", "generation", "parts"])
    return sorted(rows.to_pylist(), key=lambda row: row["shard"])


def dedup(
    dataset: Dataset, preview: Column, embed: Column | None, config: DedupConfig, spread: Spread = on_ray
) -> Column | None:
    """Find the near-duplicates of all clips of the preview column and commit them.

    Returns the column; None where there is no clip yet.
    """
    records = _records(dataset, preview)
    if not records:
        return None
    inputs_of = records + (_records(dataset, embed) if embed else [])
    read = {"clips", "hashes", "embeddings"}
    covered = hashlib.sha256(
        "|".join(  # a takedown leaves fewer rows, and groups that are to be looked for again
            f"{part['sha256']} {part['rows']}"
            for row in inputs_of
            for part in row["parts"]
            if part["table"] in read
        ).encode()
    )
    inputs = {
        "preview": preview.fingerprint,
        "embed": embed.fingerprint if embed else "",
        "clips": covered.hexdigest(),
    }
    column = Column("dedup", fingerprint("dedup", CODE_VERSION, fingerprinted(config), inputs))
    if {row["shard"] for row in records} <= set(dataset.committed_shards(column)):
        return column
    settings, digests = column_settings(inputs, config), _digests(inputs_of, read)
    known, vectors = recall(dataset, settings, digests), _vectors(dataset, embed, preview)
    name = f"{column}-{len(known.chain)}"  # of the same clips there may be a search in the chain already
    keep = Kept(dataset, name)
    forget(dataset, name)  # of a search that died, or that is made again

    def search() -> tuple[list[Group], Matches, Report, Stored]:
        shards = sorted(digests.keys() - set().union(*known.shards))
        return groups_of(dataset, preview, vectors, config, spread, known, keep, shards)

    try:
        groups, matches, report, hashes = search()
    except (OSError, pa.ArrowException, RushesError, LookupError, ValueError) as error:
        if not known.chain:
            raise
        say(f"dedup: what the last search left cannot be used, so all clips are searched ({error})")
        known = Known()
        groups, matches, report, hashes = search()
    new = sorted(digests.keys() - set().union(*known.shards))
    num_known = sum(one.num_clips for one in known.chain)
    say(
        f"dedup: {report.clips} {'new ' if num_known else ''}clips"
        + (f" against {num_known}" if num_known else "")
        + f", {report.candidates} pairs compared, {len(groups)} groups, "
        f"{sum(len(found.others) for found in groups)} near-duplicates"
        + (
            f"; {report.capped_buckets} crowded buckets, {report.comparisons_left_out} comparisons left out"
            if report.capped_buckets
            else ""
        )
    )
    _commit(dataset, column, preview, records, groups, report)
    clips = pa.table(
        {"clip_id": pa.array(hashes.ids, pa.string()), "shard": pa.array(hashes.shards, pa.int32())}
    )
    write_rest(keep, settings, known, {shard: digests[shard] for shard in new}, clips, matches, groups)
    return column


def column_settings(inputs: Mapping[str, str], config: DedupConfig) -> str:
    """What searches must have in common for one to go on from the other."""
    same = {name: value for name, value in inputs.items() if name != "clips"}
    return fingerprint("dedup", CODE_VERSION, fingerprinted(config), same)


def _digests(records: Sequence[dict], tables: Collection[str]) -> dict[int, str]:
    """By shard, a digest of all that a search reads of it."""
    parts = defaultdict[int, list[str]](list)
    for row in records:
        parts[row["shard"]] += [part["sha256"] for part in row["parts"] if part["table"] in tables]
    return {shard: hashlib.sha256("|".join(own).encode()).hexdigest() for shard, own in parts.items()}


def _vectors(dataset: Dataset, embed: Column | None, preview: Column) -> Vectors | None:
    """Embeddings of the clips that the preview column has."""
    if embed is None:
        return None
    rows = scans.table(dataset, "embeddings", embed, ["clip_id", "vector"])
    there = scans.table(dataset, "clips", preview, ["clip_id"])["clip_id"].combine_chunks()
    rows = rows.filter(pc.is_in(rows["clip_id"], there)).sort_by("clip_id").combine_chunks()
    flat = pc.list_flatten(rows["vector"]).to_numpy().astype(np.float32)
    return Vectors(rows["clip_id"].to_pylist(), flat.reshape(rows.num_rows, -1)) if rows.num_rows else None


def _commit(
    dataset: Dataset,
    column: Column,
    preview: Column,
    records: Sequence[dict],
    groups: list[Group],
    report: Report,
) -> None:
    """All shards at once: a part for each would be thousands of small files at every new footage."""
    marks: dict[str, tuple[str, bool, float | None]] = {}
    for found in groups:
        marks[found.kept] = (found.kept, True, 0.0)
        marks |= {
            other: (found.kept, False, None if math.isnan(gap) else gap)
            for other, gap in zip(found.others, found.distances, strict=True)
        }
    where = pc.field("clip_id").isin(pa.array(sorted(marks), pa.string()))
    marked = scans.table(dataset, "clips", preview, _FIELDS, where).sort_by([("shard", "ascending")])
    counts = scans.table(dataset, "clips", preview, ["shard"])["shard"].value_counts().to_pylist()
    num_clips = Counter({item["values"]: item["counts"] for item in counts})
    rows, drops = list[dict](), list[dict]()
    num_rows, num_drops = Counter[int](), Counter[int]()
    for row in marked.to_pylist():
        shard = row["shard"]
        group_id, is_kept, gap = marks[row["clip_id"]]
        num_rows[shard] += 1
        rows.append(
            {"clip_id": row["clip_id"], "shard": shard, "group_id": group_id}
            | {"is_kept": is_kept, "distance": gap}
        )
        if not is_kept:
            num_drops[shard] += 1
            drops.append(
                {key: row[key] for key in ("source_id", "uri", "start_s", "end_s", "shard", "num_frames")}
                | {"stage": "dedup", "item_id": f"{row['clip_id']} of {group_id}"}
                | {"reason": "near_duplicate", "value": gap, "threshold": SAME}
            )
    told = json.dumps(vars(report), sort_keys=True)
    made = []
    for own in records:
        shard = own["shard"]
        counts = num_clips[shard], num_clips[shard] - num_drops[shard], num_drops[shard], 0
        parts = {"drops": num_drops[shard], "duplicates": num_rows[shard], "failures": 0}
        made.append(record(column, shard, own["generation"], counts, parts, told))
    commit_version(
        dataset,
        column,
        {
            "shards": to_table("shards", made),
            "duplicates": to_table("duplicates", rows),
            "drops": to_table("drops", drops),
        },
    )
