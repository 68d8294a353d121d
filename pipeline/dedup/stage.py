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
import ray

from manifests.cli import say
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.tables import scans
from manifests.writing.compact import commit_version
from media.measure.videohash import SAME
from pipeline.config import DedupConfig, fingerprinted
from pipeline.dedup.grouping import Group, Quality, Report
from pipeline.dedup.near_duplicates import Spread, find_groups

CODE_VERSION = 2
_FIELDS = [
    *("clip_id", "shard", "source_id", "uri", "start_s", "end_s"),
    *("num_frames", "width_px", "height_px", "sharpness"),
]
NOT_DUPLICATE = "clip_id NOT IN (SELECT clip_id FROM duplicates WHERE NOT is_kept)"


def on_ray(function: Callable[..., Any], hashes: list[bytes], jobs: list[tuple]) -> list[Any]:
    """Each job a task; the hashes lie once in the object store."""
    task, shared = ray.remote(num_cpus=1, max_retries=3)(function), ray.put(hashes)
    return ray.get([task.remote(shared, *job) for job in jobs])


def groups_of(
    clips: list[dict],
    hashes: dict[str, bytes],
    vectors: dict[str, np.ndarray],
    config: DedupConfig,
    spread: Spread,
) -> tuple[list[Group], Report]:
    """Near-duplicate groups of clips from their rows, video hashes and embeddings (or none)."""
    rows = {row["clip_id"]: row for row in clips}
    quality = {
        clip_id: Quality(
            row["width_px"] * row["height_px"], row["end_s"] - row["start_s"], row["sharpness"] or 0.0
        )
        for clip_id, row in rows.items()
    }

    def may_match(one: str, two: str) -> bool:
        return config.within_source or rows[one]["source_id"] != rows[two]["source_id"]

    known = {clip_id: data for clip_id, data in hashes.items() if clip_id in rows}
    return find_groups(
        known,
        quality,
        {key: value for key, value in vectors.items() if key in rows},
        config.min_cosine,
        may_match,
        spread,
    )


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
    clips = scans.table(dataset, "clips", preview, _FIELDS).sort_by([("shard", "ascending")]).to_pylist()
    hashes = {
        row["clip_id"]: row["video_hash"] for row in scans.table(dataset, "hashes", preview).to_pylist()
    }
    embeddings = scans.table(dataset, "embeddings", embed).to_pylist() if embed else []
    vectors = {row["clip_id"]: np.array(row["vector"], np.float32) for row in embeddings}
    groups, report = groups_of(clips, hashes, vectors, config, spread)
    say(
        f"dedup: {report.clips} clips, {report.candidates} pairs compared, {len(groups)} groups, "
        f"{sum(len(found.others) for found in groups)} near-duplicates"
        + (
            f"; {report.capped_buckets} crowded buckets, {report.comparisons_left_out} comparisons left out"
            if report.capped_buckets
            else ""
        )
    )
    _commit(dataset, column, records, clips, groups, report)
    return column


def _commit(
    dataset: Dataset,
    column: Column,
    records: Sequence[dict],
    clips: list[dict],
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
    rows, drops, num_clips = list[dict](), list[dict](), Counter[int]()
    num_rows, num_drops = Counter[int](), Counter[int]()
    for row in clips:
        shard = row["shard"]
        num_clips[shard] += 1
        if row["clip_id"] not in marks:
            continue
        group_id, is_kept, gap = marks[row["clip_id"]]
        num_rows[shard] += 1
        rows.append(
            {"clip_id": row["clip_id"], "shard": shard, "group_id": group_id}
            | {"is_kept": is_kept, "distance": gap}
        )
        if not is_kept:
            num_drops[shard] += 1
            origin = {
                key: row[key] for key in ("source_id", "uri", "start_s", "end_s", "shard", "num_frames")
            }
            drops.append(
                {
                    **origin,
                    "stage": "dedup",
                    "item_id": f"{row['clip_id']} of {group_id}",
                    "reason": "near_duplicate",
                    "value": gap,
                    "threshold": SAME,
                }
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
