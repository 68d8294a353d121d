"""The `dedup` column: which clips of the whole dataset are near-duplicates of which.

Unlike the other stages this one looks at all shards at once, so it runs after them: candidates by banded
search and distances as Ray tasks, groups on the driver, then one part per shard. Nothing is deleted: groups
are rows, the view's predicate leaves out what is not kept, and another predicate brings it back. The column's
name holds a digest of the clips it compared, so new footage makes a new version beside the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray

from manifests import queries
from manifests.cli import say
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.writing.commit import Account, ShardCommit, SupersededError
from media.measure.videohash import SAME
from pipeline.config import DedupConfig, fingerprinted
from pipeline.dedup.grouping import Group, Quality, Report
from pipeline.dedup.near_duplicates import Spread, find_groups

CODE_VERSION = 2
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


def dedup(
    dataset: Dataset, preview: Column, embed: Column | None, config: DedupConfig, spread: Spread = on_ray
) -> Column | None:
    """Find the near-duplicates of all clips of the preview column and commit them.

    Returns the column; None where there is no clip yet.
    """
    records = sorted(queries.table(dataset, "shards", preview).to_pylist(), key=lambda row: row["shard"])
    if not records:
        return None
    inputs_of = records + (
        sorted(queries.table(dataset, "shards", embed).to_pylist(), key=lambda row: row["shard"])
        if embed
        else []
    )
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
    missing = [row for row in records if not dataset.is_committed(column, row["shard"])]
    if not missing:
        return column
    clips = queries.table(dataset, "clips", preview).to_pylist()
    hashes = {
        row["clip_id"]: row["video_hash"] for row in queries.table(dataset, "hashes", preview).to_pylist()
    }
    embeddings = queries.table(dataset, "embeddings", embed).to_pylist() if embed else []
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
    _commit(dataset, column, missing, clips, groups, report)
    return column


def _commit(
    dataset: Dataset,
    column: Column,
    records: Sequence[dict],
    clips: list[dict],
    groups: list[Group],
    report: Report,
) -> None:
    marks: dict[str, tuple[str, bool, float | None]] = {}
    for found in groups:
        marks[found.kept] = (found.kept, True, 0.0)
        marks |= {
            other: (found.kept, False, None if math.isnan(gap) else gap)
            for other, gap in zip(found.others, found.distances, strict=True)
        }
    for record in records:
        own = [row for row in clips if row["shard"] == record["shard"]]
        rows, drops = [], []
        for row in own:
            if row["clip_id"] not in marks:
                continue
            group_id, is_kept, gap = marks[row["clip_id"]]
            rows.append(
                {
                    "clip_id": row["clip_id"],
                    "shard": row["shard"],
                    "group_id": group_id,
                    "is_kept": is_kept,
                    "distance": gap,
                }
            )
            if not is_kept:
                origin = {
                    key: row[key] for key in ("source_id", "uri", "start_s", "end_s", "shard", "num_frames")
                }
                item = f"{row['clip_id']} of {group_id}"
                drops.append(
                    {
                        **origin,
                        "stage": "dedup",
                        "item_id": item,
                        "reason": "near_duplicate",
                        "value": gap,
                        "threshold": SAME,
                    }
                )
        with (
            contextlib.suppress(SupersededError),
            ShardCommit(dataset, column, record["shard"], record["generation"]) as commit,
        ):
            account = Account(len(own), len(own) - len(drops), len(drops), 0)
            commit.commit({"duplicates": rows, "drops": drops, "failures": []}, account, vars(report))
