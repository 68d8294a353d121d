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
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from manifests.cli import say
from manifests.errors import IntegrityError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.tables import scans
from manifests.writing.compact import commit_version
from media.measure.videohash import SAME
from pipeline.config import DedupConfig, fingerprinted
from pipeline.dedup import near_duplicates
from pipeline.dedup.grouping import Group, Quality, Report
from pipeline.dedup.near_duplicates import Spread, find_groups

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

    def __init__(self, dataset: Dataset, column: Column) -> None:
        self.dataset, self.column = dataset, column
        rows = _in_order(scans.table(dataset, "hashes", column, ["shard", "clip_id"]))
        self.ids, self._shards = rows["clip_id"].to_pylist(), rows["shard"].to_numpy()
        sources = pc.replace_substring_regex(rows["clip_id"], "-[^-]*$", "").combine_chunks()
        self.sources = sources.dictionary_encode().indices.to_numpy()
        """A number for the source of each clip."""

    def blocks(self) -> list[tuple]:
        """Whole shards, of about as many clips as a task takes."""
        found, begin = list[tuple](), 0
        while begin < len(self.ids):
            last = self._shards[min(begin + near_duplicates.CLIPS_A_TASK, len(self.ids)) - 1]
            end = int(np.searchsorted(self._shards, last, side="right"))
            where = int(self._shards[begin]), int(last)
            found.append((self.dataset.address, str(self.column), *where, end - begin))
            begin = end
        return found

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        address, column, first, last, count = block
        where = (pc.field("shard") >= first) & (pc.field("shard") <= last)
        fields = ["shard", "clip_id", "video_hash"]
        rows = scans.table(Dataset(address), "hashes", Column.parse(column), fields, where)
        found: list[bytes] = _in_order(rows)["video_hash"].to_pylist()
        if len(found) != count:
            raise IntegrityError(
                f"{address} {column}",
                f"has {len(found)} hashes in shards {first} to {last}, it had {count}",
                "Give the command again; nobody may change the dataset meanwhile.",
            )
        return found

    def some(self, numbers: np.ndarray) -> dict[int, bytes]:
        if not len(numbers):
            return {}
        of = {self.ids[number]: int(number) for number in numbers}
        shards = pa.array(np.unique(self._shards[numbers]))
        where = pc.field("shard").isin(shards) & pc.field("clip_id").isin(pa.array(list(of)))
        rows = scans.table(self.dataset, "hashes", self.column, ["clip_id", "video_hash"], where)
        return {of[row["clip_id"]]: row["video_hash"] for row in rows.to_pylist()}


def _in_order(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("shard", "ascending"), ("clip_id", "ascending")])


def groups_of(
    dataset: Dataset,
    preview: Column,
    vectors: dict[str, np.ndarray],
    config: DedupConfig,
    spread: Spread,
) -> tuple[list[Group], Report]:
    """Near-duplicate groups of a preview column's clips, by their video hashes and embeddings (or none)."""
    hashes = Stored(dataset, preview)

    def may_match(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        if config.within_source:
            return np.ones(len(one), bool)
        return np.asarray(hashes.sources[one] != hashes.sources[two])

    def quality(ids: Sequence[str]) -> dict[str, Quality]:
        where = pc.field("clip_id").isin(pa.array(ids, pa.string()))
        fields = ["clip_id", "width_px", "height_px", "start_s", "end_s", "sharpness"]
        return {
            row["clip_id"]: Quality(
                row["width_px"] * row["height_px"], row["end_s"] - row["start_s"], row["sharpness"] or 0.0
            )
            for row in scans.table(dataset, "clips", preview, fields, where).to_pylist()
        }

    known = set(hashes.ids) if vectors else set()
    own = {key: value for key, value in vectors.items() if key in known}
    return find_groups(hashes, quality, own, config.min_cosine, may_match, spread)


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
        "|".join(
            part["sha256"] for row in inputs_of for part in row["parts"] if part["table"] in read
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
    embeddings = scans.table(dataset, "embeddings", embed).to_pylist() if embed else []
    vectors = {row["clip_id"]: np.array(row["vector"], np.float32) for row in embeddings}
    groups, report = groups_of(dataset, preview, vectors, config, spread)
    say(
        f"dedup: {report.clips} clips, {report.candidates} pairs compared, {len(groups)} groups, "
        f"{sum(len(found.others) for found in groups)} near-duplicates"
        + (
            f"; {report.capped_buckets} crowded buckets, {report.comparisons_left_out} comparisons left out"
            if report.capped_buckets
            else ""
        )
    )
    _commit(dataset, column, preview, records, groups, report)
    return column


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
    made = [
        {
            "column": column.name,
            "fingerprint": column.fingerprint,
            "shard": record["shard"],
            "generation": record["generation"],
            "num_in": num_clips[record["shard"]],
            "num_kept": num_clips[record["shard"]] - num_drops[record["shard"]],
            "num_dropped": num_drops[record["shard"]],
            "num_failed": 0,
            "stats_json": told,
            "members": [],
            "parts": [
                {"table": "drops", "rows": num_drops[record["shard"]], "sha256": ""},
                {"table": "duplicates", "rows": num_rows[record["shard"]], "sha256": ""},
                {"table": "failures", "rows": 0, "sha256": ""},
            ],
        }
        for record in records
    ]
    commit_version(
        dataset,
        column,
        {
            "shards": to_table("shards", made),
            "duplicates": to_table("duplicates", rows),
            "drops": to_table("drops", drops),
        },
    )
